"""The golden machine: executes programs on buffers, as the RTL must, word by word.

It has the host's view of the RTL (`write`, `read`, `run`), so that one host drives either.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from . import gemm, geometry, lanes, optimizer, patch, precision, transfer, vector
from .config import Config
from .cycles import FETCH_CYCLES, KEPT_CYCLES, PROGRAM_CYCLES, RESOLVE_CYCLES, counts
from .fixed import HALF, integer_range, round_shift, saturate, shift_either, sign_extend
from .lfsr import Bank, Lfsr, high_half, low_half
from .loss import LossUnit
from .program import (
    COUNTERS,
    DESCRIPTOR_FIELDS,
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
from .scale import Resolved, Scales

__all__ = ["GoldenMachine", "run_program"]

END_BIT = DESCRIPTOR_FIELDS["end"][1]


class GoldenMachine:
    """A machine of integers.

    Parameters
    ----------
    config : Config

    Attributes
    ----------
    memory : dict of Region to int64 array (depth, lanes)
        Buffers, elements unsigned as they lie there; of the scale table the exponents themselves.
    counters : dict of str to int
    """

    def __init__(self, config: Config, bus: np.ndarray | None = None):
        self.config = config
        self.bus = np.zeros(0, np.uint8) if bus is None else bus
        self._bits = {region: element_bits(config, region)
                      for region in Region if region not in (Region.CONTROL, Region.SHELL)}
        self.reset()

    def reset(self) -> None:
        """Zero the buffers and counters, seed the LFSRs with zero."""
        self.memory = {
            region: np.zeros(memory_shape(self.config, region)[:2], np.int64)
            for region in self._bits
        }
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._lfsrs = {
            Bank.REQUANTIZE: Lfsr(Bank.REQUANTIZE, self.config.lane_count),
            Bank.PACK: Lfsr(Bank.PACK, self.config.rows),
            Bank.UPDATE: Lfsr(Bank.UPDATE, self.config.columns),
            Bank.VECTOR: Lfsr(Bank.VECTOR, self.config.lane_count),
            Bank.SAVE: Lfsr(Bank.SAVE, self.config.lane_count),
        }
        self.scales = Scales()
        self.memory[Region.SCALE] = self.scales.exponents[:, None]
        self._loss = LossUnit(self.config)
        self._bias_sums = np.zeros((self.config.bias_depth, self.config.columns), np.int64)
        self._dots = (0, 0, 0)
        self._picked_bits = 8
        self._kept = 0
        self._resolved = Resolved(Descriptor(opcode=0), 0, 0, 0)
        self._kept_now = 0
        self._error, self._failed = Error.NONE, 0
        self.failed_address = 0
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
        if region == Region.SCALE:
            elements = sign_extend(elements, self._bits[region])
        flat[offset * per_word:(offset + len(words)) * per_word] = elements.ravel()

    def read(self, address: int, count: int) -> np.ndarray:
        """Return `count` 32-bit words from consecutive addresses."""
        region, offset = Region(address >> OFFSET_BITS), address & (1 << OFFSET_BITS) - 1
        if region == Region.CONTROL:
            values = [self._read_register(offset + index) for index in range(count)]
            return np.array(values, np.uint32)
        flat, host_bits, per_word = self._window(region)
        elements = flat[offset * per_word:(offset + count) * per_word].reshape(-1, per_word)
        elements = elements & (1 << self._bits[region]) - 1
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
            is_last = index == length - 1
            prepared, own = self._step(index, program[index].tolist())
            if self._error:
                break
            is_last |= bool(program[index, 0] >> END_BIT)
            # The next descriptor is fetched once this one is prepared.
            cycles += prepared + (own if is_last else max(FETCH_CYCLES + 1, own))
            if is_last:
                break
        self.counters["cycles"] += cycles
        return cycles

    def run_list(self, address: int, limit: int) -> Error:
        """Run the list of at most `limit` descriptors at a byte address of the memory.

        The shell's checks of address and limit are the host's here. Loads and saves happen in the
        order of the list: what the RTL runs at once must not depend on each other.
        """
        self._error, self._failed, self.failed_address = Error.NONE, 0, 0
        size = DESCRIPTOR_WORDS * 4
        for index in range(limit):
            raw = self.bus[address:address + size]
            if len(raw) < size:
                self._error, self._failed = Error.FETCH_RESPONSE, index
                self.failed_address = address
                break
            words = raw.view("<u4").tolist()
            self._step(index, words)
            if self._error or words[0] >> END_BIT:
                break
            address += size
        else:
            self._error, self._failed = Error.LIST_END, limit
        return Error(self._error)

    def _step(self, index: int, words: list[int]) -> tuple[int, int]:
        """Check and execute one descriptor; return its cycles, without those of the memory.

        First those to prepare it, then those to execute it.
        """
        self._error = check(self.config, words)
        prepared = cycles = 0
        if not self._error:
            d = Descriptor.decode(words)
            self._resolved = self.scales.resolve(d)
            d = self._resolved.descriptor
            scaled = d.scaled and d.opcode not in (Opcode.LOAD, Opcode.SAVE)
            prepared = RESOLVE_CYCLES if scaled else 0
            if d.kept:
                prepared += KEPT_CYCLES - bool(scaled)
                d = self._of_kept(d)
            if d is None:
                prepared, cycles = prepared - 1, 1
            else:
                self.scales.begin(self._resolved)
                cycles = self._execute(d)
        if self._error:
            self._failed = index
        return prepared, cycles

    def _of_kept(self, d: Descriptor) -> Descriptor | None:
        """Return `d` for the samples that are kept of its `images`, or None if there are none."""
        images = min(max(self._kept - d.first_sample, 0), d.images)
        if images == 0:
            return None
        if d.opcode in (Opcode.LOAD, Opcode.SAVE):
            return replace(d, rows=images)
        return replace(d, steps=min(d.steps, images * d.pixels))

    def _window(self, region: Region):
        _, elements, host_bits = memory_shape(self.config, region)
        return self.memory[region].reshape(-1), host_bits, min(elements, 32 // host_bits)

    def _write_register(self, offset: int, word: int) -> None:
        if offset == Register.START:
            self._pending = word
        elif offset == Register.SEED:
            for lfsr in (*self._lfsrs.values(), self._loss):
                lfsr.seed(word & (1 << 31) - 1)
        elif offset == Register.CLEAR:
            self.counters = dict.fromkeys(COUNTERS, 0)
            self._loss.loss = 0

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
            Register.LOSS: self._loss.loss & 0xFFFFFFFF,
            Register.LOSS + 1: self._loss.loss >> 32,
            Register.THRESHOLD: self._loss.budget.threshold,
        }
        return registers.get(offset, 0)

    # Descriptors.

    def _execute(self, d: Descriptor) -> int:
        """Execute a descriptor whose shifts and steps are resolved; return its cycles."""
        {
            Opcode.FORWARD: self._forward,
            Opcode.BACKWARD: self._backward,
            Opcode.CONFIDENCE: self._confidence,
            Opcode.ANGLE: self._angle,
            Opcode.LOSS: self._measure_loss,
            Opcode.THRESHOLD: self._loss.choose,
            Opcode.VECTOR: self._vector,
            Opcode.RESCALE: self._rescale,
            Opcode.UPDATE: self._update,
            Opcode.LOAD: self._load_rows,
            Opcode.SAVE: self._save_rows,
        }[Opcode(d.opcode)](d)
        added = counts(self.config, d, kept=self._kept_now)
        cycles = added["cycles"]
        added["cycles"] = 0                                # `run` counts those of the program
        for name, value in added.items():
            self.counters[name] += value
        return cycles

    def _measure_loss(self, d: Descriptor) -> None:
        config = self.config
        blocks = -(-d.classes // config.lane_count)
        logits = sign_extend(
            self._load(Region.ACTIVATION, d.x_base, d.x_stride, blocks, config.lane_count,
                       np.arange(d.steps)),
            config.operand_bits)[:, :d.classes]
        labels = self.memory[Region.LABEL][:d.steps, 0]
        found = self._loss.run(d, logits, labels, self._resolved.exponent)
        self._kept = self._loss.kept
        self._kept_now = len(found.keep)
        self.counters["correct_samples"] += found.correct
        self.counters["skipped_samples"] += found.skipped
        self.counters["kept_samples"] += len(found.keep)
        rows = found.first_kept + np.arange(len(found.keep))
        self.memory[Region.KEEP][rows % config.steps_depth, 0] = found.keep % config.steps_depth
        error = np.zeros((len(rows), blocks * config.lane_count), np.int64)
        error[:, :d.classes] = found.error
        for block in range(blocks):
            word, columns = self._block(
                Region.GRADIENT, d.out_base, d.out_stride, block, config.lane_count, rows)
            part = error[:, block * config.lane_count:][:, :config.lane_count]
            self.memory[Region.GRADIENT][word, columns] = part & (1 << config.gradient_bits) - 1

    def _vector(self, d: Descriptor) -> None:
        vector.execute(self.config, self.memory, self.memory[Region.MASK], self._bias_sums, d,
                       self._lfsrs[Bank.VECTOR].draw, self.scales.measure)

    def _rescale(self, d: Descriptor) -> None:
        self.scales.rescale()

    def _bus_rows(self, d: Descriptor) -> list[int]:
        """Return the addresses that a transfer reaches; note the error that ends it."""
        keep = self.memory[Region.KEEP][:, 0]
        found = transfer.plan(self.config, d, keep)
        size = transfer.row_bytes(self.config, d.function, d.steps, d.tested_bits)
        self._error, self.failed_address = found.error, found.failed_address
        for number, address in enumerate(found.addresses):
            if address + size > len(self.bus):
                loads = d.opcode == Opcode.LOAD
                beat = self.config.axi_data_bits // 8
                self._error = Error.READ_RESPONSE if loads else Error.WRITE_RESPONSE
                missing = max(address, len(self.bus) // beat * beat)
                self.failed_address = missing if loads else address
                return list(found.addresses[:number])
        return list(found.addresses)

    def _load_rows(self, d: Descriptor) -> None:
        region = Region(d.function)
        size = transfer.row_bytes(self.config, region, d.steps, d.tested_bits)
        for row, address in enumerate(self._bus_rows(d)):
            first = d.out_base + row * d.steps
            self.memory[region][first:first + d.steps] = transfer.unpack_words(
                self.config, region, self.bus[address:address + size], d.steps, d.tested_bits,
                x_shift=d.x_shift, unsigned=bool(d.x_unsigned))

    def _save_rows(self, d: Descriptor) -> None:
        region = Region(d.function)
        for row, address in enumerate(self._bus_rows(d)):
            first = d.out_base + row * d.steps
            random = HALF
            if d.stochastic and transfer.is_compressed(region, d.tested_bits):
                random = low_half(self._lfsrs[Bank.SAVE].draw(d.steps))
            raw = transfer.pack_words(
                self.config, region, self.memory[region][first:first + d.steps], d.tested_bits,
                x_shift=d.x_shift, unsigned=bool(d.x_unsigned), random=random)
            self.bus[address:address + len(raw)] = raw

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

    def _tile_rows(self, d: Descriptor, base: int, tile: geometry.Tile) -> slice:
        first = base + geometry.weight_tile(d, tile) * self.config.rows
        return slice(first, first + self.config.rows)

    def _weight(self, d: Descriptor, tile: geometry.Tile) -> np.ndarray:
        """Return a tile of W, shape (rows, columns)."""
        rows = self.memory[Region.WEIGHT][self._tile_rows(d, d.w_base, tile)]
        return sign_extend(rows, self.config.operand_bits)

    def _images(self, d: Descriptor) -> np.ndarray:
        """Return the image of X that each step reads."""
        image = geometry.steps_of(d).image
        if not d.gather or d.opcode != Opcode.BACKWARD:
            return image
        depth = self.config.steps_depth
        return self.memory[Region.KEEP][(d.first_sample + image) % depth, 0]

    def _x_words(self, d: Descriptor, tile: geometry.Tile):
        """Return where the steps of X lie, and which are inside the image."""
        rows, inside = geometry.x_rows(d, tile, self._images(d))
        if d.gather and not d.conv and d.opcode == Opcode.BACKWARD:
            rows = self.memory[Region.KEEP][:d.steps, 0]
        return rows, inside

    def _x(self, d: Descriptor, tile: geometry.Tile) -> np.ndarray:
        """Return X as the array sees it, shape (T, rows)."""
        config = self.config
        rows, inside = self._x_words(d, tile)
        if d.patch:
            elements = d.x_base + tile.block * d.x_stride + rows
            raw = patch.patches(
                config, self.memory[Region.IMAGE], elements, d, block=tile.block)
        else:
            word, place = self._block(
                Region.ACTIVATION, d.x_base, d.x_stride, tile.block, config.rows, rows)
            raw = self.memory[Region.ACTIVATION][word, place]
        raw = np.where(inside[:, None], raw, 0)
        return self._signed(raw, config.operand_bits, unsigned=bool(d.x_unsigned))

    def _d(self, d: Descriptor, tile: geometry.Tile) -> np.ndarray:
        """Return D as the array sees it, shape (T, columns)."""
        config = self.config
        rows, inside = geometry.d_rows(d, tile)
        stride = d.d_stride if d.conv else d.steps
        word, place = self._block(
            Region.GRADIENT, d.d_base, stride, tile.n, config.columns, rows)
        raw = np.where(inside[:, None], self.memory[Region.GRADIENT][word, place], 0)
        return sign_extend(raw, config.gradient_bits)

    def _reduce(self, d: Descriptor, parts, start, width: int) -> np.ndarray:
        """Add the products of the tiles, saturating, and leave the sums that the machine leaves."""
        config = self.config
        total = start
        stored = start
        for a, b in parts:
            stored = total
            total = saturate(total + a @ b, config.accumulator_bits)
        if d.keep_sums:
            stored = total
        if stored is not start:
            buffer = self.memory[Region.SUMS]
            buffer[:d.steps, :width] = stored & (1 << config.accumulator_bits) - 1
            # The machine adds all its lanes; those beyond the edge add nothing to what lies there.
            buffer[:d.steps, width:] = 0
        return total

    def _finish(self, d: Descriptor, total, block: int, rows, *, width: int, allowed=None):
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
        stride = d.out_stride if d.conv else d.steps
        word, columns = self._block(region, d.out_base, stride, block, width, rows)
        if d.relu:
            value = np.maximum(value, 0)
        bits = config.operand_bits if forward else config.gradient_bits
        if forward:
            self.memory[Region.MASK][word, columns] = value > 0
        signed = not (forward and d.y_unsigned)
        narrow = saturate(value, bits, signed=signed)
        self.memory[region][word, columns] = narrow & (1 << bits) - 1
        if d.measure:
            lanes = np.zeros((d.steps, config.lane_count), np.int64)
            lanes[:, :width] = narrow
            self.scales.measure(d.out_scale, lanes, bits, signed=signed)

    def _forward(self, d: Descriptor) -> None:
        config = self.config
        x: dict[tuple[int, int, int], np.ndarray] = {}
        for n in range(d.n_tiles):
            start = np.zeros((d.steps, config.columns), np.int64)
            if d.bias:
                row = (d.bias_base + n) % config.bias_depth
                bias = sign_extend(self.memory[Region.BIAS][row], 16)
                start = start + saturate(
                    shift_either(bias, self._resolved.bias_shift), config.accumulator_bits)
            parts = []
            for tile in geometry.tiles(replace(d, n_tiles=1)):
                key = tile.block, tile.tap_y, tile.tap_x
                if key not in x:
                    x[key] = self._x(d, tile)
                parts.append((x[key], self._weight(d, replace(tile, n=n))))
            total = self._reduce(d, parts, start, config.columns)
            self._finish(d, total, n, np.arange(d.steps), width=config.columns)

    def _backward(self, d: Descriptor) -> None:
        config = self.config
        has_ws = d.schedule != Schedule.WEIGHT_GRADIENT
        has_os = d.schedule != Schedule.INPUT_GRADIENT
        gradients: dict[tuple[int, int, int], np.ndarray] = {}

        def gradient(tile: geometry.Tile) -> np.ndarray:
            key = (tile.tap_y, tile.tap_x, tile.n) if d.d_moves else (0, 0, tile.n)
            if key not in gradients:
                gradients[key] = self._d(d, tile)
            return gradients[key]

        for group in self._row_tiles(d):
            first = group[0]
            if has_ws:
                parts = [(gradient(tile), self._weight(d, tile).T) for tile in group]
                start = np.zeros((d.steps, config.rows), np.int64)
                total = self._reduce(d, parts, start, config.rows)
                allowed = None
                if d.mask:
                    rows, _ = self._x_words(d, first)
                    word, place = self._block(
                        Region.ACTIVATION, d.x_base, d.x_stride, first.block, config.rows, rows)
                    allowed = self.memory[Region.MASK][word, place]
                # dX lies as X does, but without the samples that were skipped.
                image = geometry.steps_of(d).image
                rows, _ = geometry.x_rows(d, first, image)
                self._finish(d, total, first.block, rows, width=config.rows, allowed=allowed)
            if has_os:
                x = self._packed(d, self._x(d, first), first.block, len(group))
                for tile in group:
                    self._drain(d, gemm.weight_gradient(x, gradient(tile)), tile)

    def _row_tiles(self, d: Descriptor) -> list[list[geometry.Tile]]:
        """Return the tiles, those that reduce into one block of dX together."""
        groups: dict[tuple, list[geometry.Tile]] = {}
        for tile in geometry.tiles(d):
            key = (tile.block,) if d.d_moves else (tile.block, tile.tap_y, tile.tap_x)
            groups.setdefault(key, []).append(tile)
        return list(groups.values())

    def _packed(self, d: Descriptor, x, block: int, uses: int) -> np.ndarray:
        """Quantize the activations of a row tile, and keep the packed words for later tiles."""
        q = 1 << d.lanes_log2
        if q == 1:
            return x
        random = low_half(self._lfsrs[Bank.PACK].draw(d.steps))
        small = lanes.quantize(x, 8 // q, d.x_shift, unsigned=bool(d.x_unsigned), random=random)
        words = lanes.pack(small, q)
        if uses > 1:
            word, place = self._block(Region.ACTIVATION, d.packed_base, len(words), block,
                                      self.config.rows, np.arange(len(words)))
            self.memory[Region.ACTIVATION][word, place] = words
        return small << d.x_shift

    def _drain(self, d: Descriptor, wgrad, tile: geometry.Tile) -> None:
        """Update, store or add up the weight gradient of one tile."""
        config = self.config
        state = self.memory[Region.STATE]
        rows = self._tile_rows(d, d.state_base, tile)
        wgrad = np.where(self._same_group(d, tile.n), wgrad, 0)
        if d.drain == Drain.UPDATE:
            self._apply(d, wgrad, self._tile_rows(d, d.w_base, tile), rows)
            return
        if d.drain == Drain.ACCUMULATE:
            kept = sign_extend(state[rows], config.state_bits)
            wgrad = saturate(kept + wgrad, config.state_bits)
        state[rows] = wgrad & (1 << config.state_bits) - 1

    def _same_group(self, d: Descriptor, n: int) -> np.ndarray:
        """Return which weights of a tile lie in a group of a grouped layer, (rows, columns)."""
        config = self.config
        shape = config.rows, config.columns
        if not d.k_group:
            return np.ones(shape, bool)
        group = (d.k_first + np.arange(config.rows)) // d.k_group
        first = d.n_first - n * config.columns + group[:, None] * d.n_group
        column = np.arange(config.columns)
        return (column >= first) & (column < first + d.n_group)

    def _apply(self, d: Descriptor, wgrad, weight_rows: slice, state_rows: slice) -> None:
        """Update weights and their state with a gradient, int array (rows, columns)."""
        config = self.config
        weights, state = self.memory[Region.WEIGHT], self.memory[Region.STATE]
        draw = self._lfsrs[Bank.UPDATE].draw(len(wgrad))
        residue = state[state_rows] & (1 << config.residue_bits) - 1
        velocity = sign_extend(state[state_rows] >> config.residue_bits, optimizer.VELOCITY_BITS)
        weight = sign_extend(weights[weight_rows], config.operand_bits)
        rule = optimizer.Rule(
            gradient_shift=d.gradient_shift, momentum=bool(d.momentum),
            decay_shift=d.decay_shift, rate_shift=d.rate_shift)
        master, velocity = optimizer.update(
            optimizer.join(weight, residue, config.residue_bits), velocity, wgrad, rule,
            master_bits=config.master_bits,
            random_gradient=low_half(draw), random_step=high_half(draw))
        weight, residue = optimizer.split(master, config.residue_bits)
        weights[weight_rows] = weight & (1 << config.operand_bits) - 1
        state[state_rows] = residue | (velocity & 0xFFFF) << config.residue_bits

    def _update(self, d: Descriptor) -> None:
        gradient = sign_extend(
            self.memory[Region.STATE][d.packed_base:d.packed_base + d.rows],
            self.config.state_bits)
        self._apply(d, gradient, slice(d.w_base, d.w_base + d.rows),
                    slice(d.state_base, d.state_base + d.rows))

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
