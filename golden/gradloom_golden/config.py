"""What a machine is made of: the one description that golden model, RTL, host and docs share."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

__all__ = ["PRESETS", "Config", "ceil_log2", "preset"]


def ceil_log2(value: int) -> int:
    """Bits needed to count `value` things: 0 for 1, 3 for 5 to 8."""
    return (value - 1).bit_length()


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Sizes and options of one machine.

    Parameters
    ----------
    rows, columns : int
        Edge lengths of the array: input features (k side) and output features (n side) of a
        weight tile. Powers of two from 4 to 256.
    operand_bits : int
        Width of an activation and of the weight that the array multiplies with: 4 or 8.
    gradient_bits : int
        Width of an output gradient (D): 8 or 16.
    accumulator_bits : int
        Width of the sums that the edge keeps across tiles; they saturate. 24 to 32.
    master_bits : int
        Width of the weight that the optimizer updates; its top `operand_bits` are the weight that
        the array sees. 12 to 16.
    lanes : bool
        Pack 2 or 4 activations in a word for the weight gradient. Needs 8-bit operands.
    overlap : bool
        Load the next tile and drain the previous one while a tile streams.
    activation_depth, gradient_depth : int
        Words (of `lane_count` elements) in the activation and gradient buffers.
    weight_depth : int
        Tile rows (of `columns` weights) in the weight and in the optimizer-state buffer.
    steps_depth : int
        Most rows (t) that one descriptor streams: depth of the sums buffer and the keep list.
    descriptor_depth : int
        Descriptors that the program memory holds.
    banks : int
        Banks of the activation, gradient, weight and state buffers, each a range of addresses:
        while the array works on one, loads and saves reach the others. 1, 2 or 4.
    image_depth : int
        Words (of `lane_count` elements) in the buffer from which a first layer reads patches.
    bias_depth : int
        Rows (of `columns` biases) in the bias buffer.
    axi_data_bits, axi_address_bits : int
        Widths of the AXI4 master: 64, 128 or 256, and 32 to 64.
    """

    rows: int
    columns: int
    operand_bits: int = 8
    gradient_bits: int = 8
    accumulator_bits: int = 32
    master_bits: int = 16
    lanes: bool = True
    overlap: bool = True
    activation_depth: int = 2048
    gradient_depth: int = 1024
    weight_depth: int = 2048
    steps_depth: int = 256
    descriptor_depth: int = 64
    banks: int = 2
    image_depth: int = 1024
    bias_depth: int = 64
    axi_data_bits: int = 128
    axi_address_bits: int = 40

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            kind = bool if field.type is bool else int
            if type(value) is not kind:
                raise TypeError(f"{field.name} must be of type {kind.__name__}, not {value!r}")
        for name, low, high in (
            ("rows", 4, 256), ("columns", 4, 256), ("activation_depth", 16, 1 << 16),
            ("gradient_depth", 16, 1 << 16), ("weight_depth", 16, 1 << 16),
            ("steps_depth", 16, 1 << 10), ("descriptor_depth", 2, 1 << 10),
            ("image_depth", 16, 1 << 16), ("bias_depth", 2, 256),
        ):
            value = getattr(self, name)
            if not (_power_of_two(value) and low <= value <= high):
                raise ValueError(
                    f"{name} must be a power of two from {low} to {high}, not {value!r}")
        for name, choices in (
            ("operand_bits", (4, 8)), ("gradient_bits", (8, 16)),
            ("accumulator_bits", range(24, 33)), ("master_bits", range(12, 17)),
            ("banks", (1, 2, 4)), ("axi_data_bits", (64, 128, 256)),
            ("axi_address_bits", range(32, 65)),
        ):
            value = getattr(self, name)
            if value not in choices:
                listed = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"{name} must be one of {listed}, not {value!r}")
        if self.lanes and self.operand_bits != 8:
            raise ValueError(
                f"lanes split an 8-bit word: with operand_bits {self.operand_bits!r} set lanes to "
                "false")
        if self.weight_depth < 2 * self.rows:
            raise ValueError(
                f"weight_depth {self.weight_depth!r} must hold at least two tiles of "
                f"{self.rows} rows")
        if self.wgrad_bits > 32:
            raise ValueError(
                f"steps_depth {self.steps_depth!r} lets a weight gradient grow to "
                f"{self.wgrad_bits} bits: use at most {self.steps_depth >> (self.wgrad_bits - 32)}")
        if self.sum_bits > self.accumulator_bits:
            raise ValueError(
                f"accumulator_bits must be at least the {self.sum_bits} bits of a partial sum, "
                f"not {self.accumulator_bits!r}")

    @property
    def lane_count(self) -> int:
        """Elements in a word of the activation, gradient and sums buffers."""
        return max(self.rows, self.columns)

    @property
    def product_bits(self) -> int:
        """Signed width that holds every product: unsigned activation or weight times gradient."""
        return self.operand_bits + max(self.operand_bits, self.gradient_bits)

    @property
    def sum_bits(self) -> int:
        """Width of a partial sum inside the array: it crosses at most the longer edge."""
        return self.product_bits + ceil_log2(self.lane_count)

    @property
    def wgrad_bits(self) -> int:
        """Width of a weight-gradient accumulator: cannot overflow in `steps_depth` steps."""
        return max(self.product_bits + ceil_log2(self.steps_depth), self.sum_bits)

    @property
    def residue_bits(self) -> int:
        """Low part of the master weight, which only the optimizer sees."""
        return self.master_bits - self.operand_bits

    @property
    def state_bits(self) -> int:
        """Width of an optimizer-state element: residue and velocity, or a stored gradient."""
        return max(self.residue_bits + 16, self.wgrad_bits)

    @property
    def dot_bits(self) -> int:
        """Width of the precision unit's dot products of weight gradients."""
        return 2 * self.wgrad_bits + 24

    @property
    def max_lanes(self) -> int:
        """Most activations in a packed word."""
        return 4 if self.lanes else 1

    def with_changes(self, **changes) -> "Config":
        """Return a copy with some fields changed, validated again."""
        known = {field.name for field in fields(self)}
        for name in changes:
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a configuration field; choose from "
                    f"{', '.join(sorted(known))}")
        return replace(self, **changes)

    def to_json(self) -> str:
        """Return the configuration as JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Return the configuration that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is no JSON object of configuration fields, or a value is out of range.
        """
        values = json.loads(text)
        if not isinstance(values, Mapping):
            raise ValueError(f"a configuration is a JSON object, not {type(values).__name__}")
        for required in ("rows", "columns"):
            if required not in values:
                raise ValueError(f"the configuration lacks {required!r}: add it")
        return cls(rows=values["rows"], columns=values["columns"]).with_changes(**values)


_EDGE = Config(rows=8, columns=8)

PRESETS: dict[str, Config] = {
    "tiny": replace(_EDGE, rows=4, columns=4, activation_depth=256, gradient_depth=128,
                    weight_depth=128, steps_depth=32, descriptor_depth=16,
                    image_depth=128, bias_depth=16),
    "edge": _EDGE,
    "base": replace(_EDGE, rows=16, columns=16, steps_depth=1024, activation_depth=8192,
                    gradient_depth=8192, image_depth=4096),
    "large": replace(_EDGE, rows=32, columns=32),
    "max": replace(_EDGE, rows=128, columns=128, steps_depth=1024, activation_depth=4096,
                   gradient_depth=2048, weight_depth=8192),
}


def preset(name: str) -> Config:
    """Return the preset called `name`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
