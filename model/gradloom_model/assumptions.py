"""What a cost is computed for: the machine, the batch, and how things are counted."""

from dataclasses import dataclass, fields, replace

from gradloom_golden.config import Config

__all__ = ["Assumptions"]

CHOICES = {
    "folds": ("serial", "chained", "hidden", "ideal"),
    "taps": ("first", "never", "always"),
    "groups": ("diagonal", "dense"),
    "stationary": ("best", "x", "d"),
    "partial_sums": ("read+write", "write", "edge"),
    "padding": ("counted", "free"),
    "optimizer": ("momentum", "sgd"),
}
"""Values of the options that are words; the first of each is the default, but for `folds`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """One machine, one batch, and the rules of counting; printed with every result.

    Parameters
    ----------
    rows, columns : int
        Edges of the array: k side and n side of a weight tile.
    batch : int
        Samples of a training step.
    skip : float
        Share of the samples that schedules with skip leave out of the backward pass.
    lanes : int
        Activations in a word (1, 2, 4 of 8, 4, 2 bits) in schedules with lanes.
    folds : str
        "serial": every tile pays its load, its skew and, if `os_drain`, its drain (SCALE-Sim).
        "chained": a drain shares its shifts with the next load, the rest shows (this machine
        without overlap). "hidden": loads and drains hide behind tiles of 2R slots and more (this
        machine with overlap). "ideal": behind tiles of any length.
    os_drain : bool
        Serial output-stationary tiles take R cycles to leave.
    taps : str
        Whether taps of a kernel share the rows of a tile: in the "first" layers, whose inputs
        have few channels and need no gradient; "never"; "always", as after im2col.
    groups : str
        "diagonal": a tile holds as many groups of a grouped convolution as fit side by side.
        "dense": all inputs meet all outputs, as this machine's compiler does.
    stationary : str
        Operand that a weight-stationary weight gradient holds: "x", "d", or the "best" by cycles.
    steps : int or None
        Most rows that a weight-stationary pass streams before its sums leave; None: any number.
    partial_sums : str
        Sums of unfinished tiles are a "read+write" of a buffer, only a "write", or kept in
        registers at the "edge" and no access at all.
    padding : str
        Whether what fills the last tiles is read and written like all else ("counted"), or only
        what exists is ("free").
    update : bool
        Count the update of the weights, in cycles and accesses.
    update_cycles : int
        Cycles of an update that is not fused, for a row of `columns` weights.
    optimizer : str
        "momentum": a state word is read and written with each weight. "sgd": none.
    masks : bool
        Count the reads of the ReLU masks of dX.
    lookup : int
        Cycles between two passes (this machine takes 8 to look up exponents).
    gradient_bits, sum_bits : int
        Widths of D and of a partial sum; weights and activations have 8 bits.
    activation_kb, gradient_kb, weight_kb : float
        Buffers, in KiB, half of each for the next piece of work.
    bandwidth : float or None
        Bytes a cycle from and to DRAM; None: never waits.
    port : int or None
        Bytes a cycle of each buffer's port; None: as wide as the edge that it feeds.

    Raises
    ------
    TypeError, ValueError
        Naming field and value.
    """

    rows: int = 32
    columns: int = 32
    batch: int = 16
    skip: float = 0.7583
    lanes: int = 4
    folds: str = "hidden"
    os_drain: bool = True
    taps: str = "first"
    groups: str = "diagonal"
    stationary: str = "best"
    steps: int | None = 1024
    partial_sums: str = "read+write"
    padding: str = "counted"
    update: bool = True
    update_cycles: int = 2
    optimizer: str = "momentum"
    masks: bool = True
    lookup: int = 8
    gradient_bits: int = 8
    sum_bits: int = 32
    activation_kb: float = 256
    gradient_kb: float = 256
    weight_kb: float = 256
    bandwidth: float | None = 16
    port: int | None = None

    def __post_init__(self):
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        for field in fields(self):
            self._check_number(field.name, field.type)
        for name, low, high in (
            ("rows", 1, 4096), ("columns", 1, 4096), ("batch", 1, 1 << 20),
            ("update_cycles", 0, 1 << 10), ("lookup", 0, 1 << 20), ("gradient_bits", 2, 32),
            ("sum_bits", 8, 64), ("steps", 1, 1 << 40), ("port", 1, 1 << 20),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must lie between {low} and {high}, not {value!r}")
        if self.lanes not in (1, 2, 4):
            raise ValueError(f"lanes must be 1, 2 or 4 activations a word, not {self.lanes!r}")
        if not 0 <= self.skip <= 1:
            raise ValueError(f"skip is a share from 0 to 1, not {self.skip!r}")
        for name in ("activation_kb", "gradient_kb", "weight_kb", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value!r}")

    def _check_number(self, name: str, kind) -> None:
        value = getattr(self, name)
        allowed = {int: (int,), float: (int, float), bool: (bool,), str: (str,),
                   int | None: (int, type(None)), float | None: (int, float, type(None))}[kind]
        if type(value) not in allowed:
            words = " or ".join("None" if one is type(None) else one.__name__ for one in allowed)
            raise TypeError(f"{name} must be {words}, not {value!r}")

    @classmethod
    def of(cls, config: Config, **changes) -> "Assumptions":
        """Return what a machine of this repository does, with changes."""
        kib = 1024
        lanes = config.lane_count
        machine = {
            "rows": config.rows, "columns": config.columns,
            "folds": "hidden" if config.overlap else "chained",
            "lanes": config.max_lanes, "groups": "dense", "steps": config.steps_depth,
            "gradient_bits": config.gradient_bits, "sum_bits": config.accumulator_bits,
            "activation_kb": config.activation_depth * lanes / kib,
            "gradient_kb": config.gradient_depth * lanes * config.gradient_bits / 8 / kib,
            "weight_kb": config.weight_depth * config.columns / kib,
            "bandwidth": config.axi_data_bits / 8,
        }
        return cls(**machine | changes)

    def with_changes(self, **changes) -> "Assumptions":
        """Return the same with some fields changed."""
        return replace(self, **changes)
