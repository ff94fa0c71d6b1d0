"""A machine, RTL or golden, seen as a device that multiplies and trains."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.machine import GoldenMachine
from gradloom_golden.program import (
    COUNTERS,
    OFFSET_BITS,
    Descriptor,
    Drain,
    Error,
    Opcode,
    Region,
    Register,
    memory_shape,
)

from . import layout

__all__ = ["BACKENDS", "Device", "DeviceError", "Mismatch", "check_backend"]

BACKENDS = ("rtl", "golden")

CYCLE_LIMIT = 1 << 40


class DeviceError(RuntimeError):
    """The machine refused a descriptor."""


class Mismatch(AssertionError):
    """The RTL and the golden model differ."""


class Device:
    """A machine of a configuration.

    Parameters
    ----------
    config : Config
    backend : str
        "rtl": the generated Verilog, compiled by Verilator. "golden": the NumPy model.
    check : bool
        Run the golden model beside the RTL; `compare` then holds one against the other.
    waves : path, optional
        FST file to write.

    Raises
    ------
    ValueError
        If there is no such backend, or `check` is asked of the golden one.
    """

    def __init__(self, config: Config, backend: str = "rtl", *, check: bool = False,
                 waves: Path | None = None):
        check_backend(backend, check=check, waves=waves)
        self.config = config
        self.backend = backend
        self._machines = [_machine(config, backend, waves)]
        if check:
            self._machines.append(GoldenMachine(config))
        self.seed(0)

    # Memory and programs.

    @property
    def checking(self) -> bool:
        """Whether the golden model runs beside."""
        return len(self._machines) > 1

    def seed(self, value: int) -> None:
        """Seed every LFSR."""
        self._write_all(Register.SEED, [value])

    def write(self, region: Region, word: int, words) -> None:
        """Write host words from buffer word `word` on."""
        self._write_all(layout.address(self.config, region, word), words)

    def read(self, region: Region, word: int, count: int) -> np.ndarray:
        """Return the host words of `count` buffer words."""
        return self._read(self._machines[0], region, word, count)

    def register(self, register: Register) -> int:
        """Return a control register."""
        return int(self._machines[0].read(int(register), 1)[0])

    @property
    def counters(self) -> dict[str, int]:
        """Everything counted since the last `clear_counters`; see `gradloom_golden.program`.

        "macs" follows from the slots: what the cells multiplied, the padding of tiles included and
        packed products counted each.
        """
        counted = self._counters(self._machines[0])
        products = sum(counted[name] for name in ("forward_slots", "ws_slots", "os_products"))
        return {**counted, "macs": products * self.config.rows * self.config.columns}

    @property
    def simulated_cycles(self) -> int:
        """Clock cycles simulated so far, host accesses included; 0 for the golden backend."""
        return getattr(self._machines[0], "cycles", 0)

    def clear(self, region: Region) -> None:
        """Zero a buffer."""
        depth = memory_shape(self.config, region)[0]
        self.write(region, 0, np.zeros(depth * layout.words_each(self.config, region), np.uint32))

    def clear_counters(self) -> None:
        """Zero the counters."""
        self._write_all(Register.CLEAR, [0])

    def run(self, descriptors: Sequence[Descriptor]) -> int:
        """Run descriptors, as many programs as their number needs; return the cycles.

        Raises
        ------
        DeviceError
            If the machine refuses one; those before it have run.
        """
        depth = self.config.descriptor_depth
        return sum(self._run(descriptors[first:first + depth], first)
                   for first in range(0, len(descriptors), depth))

    def compare(self, region: Region, word: int, count: int, what: str) -> None:
        """Hold a stretch of a buffer against the golden model, if that runs beside.

        Raises
        ------
        Mismatch
            At the first difference: `what`, the row and element in the buffer, both values.
        """
        if not self.checking:
            return
        ours, theirs = (layout.from_words(self.config, region,
                                          self._read(machine, region, word, count))
                        for machine in self._machines)
        different = np.argwhere(ours != theirs)
        if len(different):
            row, element = different[0]
            raise Mismatch(
                f"{what}: {region.name.lower()} word {word + row} element {element} is "
                f"{ours[row, element]} in the RTL, {theirs[row, element]} in the golden model")

    def compare_counters(self, what: str) -> None:
        """Hold the counters, cycles included, against the golden model, if that runs beside."""
        if not self.checking:
            return
        ours, theirs = (self._counters(machine) for machine in self._machines)
        for name in COUNTERS:
            if ours[name] != theirs[name]:
                raise Mismatch(f"{what}: counter {name} is {ours[name]} in the RTL, "
                               f"{theirs[name]} in the golden model")

    def compare_register(self, register: Register, what: str) -> None:
        """Hold a register against the golden model, if that runs beside."""
        if not self.checking:
            return
        ours, theirs = (int(machine.read(int(register), 1)[0]) for machine in self._machines)
        if ours != theirs:
            raise Mismatch(f"{what}: register {register.name.lower()} is {ours} in the RTL, "
                           f"{theirs} in the golden model")

    def close(self) -> None:
        """Give the simulator's memory back."""
        for machine in self._machines:
            if not isinstance(machine, GoldenMachine):
                machine.close()

    def _write_all(self, address: int, words) -> None:
        words = np.asarray(words, np.uint32)
        for machine in self._machines:
            machine.write(int(address), words)

    def _read(self, machine, region: Region, word: int, count: int) -> np.ndarray:
        return machine.read(layout.address(self.config, region, word),
                            count * layout.words_each(self.config, region))

    def _counters(self, machine) -> dict[str, int]:
        words = machine.read(int(Register.COUNTER), 2 * len(COUNTERS)).astype(np.int64)
        return dict(zip(COUNTERS, (words[::2] | words[1::2] << 32).tolist()))

    def _run(self, descriptors: Sequence[Descriptor], first: int) -> int:
        words = np.array([descriptor.encode() for descriptor in descriptors], np.uint32).ravel()
        self._write_all(Region.PROGRAM << OFFSET_BITS, words)
        self._write_all(Register.START, [len(descriptors)])
        cycles, *_ = [machine.run(CYCLE_LIMIT) for machine in self._machines]
        status = self.register(Register.STATUS)
        error = Error(status >> 8 & 0xFF)
        if error:
            index = status >> 16
            raise DeviceError(
                f"the machine refuses descriptor {first + index} ({descriptors[index]}): "
                f"{error.name.lower().replace('_', ' ')}")
        return cycles

    # Matrix products of any shape.

    def forward(self, x, w, *, unsigned: bool = False) -> np.ndarray:
        """Return Y = X W.

        Parameters
        ----------
        x : int array (T, K)
            Of `operand_bits` bits, signed or `unsigned`.
        w : int array (K, N)
            Of `operand_bits` bits.

        Returns
        -------
        int32 array (T, N)
            Exact while K is at most 65,536 (of 8-bit operands).
        """
        config = self.config
        x = layout.checked("x", x, config.operand_bits, unsigned=unsigned)
        w = layout.checked("w", w, config.operand_bits)
        self._check_inner("x", x.shape[1], "w", w.shape[0])
        result = np.zeros((len(x), w.shape[1]), np.int64)
        k_step = self._features_that_fit(config.rows, config.weight_depth)
        for rows in _chunks(len(x), min(config.steps_depth, config.activation_depth)):
            part = x[rows]
            k_here = min(k_step, self._columns_that_fit(
                config.rows, len(part), config.activation_depth))
            for inner in _chunks(x.shape[1], k_here):
                self.write(Region.ACTIVATION, 0, layout.matrix_words(
                    config, Region.ACTIVATION, part[:, inner], config.rows))
                k_tiles = layout.tiles_of(part[:, inner].shape[1], config.rows)
                for outer in _chunks(w.shape[1], config.columns):
                    self._load_tiles(Region.WEIGHT, 0, w[inner, outer])
                    self.run([Descriptor(
                        opcode=Opcode.FORWARD, steps=len(part), x_stride=len(part),
                        k_tiles=k_tiles, n_tiles=1, x_unsigned=int(unsigned), keep_sums=1)])
                    result[rows, outer] += self._sums(len(part), w[:, outer].shape[1])
        return self._narrowed("y", result)

    def backward(self, x, w, d, *, bits: int = 8, unsigned: bool = False,
                 shift: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return dX = D W^T and dW = X^T D, interleaved on the array.

        Parameters
        ----------
        x : int array (T, K)
            Of `operand_bits` bits, signed or `unsigned`.
        w : int array (K, N)
            Of `operand_bits` bits.
        d : int array (T, N)
            Of `gradient_bits` bits.
        bits : int
            8 multiplies D with X as it is; 4 and 2 with X cut to so many bits, rounded
            stochastically, two or four to a word. dW keeps the scale of X.
        shift : int
            Low bits of X that the cut drops; by default ``8 - bits``.

        Returns
        -------
        int32 array (T, K), int32 array (K, N)
        """
        config = self.config
        x = layout.checked("x", x, config.operand_bits, unsigned=unsigned)
        w = layout.checked("w", w, config.operand_bits)
        d = layout.checked("d", d, config.gradient_bits)
        self._check_inner("x", len(x), "d", len(d), axis=0)
        if w.shape != (x.shape[1], d.shape[1]):
            raise ValueError(f"w has shape {w.shape}: x and d ask for {(x.shape[1], d.shape[1])}")
        lanes = self._lanes(bits)
        shift = 8 - bits if shift is None else shift
        dx = np.zeros(x.shape, np.int64)
        dw = np.zeros(w.shape, np.int64)
        n_step = self._features_that_fit(config.columns, config.weight_depth * config.columns
                                         // config.rows)
        # Beside one word of X a step, the activation buffer holds packed ones, two steps a word.
        most = min(config.steps_depth, config.gradient_depth,
                   2 * config.activation_depth // 3 if lanes > 1 else config.activation_depth)
        for rows in _chunks(len(x), most):
            steps = len(x[rows])
            n_here = min(n_step, self._columns_that_fit(
                config.columns, steps, config.gradient_depth))
            for outer in _chunks(d.shape[1], n_here):
                self.write(Region.GRADIENT, 0, layout.matrix_words(
                    config, Region.GRADIENT, d[rows, outer], config.columns))
                for inner in _chunks(x.shape[1], config.rows):
                    tile_dx, tile_dw = self._backward_row(
                        x[rows, inner], w[inner, outer], steps, lanes, shift, unsigned)
                    dx[rows, inner] += tile_dx
                    dw[inner, outer] += tile_dw
        return self._narrowed("dx", dx), self._narrowed("dw", dw)

    def _backward_row(self, x, w, steps: int, lanes: int, shift: int, unsigned: bool):
        """Return dX and dW of one row tile; D lies in the gradient buffer."""
        config = self.config
        words = layout.matrix_words(config, Region.ACTIVATION, x, config.rows)
        self.write(Region.ACTIVATION, 0, words)
        self._load_tiles(Region.WEIGHT, 0, w)
        n_tiles = layout.tiles_of(w.shape[1], config.columns)
        self.run([Descriptor(
            opcode=Opcode.BACKWARD, drain=Drain.STORE, keep_sums=1, steps=steps, x_stride=steps,
            k_tiles=1, n_tiles=n_tiles, x_unsigned=int(unsigned), lanes_log2=ceil_log2(lanes),
            x_shift=shift if lanes > 1 else 0, packed_base=steps)])
        stored = self.read(Region.STATE, 0, n_tiles * config.rows)
        dw = layout.untile(config, layout.from_words(config, Region.STATE, stored), w.shape)
        return self._sums(steps, x.shape[1]), dw

    def _lanes(self, bits: int) -> int:
        if bits not in (2, 4, 8):
            raise ValueError(f"bits must be 2, 4 or 8, not {bits!r}")
        lanes = 8 // bits
        if lanes > self.config.max_lanes:
            raise ValueError(f"bits {bits!r} needs packed lanes: configure lanes=true")
        return lanes

    def _features_that_fit(self, edge: int, tile_rows: int) -> int:
        """Return how many features of one edge the weight buffer holds, one tile wide.

        No more than a sum has room for.
        """
        exact = 1 << self.config.accumulator_bits - self.config.product_bits
        return max(1, min(tile_rows // edge, 256, exact // edge)) * edge

    def _columns_that_fit(self, edge: int, steps: int, depth: int) -> int:
        """Return how many features of `steps` rows a buffer holds."""
        words = depth // steps
        return max(1, words * self.config.lane_count // edge) * edge

    def _check_inner(self, left: str, have: int, right: str, want: int, axis: int = 1) -> None:
        if have != want:
            kind = "columns" if axis else "rows"
            raise ValueError(f"{left} has {have} {kind}, {right} has {want} rows: they must agree")

    def _load_tiles(self, region: Region, word: int, matrix) -> None:
        self.write(region, word, layout.to_words(self.config, region,
                                                 layout.tile(self.config, matrix)))

    def _sums(self, steps: int, features: int) -> np.ndarray:
        words = self.read(Region.SUMS, 0, steps)
        return layout.from_words(self.config, Region.SUMS, words)[:, :features]

    def _narrowed(self, name: str, values) -> np.ndarray:
        if np.abs(values).max() >= 1 << 31:
            raise OverflowError(f"{name} does not fit 32 bits: use fewer terms or smaller operands")
        return values.astype(np.int32)


def check_backend(backend: str, *, check: bool, waves: Path | None) -> None:
    """Raise ValueError if a backend does not exist, or cannot do what is asked of it."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
    if check and backend == "golden":
        raise ValueError("check compares the RTL with the golden model: use backend 'rtl'")
    if waves is not None and backend == "golden":
        raise ValueError(f"waves for {waves} come from the RTL: use backend 'rtl'")


def _machine(config: Config, backend: str, waves: Path | None):
    if backend == "golden":
        return GoldenMachine(config)
    from gradloom.generate import machine_verilog  # noqa: PLC0415 - the golden backend needs no RTL

    from .simulator import Simulator  # noqa: PLC0415

    simulator = Simulator(machine_verilog(config), waves=waves)
    simulator.reset()
    return simulator


def _chunks(length: int, size: int):
    for first in range(0, length, size):
        yield slice(first, min(first + size, length))
