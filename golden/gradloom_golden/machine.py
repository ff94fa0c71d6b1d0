"""The golden machine: executes programs on buffers, as the RTL must, word by word.

It has the host's view of the RTL (`write`, `read`, `run`), so that one host drives either.
"""

from collections.abc import Sequence

import numpy as np

from . import gemm, lanes, optimizer, precision
from .config import Config
from .cycles import FETCH_CYCLES, PROGRAM_CYCLES, counts, descriptor_cycles
from .fixed import HALF, integer_range, round_shift, saturate, sign_extend
from .lfsr import Bank, Lfsr, high_half, low_half
from .program import (
    COUNTERS,
    DESCRIPTOR_WORDS,
    IDENT,
    OFFSET_BITS,
    Descriptor,
    Drain,
    Error,
    Opcode,
    Region,
    Register,
    Schedule,
    element_bits,
    memory_shape,
)
from .program_check import check

__all__ = ["GoldenMachine", "run_program"]


class GoldenMachine:
    """A machine of integers.

    Parameters
    ----------
    config : Config

    Attributes
    ----------
    memory : dict of Region to int64 array (depth, lanes)
        Buffers, elements unsigned as they lie there.
    counters : dict of str to int
    """

    def __init__(self, config: Config):
        self.config = config
        self._bits = {region: element_bits(config, region)
                      for region in Region if region != Region.CONTROL}
        self.reset()

    def reset(self) -> None:
        """Zero the buffers and counters, seed the LFSRs with zero."""
        self.memory = {
            region: np.zeros(memory_shape(self.config, region)[:2], np.int64)
            for region in self._bits
        }
        self.mask = np.zeros(self.memory[Region.ACTIVATION].shape, bool)
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._lfsrs = {
            Bank.REQUANTIZE: Lfsr(Bank.REQUANTIZE, self.config.lane_count),
            Bank.PACK: Lfsr(Bank.PACK, self.config.rows),
            Bank.UPDATE: Lfsr(Bank.UPDATE, self.config.columns),
        }
        self._dots = (0, 0, 0)
        self._picked_bits = 8
        self._kept = 0
        self._error, self._failed = Error.NONE, 0
        self._pending: int | None = None

    # The host port.

    def write(self, address: int, words) -> None:
        """Write 32-bit words to consecutive addresses."""
        region, offset = Region(address >> OFFSET_BITS), address & (1 << OFFSET_BITS) - 1
        words = np.asarray(words, np.int64) & 0xFFFFFFFF
        if region == Region.CONTROL:
            for index, word in enumerate(words):
                self._write_register(offset + index, int(word))
            return
        flat, host_bits, per_word = self._window(region)
        elements = words[:, None] >> host_bits * np.arange(per_word) & (1 << self._bits[region]) - 1
        flat[offset * per_word:(offset + len(words)) * per_word] = elements.ravel()

    def read(self, address: int, count: int) -> np.ndarray:
        """Return `count` 32-bit words from consecutive addresses."""
        region, offset = Region(address >> OFFSET_BITS), address & (1 << OFFSET_BITS) - 1
        if region == Region.CONTROL:
            values = [self._read_register(offset + index) for index in range(count)]
            return np.array(values, np.uint32)
        flat, host_bits, per_word = self._window(region)
        elements = flat[offset * per_word:(offset + count) * per_word].reshape(-1, per_word)
        return (elements << host_bits * np.arange(per_word)).sum(axis=1).astype(np.uint32)

    def run(self, limit: int) -> int:
        """Run what `Register.START` asked for; return the cycles that it took.

        `limit` is the RTL's guard against hanging; a program here always ends.
        """
        if self._pending is None:
            return 0
        length, self._pending = self._pending, None
        self._error, self._failed = Error.NONE, 0
        if not 0 < length <= self.config.descriptor_depth:
            self._error = Error.PROGRAM_LENGTH
            return 0
        program = self.memory[Region.PROGRAM].reshape(-1, DESCRIPTOR_WORDS)
        cycles = PROGRAM_CYCLES + FETCH_CYCLES
        for index in range(length):
            words = program[index].tolist()
            self._error = check(self.config, words)
            if self._error:
                self._failed = index
                break
            descriptor = Descriptor.decode(words)
            self._execute(descriptor)
            own = descriptor_cycles(self.config, descriptor)
            cycles += own if index == length - 1 else max(FETCH_CYCLES + 1, own)
        self.counters["cycles"] += cycles
        return cycles

    def _window(self, region: Region):
        _, elements, host_bits = memory_shape(self.config, region)
        return self.memory[region].reshape(-1), host_bits, min(elements, 32 // host_bits)

    def _write_register(self, offset: int, word: int) -> None:
        if offset == Register.START:
            self._pending = word
        elif offset == Register.SEED:
            for lfsr in self._lfsrs.values():
                lfsr.seed(word & (1 << 31) - 1)
        elif offset == Register.CLEAR:
            self.counters = dict.fromkeys(COUNTERS, 0)

    def _read_register(self, offset: int) -> int:
        counter, half = divmod(offset - Register.COUNTER, 2)
        if counter >= 0:
            value = self.counters[COUNTERS[counter]] if counter < len(COUNTERS) else 0
            return value >> 32 * half & 0xFFFFFFFF
        registers: dict[int, int] = {
            Register.IDENT: IDENT,
            Register.STATUS: self._error << 8 | self._failed << 16,
            Register.KEPT: self._kept,
            Register.BITS: self._picked_bits,
        }
        return registers.get(offset, 0)

    # Descriptors.

    def _execute(self, d: Descriptor) -> None:
        added = counts(self.config, d)
        added["cycles"] = 0                                # `run` counts those of the program
        for name, value in added.items():
            self.counters[name] += value
        {
            Opcode.FORWARD: self._forward,
            Opcode.BACKWARD: self._backward,
            Opcode.CONFIDENCE: self._confidence,
            Opcode.ANGLE: self._angle,
        }[Opcode(d.opcode)](d)

    def _block(self, region: Region, base: int, stride: int, block: int, width: int, rows):
        """Return views of block `block` of `width` features: row indices and columns."""
        parts = self.config.lane_count // width
        word = (base + block // parts * stride + rows) % len(self.memory[region])
        first = block % parts * width
        return word, slice(first, first + width)

    def _load(self, region, base, stride, blocks, width, rows) -> np.ndarray:
        """Return the features of all blocks side by side, shape (len(rows), blocks * width)."""
        parts = []
        for block in range(blocks):
            word, columns = self._block(region, base, stride, block, width, rows)
            parts.append(self.memory[region][word, columns])
        return np.concatenate(parts, axis=1)

    def _signed(self, values, bits: int, *, unsigned: bool = False) -> np.ndarray:
        return values if unsigned else sign_extend(values, bits)

    def _weights(self, d: Descriptor) -> np.ndarray:
        """Return W, shape (k_tiles * rows, n_tiles * columns)."""
        config = self.config
        tiles = self.memory[Region.WEIGHT][d.w_base:][:d.k_tiles * d.n_tiles * config.rows]
        tiles = tiles.reshape(d.k_tiles, d.n_tiles, config.rows, config.columns)
        matrix = tiles.transpose(0, 2, 1, 3).reshape(d.k_tiles * config.rows, -1)
        return sign_extend(matrix, config.operand_bits)

    def _finish(self, d: Descriptor, total, block: int, *, width: int, allowed=None):
        """Requantize finished rows of one block and write them, or leave their sums."""
        config = self.config
        forward = d.opcode == Opcode.FORWARD
        if d.keep_sums:
            return
        random = HALF
        if d.stochastic:
            random = low_half(self._lfsrs[Bank.REQUANTIZE].draw(d.steps))[:, :width]
        if allowed is not None:
            total = np.where(allowed, total, 0)
        value = round_shift(total, d.out_shift, random)
        region = Region.ACTIVATION if forward else Region.GRADIENT
        word, columns = self._block(region, d.out_base, d.steps, block, width, np.arange(d.steps))
        if d.relu:
            value = np.maximum(value, 0)
        bits = config.operand_bits if forward else config.gradient_bits
        if forward:
            self.mask[word, columns] = value > 0
        narrow = saturate(value, bits, signed=not (forward and d.y_unsigned))
        self.memory[region][word, columns] = narrow & (1 << bits) - 1

    def _sum_tiles(self, d: Descriptor, a, b, tile: int, width: int) -> np.ndarray:
        """Reduce tile by tile, leaving in the sums buffer what the machine leaves there."""
        config = self.config
        terms = a.shape[1]
        stored = terms if d.keep_sums else terms - tile
        if stored:
            sums = gemm.tile_sums(a[:, :stored], b[:stored], tile, config.accumulator_bits)
            low = sums & (1 << config.accumulator_bits) - 1
            buffer = self.memory[Region.SUMS]
            buffer[:d.steps, :width] = low
            # The machine adds all its lanes; those beyond the edge add nothing to what lies there.
            buffer[:d.steps, width:] = 0
        return gemm.tile_sums(a, b, tile, config.accumulator_bits)

    def _forward(self, d: Descriptor) -> None:
        config = self.config
        x = self._signed(
            self._load(Region.ACTIVATION, d.x_base, d.x_stride, d.k_tiles, config.rows,
                       np.arange(d.steps)),
            config.operand_bits, unsigned=bool(d.x_unsigned))
        w = self._weights(d)
        for n in range(d.n_tiles):
            columns = slice(n * config.columns, (n + 1) * config.columns)
            total = self._sum_tiles(d, x, w[:, columns], config.rows, config.columns)
            self._finish(d, total, n, width=config.columns)

    def _backward(self, d: Descriptor) -> None:
        config = self.config
        steps = np.arange(d.steps)
        rows = self.memory[Region.KEEP][:d.steps, 0] if d.gather else steps
        gradient = sign_extend(
            self._load(Region.GRADIENT, d.d_base, d.steps, d.n_tiles, config.columns, steps),
            config.gradient_bits)
        w = self._weights(d)
        for k in range(d.k_tiles):
            features = slice(k * config.rows, (k + 1) * config.rows)
            word, place = self._block(
                Region.ACTIVATION, d.x_base, d.x_stride, k, config.rows, rows)
            if d.schedule != Schedule.WEIGHT_GRADIENT:
                total = self._sum_tiles(
                    d, gradient, w[features].T, config.columns, config.rows)
                allowed = self.mask[word, place] if d.mask else None
                self._finish(d, total, k, width=config.rows, allowed=allowed)
            if d.schedule != Schedule.INPUT_GRADIENT:
                x = self._signed(self.memory[Region.ACTIVATION][word, place],
                                 config.operand_bits, unsigned=bool(d.x_unsigned))
                x = self._packed(d, x, k)
                self._drain(d, gemm.weight_gradient(x, gradient), k)

    def _packed(self, d: Descriptor, x, k: int) -> np.ndarray:
        """Quantize the activations of a row tile, and keep the packed words for later tiles."""
        q = 1 << d.lanes_log2
        if q == 1:
            return x
        random = low_half(self._lfsrs[Bank.PACK].draw(d.steps))
        small = lanes.quantize(x, 8 // q, d.x_shift, unsigned=bool(d.x_unsigned), random=random)
        words = lanes.pack(small, q)
        if d.n_tiles > 1:
            word, place = self._block(Region.ACTIVATION, d.packed_base, len(words), k,
                                      self.config.rows, np.arange(len(words)))
            self.memory[Region.ACTIVATION][word, place] = words
        return small << d.x_shift

    def _drain(self, d: Descriptor, wgrad, k: int) -> None:
        """Update or store the weight gradient of row tile k, one column tile after the other."""
        config = self.config
        for n in range(d.n_tiles):
            tile = wgrad[:, n * config.columns:(n + 1) * config.columns]
            first = (k * d.n_tiles + n) * config.rows
            weight_rows = slice(d.w_base + first, d.w_base + first + config.rows)
            state_rows = slice(d.state_base + first, d.state_base + first + config.rows)
            state = self.memory[Region.STATE]
            if d.drain == Drain.STORE:
                state[state_rows] = tile & (1 << config.state_bits) - 1
                continue
            draw = self._lfsrs[Bank.UPDATE].draw(config.rows)
            residue = state[state_rows] & (1 << config.residue_bits) - 1
            velocity = sign_extend(state[state_rows] >> config.residue_bits,
                                   optimizer.VELOCITY_BITS)
            weight = sign_extend(self.memory[Region.WEIGHT][weight_rows], config.operand_bits)
            rule = optimizer.Rule(
                gradient_shift=d.gradient_shift, momentum=bool(d.momentum),
                decay_shift=d.decay_shift, rate_shift=d.rate_shift)
            master, velocity = optimizer.update(
                optimizer.join(weight, residue, config.residue_bits), velocity, tile, rule,
                master_bits=config.master_bits,
                random_gradient=low_half(draw), random_step=high_half(draw))
            weight, residue = optimizer.split(master, config.residue_bits)
            self.memory[Region.WEIGHT][weight_rows] = weight & (1 << config.operand_bits) - 1
            state[state_rows] = residue | (velocity & 0xFFFF) << config.residue_bits

    def _confidence(self, d: Descriptor) -> None:
        config = self.config
        blocks = -(-d.classes // config.lane_count)
        logits = sign_extend(
            self._load(Region.ACTIVATION, d.x_base, d.steps, blocks, config.lane_count,
                       np.arange(d.steps)),
            config.operand_bits)[:, :d.classes]
        least = integer_range(config.operand_bits)[0]
        labels = self.memory[Region.LABEL][:d.steps]
        is_label = np.arange(d.classes) == labels
        # A label that names no class counts as one of the least logit.
        own = np.where(is_label, logits, least).max(axis=1)
        others = np.where(is_label, least, logits).max(axis=1)
        keep = np.flatnonzero(own - others < d.threshold)
        self.memory[Region.KEEP][:len(keep), 0] = keep
        self._kept = len(keep)
        self.counters["kept_samples"] += len(keep)
        self.counters["skipped_samples"] += d.steps - len(keep)

    def _angle(self, d: Descriptor) -> None:
        state, bits = self.memory[Region.STATE], self.config.wgrad_bits
        full = sign_extend(state[d.state_base:d.state_base + d.rows], bits)
        tested = sign_extend(state[d.packed_base:d.packed_base + d.rows], bits)
        before = (0, 0, 0) if d.first else self._dots
        added = precision.dot_products(full, tested)
        self._dots = (before[0] + added[0], before[1] + added[1], before[2] + added[2])
        if d.last:
            if precision.angle_within(*self._dots, d.bound):
                self._picked_bits = d.tested_bits
            elif d.fresh:
                self._picked_bits = 8
            self._dots = (0, 0, 0)


def run_program(machine, descriptors: Sequence[Descriptor], *, limit: int = 1 << 40) -> int:
    """Write a program into any machine with a host port, start it, and return its cycles."""
    words = [word for descriptor in descriptors for word in descriptor.encode()]
    machine.write(Region.PROGRAM << OFFSET_BITS, np.array(words, np.uint32))
    machine.write(Register.START, np.array([len(descriptors)], np.uint32))
    return machine.run(limit)
