"""Fetches descriptors, refuses bad ones, and hands the others to the unit that runs them."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import DESCRIPTOR_WORDS, Error, Opcode, Schedule, reserved_masks
from gradloom_golden.program_check import MAX_TILES

from .layouts import DescriptorLayout

__all__ = ["Sequencer"]

EXTENTS = 7


class Sequencer(wiring.Component):
    """Runs a program: fetch and check the next descriptor while the present one works.

    Checks are those of `gradloom_golden.program_check`, in its order: the first that fails ends
    the program once the descriptors before it have finished.

    Members
    -------
    run : In(1), length : In(32)
        Start a program of that many descriptors.
    read_en, read_address, read_data
        Program memory, in 32-bit words.
    unit_ready : In(1)
        No unit is at work.
    accept : Out(1)
        `coming` starts in this cycle and is `current` from the next.
    coming, current : Out(DescriptorLayout)
    busy : Out(1)
    error : Out(8), failed : Out(16)
        Of the last program: an `Error`, and the index of the descriptor.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "run": In(1),
            "length": In(32),
            "read_en": Out(1),
            "read_address": Out(ceil_log2(config.descriptor_depth * DESCRIPTOR_WORDS)),
            "read_data": In(32),
            "unit_ready": In(1),
            "accept": Out(1),
            "coming": Out(DescriptorLayout),
            "current": Out(DescriptorLayout),
            "busy": Out(1),
            "error": Out(8),
            "failed": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        found = self._field_error(m)
        extent = self._extents(m)
        self._fetch(m, found, extent)
        return m

    def _fetch(self, m, found, extent):
        number, check = extent
        index = Signal(range(self.config.descriptor_depth + 1))
        count = Signal.like(index)
        word = Signal(range(DESCRIPTOR_WORDS + 1))
        problem = Signal(8)
        m.d.comb += [
            self.busy.eq(1),
            self.read_address.eq(Cat(word[:ceil_log2(DESCRIPTOR_WORDS)], index)),
        ]
        with m.FSM(name="fetch"):
            with m.State("idle"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.run):
                    m.d.sync += [
                        index.eq(0), count.eq(self.length), word.eq(0), self.failed.eq(0),
                        self.error.eq(Error.NONE),
                    ]
                    m.next = "fetch"
                    with m.If((self.length == 0) | (self.length > self.config.descriptor_depth)):
                        m.d.sync += self.error.eq(Error.PROGRAM_LENGTH)
                        m.next = "idle"
            with m.State("fetch"):
                m.d.comb += self.read_en.eq(word != DESCRIPTOR_WORDS)
                m.d.sync += word.eq(word + 1)
                with m.If(word != 0):
                    m.d.sync += self.coming.eq(Cat(self.coming.as_value()[32:], self.read_data))
                with m.If(word == DESCRIPTOR_WORDS):
                    m.d.sync += [word.eq(0), number.eq(0)]
                    m.next = "check fields"
            with m.State("check fields"):
                m.d.sync += problem.eq(found)
                m.next = "check extents"
            with m.State("check extents"):
                m.d.sync += number.eq(number + 1)
                with m.If((problem == Error.NONE) & (check != Error.NONE)):
                    m.d.sync += problem.eq(check)
                with m.If(number == EXTENTS):
                    m.next = "offer"
            with m.State("offer"):
                with m.If(self.unit_ready):
                    with m.If(problem != Error.NONE):
                        m.d.sync += [self.error.eq(problem), self.failed.eq(index)]
                        m.next = "settle"
                    with m.Else():
                        m.d.comb += self.accept.eq(1)
                        m.d.sync += [self.current.eq(self.coming), index.eq(index + 1)]
                        m.next = "fetch"
                        with m.If(index + 1 == count):
                            m.next = "finish"
            with m.State("finish"):
                with m.If(self.unit_ready):
                    m.next = "settle"
            with m.State("settle"):
                # A unit's last write may come in the cycle after it is ready.
                m.next = "idle"

    def _field_error(self, m):
        """Return the error of the fields alone; the first listed wins."""
        config, descriptor = self.config, self.coming
        words = self.coming.as_value()
        forward = Signal()
        backward = Signal()
        streams = Signal()
        lanes = Signal()
        m.d.comb += [
            forward.eq(descriptor.opcode == Opcode.FORWARD),
            backward.eq(descriptor.opcode == Opcode.BACKWARD),
            streams.eq(forward | backward),
            lanes.eq(descriptor.lanes_log2 != 0),
        ]
        self.is_forward, self.is_backward, self.is_streams = forward, backward, streams
        self.is_confidence = descriptor.opcode == Opcode.CONFIDENCE
        self.is_angle = descriptor.opcode == Opcode.ANGLE
        self.has_ws = descriptor.schedule != Schedule.WEIGHT_GRADIENT
        self.has_os = descriptor.schedule != Schedule.INPUT_GRADIENT

        reserved = Cat(*(words.word_select(index, 32) & mask
                         for index, mask in enumerate(reserved_masks())))
        packs = backward & lanes
        dropped = Mux(packs, Mux(descriptor.lanes_log2 == 1, 4, 6), 0)
        rows_log2 = ceil_log2(config.rows)
        misaligned = (descriptor.w_base[:rows_log2] != 0) | (
            backward & self.has_os & (descriptor.state_base[:rows_log2] != 0))
        checks = (
            (Error.RESERVED, reserved.any()),
            (Error.OPCODE, ~(streams | self.is_confidence | self.is_angle)),
            (Error.LANES, (streams & (descriptor.lanes_log2 == 3)) | (forward & lanes)
             | (streams & lanes & (not config.lanes))),
            (Error.STEPS, Mux(
                self.is_angle, descriptor.rows == 0,
                (descriptor.steps == 0) | (descriptor.steps > config.steps_depth)
                | (streams & (descriptor.x_stride < descriptor.steps)))),
            (Error.TILES, streams & (
                (descriptor.k_tiles == 0) | (descriptor.k_tiles > MAX_TILES)
                | (descriptor.n_tiles == 0) | (descriptor.n_tiles > MAX_TILES))),
            (Error.SHIFT, streams & (descriptor.x_shift > dropped)),
            (Error.ALIGNMENT, streams & misaligned),
            (Error.CLASSES, self.is_confidence & (
                (descriptor.classes < 2) | (descriptor.classes > MAX_TILES * config.columns))),
        )
        found = Signal(8)
        for error, condition in reversed(checks):
            with m.If(condition):
                m.d.comb += found.eq(error)
        return found

    def _extents(self, m):
        """Check one region of a buffer a cycle: base + count * stride against its depth."""
        config, descriptor = self.config, self.coming
        lanes = config.lane_count
        k_part = ceil_log2(lanes // config.rows)
        n_part = ceil_log2(lanes // config.columns)

        def blocks(tiles, part_bits):
            return (tiles + (1 << part_bits) - 1) >> part_bits

        k_blocks = blocks(descriptor.k_tiles, k_part)
        n_blocks = blocks(descriptor.n_tiles, n_part)
        words = blocks(descriptor.classes, ceil_log2(lanes))
        groups = blocks(descriptor.steps, descriptor.lanes_log2)
        tile_rows = descriptor.n_tiles << ceil_log2(config.rows)
        forward, backward = self.is_forward, self.is_backward
        packs = backward & self.has_os & (descriptor.lanes_log2 != 0) & (descriptor.n_tiles > 1)
        reads_x = forward | (backward & (self.has_os | descriptor.mask))
        writes_y = forward & ~descriptor.keep_sums
        writes_dx = backward & self.has_ws & ~descriptor.keep_sums
        drains = backward & self.has_os
        angle, confidence = self.is_angle, self.is_confidence
        activation, gradient = config.activation_depth, config.gradient_depth
        weight = config.weight_depth
        # (applies, base, count, stride, depth, error), in the order of program_check.
        extents = (
            (reads_x | confidence, descriptor.x_base, Mux(confidence, words, k_blocks),
             Mux(confidence, descriptor.steps, descriptor.x_stride), activation,
             Error.ACTIVATION_RANGE),
            (writes_y | packs, Mux(forward, descriptor.out_base, descriptor.packed_base),
             Mux(forward, n_blocks, k_blocks), Mux(forward, descriptor.steps, groups),
             activation, Error.ACTIVATION_RANGE),
            (backward, descriptor.d_base, n_blocks, descriptor.steps, gradient,
             Error.GRADIENT_RANGE),
            (writes_dx, descriptor.out_base, k_blocks, descriptor.steps, gradient,
             Error.GRADIENT_RANGE),
            (self.is_streams, descriptor.w_base, descriptor.k_tiles, tile_rows, weight,
             Error.WEIGHT_RANGE),
            (drains | angle, descriptor.state_base, Mux(angle, descriptor.rows, descriptor.k_tiles),
             Mux(angle, 1, tile_rows), weight, Error.STATE_RANGE),
            (angle, descriptor.packed_base, descriptor.rows, 1, weight, Error.STATE_RANGE),
        )
        assert len(extents) == EXTENTS
        number = Signal(range(EXTENTS + 1))
        applies = Signal()
        base = Signal(32)
        count = Signal(16)
        stride = Signal(18)
        with m.Switch(number):
            for index, (condition, start, how_many, step, _, _) in enumerate(extents):
                with m.Case(index):
                    m.d.comb += [
                        applies.eq(condition), base.eq(start), count.eq(how_many),
                        stride.eq(step),
                    ]
        # The product is a register: the comparison of an extent comes a cycle after its product.
        size = Signal(34)
        based = Signal.like(base)
        checked = Signal()
        before = Signal.like(number)
        end = Signal(35)
        check = Signal(8)
        m.d.sync += [size.eq(count * stride), based.eq(base), checked.eq(applies),
                     before.eq(number)]
        m.d.comb += end.eq(based + size)
        with m.Switch(before):
            for index, (_, _, _, _, depth, error) in enumerate(extents):
                with m.Case(index), m.If(checked & (end > depth)):
                    m.d.comb += check.eq(error)
        return number, check
