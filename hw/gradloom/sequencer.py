"""Fetches descriptors, refuses bad ones, and hands the others to the unit that runs them."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import (
    DESCRIPTOR_WORDS,
    Error,
    Function,
    Opcode,
    Schedule,
    SkipRule,
    memory_shape,
    reserved_masks,
)
from gradloom_golden.program_check import (
    IN_ORDER,
    MAX_TILES,
    MOVABLE,
    RANGE_ERROR,
    WINDOW_FUNCTIONS,
)

from .layouts import DescriptorLayout
from .memory_port import FAILED_BITS

__all__ = ["Sequencer"]

EXTENTS = 8

MEMORY_OPCODES = (Opcode.LOAD, Opcode.SAVE)


class Sequencer(wiring.Component):
    """Runs a program: fetch and check the next descriptor while the present one works.

    Checks are those of `gradloom_golden.program_check`, in its order: the first that fails ends
    the program once the descriptors before it have finished. Loads and saves run beside what
    computes; each side waits for the other where the descriptor asks for it.

    Members
    -------
    run : In(1), length : In(32)
        Start a program of that many descriptors from the program memory.
    read_en, read_address, read_data
        Program memory, in 32-bit words.
    list_start : In(1), list_words : In(stream.Signature(32)), list_fault : In(8)
        Start a program that comes as a stream of words; a nonzero `list_fault` is the `Error` that
        ends it after the words that came.
    resolve : Out(1), resolved : In(1), effective : In(DescriptorLayout)
        Ask for `coming` with the shifts of the scale table, and take it.
    kept : In
        Samples that keep their gradient.
    unit_ready : In(1)
        Nothing computes.
    accept : Out(1)
        `coming` starts to compute in this cycle and is `current` from the next.
    mover_ready : In(1), move : Out(1), mover_error : In(8)
        Nothing is loaded or saved; `coming` starts to be in this cycle; what the mover met.
    coming, current : Out(DescriptorLayout)
    waits : Out(1)
        Nothing computes because of a load or save.
    busy : Out(1)
    error : Out(8), failed : Out(FAILED_BITS)
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
            "list_start": In(1),
            "list_words": In(stream.Signature(32)),
            "list_fault": In(8),
            "resolve": Out(1),
            "resolved": In(1),
            "effective": In(DescriptorLayout),
            "kept": In(ceil_log2(config.steps_depth) + 1),
            "unit_ready": In(1),
            "accept": Out(1),
            "mover_ready": In(1),
            "move": Out(1),
            "mover_error": In(8),
            "coming": Out(DescriptorLayout),
            "current": Out(DescriptorLayout),
            "waits": Out(1),
            "busy": Out(1),
            "error": Out(8),
            "failed": Out(FAILED_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        found = self._field_error(m)
        extent = self._extents(m)
        self._fetch(m, found, extent)
        return m

    def _fetch(self, m, found, extent):
        self._number, self._check = extent
        self._index = index = Signal(FAILED_BITS)
        count = Signal.like(index)
        self._word = word = Signal(range(DESCRIPTOR_WORDS + 1))
        self._problem = problem = Signal(8)
        listed = Signal()
        m.d.comb += [
            self.busy.eq(1),
            self.read_address.eq(Cat(word[:ceil_log2(DESCRIPTOR_WORDS)], index)),
        ]
        self._moved = Signal.like(index)
        moved = Signal()
        self._mover_failed = mover_failed = moved & (self.mover_error != Error.NONE)
        with m.If(self.move):
            m.d.sync += moved.eq(1)
        begin = [moved.eq(0), index.eq(0), word.eq(0), self.failed.eq(0), self.error.eq(Error.NONE)]
        with m.FSM(name="fetch"):
            with m.State("idle"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.list_start):
                    m.d.sync += [*begin, listed.eq(1)]
                    m.next = "take"
                with m.Elif(self.run):
                    m.d.sync += [*begin, listed.eq(0), count.eq(self.length)]
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
                    self._begin_checks(m)
            with m.State("take"):
                m.d.comb += self.list_words.ready.eq(1)
                with m.If(self.list_words.valid):
                    m.d.sync += [
                        self.coming.eq(
                            Cat(self.coming.as_value()[32:], self.list_words.payload)),
                        word.eq(word + 1),
                    ]
                    with m.If(word == DESCRIPTOR_WORDS - 1):
                        self._begin_checks(m)
                with m.Elif(self.list_fault != Error.NONE):
                    m.d.sync += problem.eq(self.list_fault)
                    m.next = "fail"
            with m.State("check fields"):
                m.d.sync += problem.eq(found)
                m.next = "check extents"
            with m.State("check extents"):
                m.d.sync += self._number.eq(self._number + 1)
                with m.If((problem == Error.NONE) & (self._check != Error.NONE)):
                    m.d.sync += problem.eq(self._check)
                with m.If(self._number == EXTENTS):
                    m.next = "offer"
            self._offer(m, count, listed)
            with m.State("finish"):
                with m.If(self.unit_ready & self.mover_ready):
                    m.next = "settle"
                    with m.If(mover_failed):
                        m.next = "fail"
            with m.State("fail"):
                with m.If(self.unit_ready & self.mover_ready):
                    self._conclude(m)
            with m.State("settle"):
                # A unit's last write may come in the cycle after it is ready.
                m.next = "idle"

    def _conclude(self, m):
        """End with an error, once what ran has ended; a transfer that failed came first."""
        with m.If(self._mover_failed):
            m.d.sync += [self.error.eq(self.mover_error), self.failed.eq(self._moved)]
        with m.Else():
            m.d.sync += [self.error.eq(self._problem), self.failed.eq(self._index)]
        m.next = "settle"

    def _begin_checks(self, m):
        m.d.sync += [self._word.eq(0), self._number.eq(0)]
        m.next = "check fields"

    def _offer(self, m, count, listed):
        """Wait until the descriptor may start, resolve what depends on the past, and start it."""
        coming, problem, index = self.coming, self._problem, self._index
        moves = Signal()
        free = Signal()
        m.d.comb += [
            moves.eq((coming.opcode == Opcode.LOAD) | (coming.opcode == Opcode.SAVE)),
            free.eq(Mux(moves,
                        self.mover_ready & (~coming.wait_compute | self.unit_ready),
                        self.unit_ready & (~coming.wait_memory | self.mover_ready))),
        ]

        def go_on():
            m.d.sync += index.eq(index + 1)
            with m.If(coming.end | (~listed & (index + 1 == count))):
                m.next = "finish"
            with m.Elif(listed):
                m.next = "take"
            with m.Else():
                m.next = "fetch"

        def start():
            with m.If(moves):
                m.d.comb += self.move.eq(1)
                m.d.sync += self._moved.eq(index)
            with m.Else():
                m.d.comb += self.accept.eq(1)
                m.d.sync += self.current.eq(coming)
            go_on()

        with m.State("offer"):
            with m.If((problem != Error.NONE) | (self.mover_ready & self._mover_failed)):
                with m.If(self.unit_ready & self.mover_ready):
                    self._conclude(m)
            with m.Elif(free):
                with m.If(coming.scaled & ~moves):
                    m.d.comb += self.resolve.eq(1)
                    m.next = "resolve"
                with m.Elif(coming.kept):
                    m.next = "count"
                with m.Else():
                    start()
            with m.Elif(~moves):
                m.d.comb += self.waits.eq(self.unit_ready)
        with m.State("resolve"):
            with m.If(self.resolved):
                m.d.sync += coming.eq(self.effective)
                m.next = "start"
                with m.If(coming.kept):
                    m.next = "count"
        with m.State("count"):
            m.next = "keep"
        with m.State("keep"):
            steps = Mux(self._size < coming.steps, self._size, coming.steps)
            m.next = "start"
            with m.If(self._images == 0):
                go_on()
            with m.Elif(moves):
                m.d.sync += coming.rows.eq(self._images)
            with m.Else():
                m.d.sync += coming.steps.eq(steps)
        with m.State("start"):
            start()

    def _field_error(self, m):
        """Return the error of the fields alone; the first listed wins."""
        config, descriptor = self.config, self.coming
        words = self.coming.as_value()

        def named(name, condition):
            signal = Signal(name=name)
            m.d.comb += signal.eq(condition)
            return signal

        opcode = descriptor.opcode

        def any_of(*opcodes):
            return Cat(*(opcode == number for number in opcodes)).any()

        self.is_forward = forward = named("forward", opcode == Opcode.FORWARD)
        self.is_backward = backward = named("backward", opcode == Opcode.BACKWARD)
        self.is_streams = streams = named("streams", forward | backward)
        self.is_confidence = confidence = named("confidence", opcode == Opcode.CONFIDENCE)
        self.is_loss = loss = named("loss", opcode == Opcode.LOSS)
        self.is_angle = angle = named("angle", opcode == Opcode.ANGLE)
        self.is_update = update = named("update", opcode == Opcode.UPDATE)
        self.is_moves = moves = named("moves", any_of(*MEMORY_OPCODES))
        self.is_vector = vector = named("vector", opcode == Opcode.VECTOR)
        self.does = does = {
            function: named(f"does_{function.name.lower()}",
                            vector & (descriptor.function == function)) for function in Function}
        lanes = named("lanes", descriptor.lanes_log2 != 0)
        self.has_ws = descriptor.schedule != Schedule.WEIGHT_GRADIENT
        self.has_os = descriptor.schedule != Schedule.INPUT_GRADIENT

        reserved = Cat(*(words.word_select(index, 32) & mask
                         for index, mask in enumerate(reserved_masks())))
        packs = backward & lanes
        dropped = Mux(packs, Mux(descriptor.lanes_log2 == 1, 4, 6), 0)
        rows_log2 = ceil_log2(config.rows)
        misaligned = (descriptor.w_base[:rows_log2] != 0) | (
            backward & self.has_os & (descriptor.state_base[:rows_log2] != 0))
        no_steps, no_rows = descriptor.steps == 0, descriptor.rows == 0
        no_pixels = (descriptor.t_x == 0) | (descriptor.t_y == 0)
        empty = no_pixels | (descriptor.taps_y == 0) | (descriptor.taps_x == 0)
        gathered = does[Function.ADD] & descriptor.gather
        self.masks_sum = masks_sum = named(
            "masks_sum", does[Function.ADD] & descriptor.gradients & descriptor.mask)
        walks = (streams & descriptor.conv) | Cat(*(does[each] for each in WINDOW_FUNCTIONS)).any()
        short = {
            stride: named(f"short_{stride}", descriptor[stride] < descriptor.steps)
            for stride in IN_ORDER}
        too_short = Cat(*(
            short[stride] & Cat(*(does[each] for each in functions)).any()
            for stride, functions in IN_ORDER.items())).any() | (short["w_block"] & masks_sum)
        counts_n = streams | does[Function.BIAS_UPDATE]
        bad_patch = descriptor.patch & (
            ~descriptor.conv | (backward & (self.has_ws | descriptor.d_moves)))
        checks = (
            (Error.RESERVED, reserved.any()),
            (Error.OPCODE, ~any_of(*Opcode)),
            (Error.LANES, (streams & (descriptor.lanes_log2 == 3)) | (forward & lanes)
             | (streams & lanes & (not config.lanes))),
            (Error.STEPS, ((angle | update | moves) & no_rows)
             | ((moves | vector | streams | confidence | loss) & no_steps)
             | ((streams | confidence | loss) & (descriptor.steps > config.steps_depth))
             | (streams & ~descriptor.conv & short["x_stride"]) | too_short),
            (Error.TILES, ((streams | vector) & (
                (descriptor.k_tiles == 0) | (descriptor.k_tiles > MAX_TILES)))
             | (counts_n & ((descriptor.n_tiles == 0) | (descriptor.n_tiles > MAX_TILES)))),
            (Error.SHIFT, streams & (descriptor.x_shift > dropped)),
            (Error.ALIGNMENT, streams & misaligned),
            (Error.CLASSES, (confidence | loss) & (
                (descriptor.classes < 2) | (descriptor.classes > MAX_TILES * config.columns))),
            (Error.GEOMETRY, (walks & empty) | (gathered & no_pixels) | (streams & bad_patch)),
            (Error.FUNCTION, (vector & (descriptor.function > max(Function)))
             | (loss & (descriptor.function > max(SkipRule)))),
            (Error.REGION, moves & ~Cat(*(descriptor.function == region
                                          for region in MOVABLE)).any()),
        )
        found = Signal(8)
        for error, condition in reversed(checks):
            with m.If(condition):
                m.d.comb += found.eq(error)
        return found

    def _regions(self, m):
        """Return the regions of buffers that a descriptor may touch, in the order of program_check.

        Of each: whether it is, base, count, stride, depth of the buffer, error.
        """
        config, descriptor = self.config, self.coming
        lanes = config.lane_count
        k_part = ceil_log2(lanes // config.rows)
        n_part = ceil_log2(lanes // config.columns)
        conv = descriptor.conv

        def blocks(tiles, part_bits):
            return (tiles + (1 << part_bits) - 1) >> part_bits

        vector, does = self.is_vector, self.does
        # A block of a VECTOR is a whole word.
        k_blocks = Mux(vector, descriptor.k_tiles, blocks(descriptor.k_tiles, k_part))
        n_blocks = blocks(descriptor.n_tiles, n_part)
        words = blocks(descriptor.classes, ceil_log2(lanes))
        groups = blocks(descriptor.steps, descriptor.lanes_log2)
        tile_rows = Mux(conv, descriptor.w_block, descriptor.n_tiles) << ceil_log2(config.rows)
        own_strides = conv | self.is_loss | vector
        out_stride = Mux(own_strides, descriptor.out_stride, descriptor.steps)
        d_stride = Mux(own_strides, descriptor.d_stride, descriptor.steps)
        forward, backward = self.is_forward, self.is_backward
        packs = backward & self.has_os & (descriptor.lanes_log2 != 0) & (
            (descriptor.n_tiles > 1) | conv)
        reads_x = (forward | (backward & (self.has_os | descriptor.mask))) & ~descriptor.patch
        writes_y = forward & ~descriptor.keep_sums
        writes_dx = backward & self.has_ws & ~descriptor.keep_sums
        drains = backward & self.has_os
        angle, update, moves = self.is_angle, self.is_update, self.is_moves
        confidence, loss = self.is_confidence, self.is_loss
        counts = confidence | loss
        by_rows = angle | update
        adds, finds, spreads, sums, fills = (does[function] for function in (
            Function.ADD, Function.MAXIMUM_GRADIENT, Function.AVERAGE_GRADIENT,
            Function.BIAS_UPDATE, Function.FILL))
        vector_x = vector & ~fills & ~sums & (descriptor.mask | ~spreads)
        vector_packed = finds | self.masks_sum
        on_activations = Signal()
        m.d.comb += on_activations.eq(does[Function.MAXIMUM] | does[Function.AVERAGE] | (
            (adds | fills) & ~descriptor.gradients))
        activation, gradient = config.activation_depth, config.gradient_depth
        weight = config.weight_depth
        either_depth = Mux(on_activations, activation, gradient)
        either_error = Mux(on_activations, Error.ACTIVATION_RANGE, Error.GRADIENT_RANGE)
        x_gradients = adds & descriptor.gradients
        moved_depth, moved_error = Signal(17), Signal(8)
        with m.Switch(descriptor.function):
            for region in MOVABLE:
                with m.Case(region):
                    m.d.comb += [moved_depth.eq(memory_shape(config, region)[0]),
                                 moved_error.eq(RANGE_ERROR[region])]
        return (
            (reads_x | counts | moves | vector_x,
             Mux(moves, descriptor.out_base, descriptor.x_base),
             Mux(moves, descriptor.rows, Mux(counts, words, k_blocks)),
             Mux(moves | confidence, descriptor.steps, descriptor.x_stride),
             Mux(moves, moved_depth, Mux(x_gradients, gradient, activation)),
             Mux(moves, moved_error, Mux(
                 x_gradients, Error.GRADIENT_RANGE, Error.ACTIVATION_RANGE))),
            (writes_y | packs | vector_packed,
             Mux(forward, descriptor.out_base, descriptor.packed_base),
             Mux(forward, n_blocks, k_blocks),
             Mux(forward, out_stride, Mux(vector, descriptor.w_block, groups)),
             activation, Error.ACTIVATION_RANGE),
            (backward | adds | finds | spreads | sums, descriptor.d_base,
             Mux(backward | sums, n_blocks, k_blocks), d_stride, either_depth, either_error),
            (writes_dx | (loss & (descriptor.schedule == 0)) | (vector & ~sums),
             descriptor.out_base, Mux(loss, words, k_blocks), out_stride, either_depth,
             either_error),
            (self.is_streams | update, descriptor.w_base,
             Mux(update, descriptor.rows, descriptor.k_tiles), Mux(update, 1, tile_rows), weight,
             Error.WEIGHT_RANGE),
            (drains | by_rows, descriptor.state_base,
             Mux(by_rows, descriptor.rows, descriptor.k_tiles), Mux(by_rows, 1, tile_rows), weight,
             Error.STATE_RANGE),
            (by_rows, descriptor.packed_base, descriptor.rows, 1, weight, Error.STATE_RANGE),
            ((forward & descriptor.bias) | sums, descriptor.bias_base, descriptor.n_tiles, 1,
             config.bias_depth, Error.BIAS_RANGE),
        )

    def _extents(self, m):
        """Check one region of a buffer a cycle: base + count * stride against its depth."""
        descriptor, regions = self.coming, self._regions(m)
        assert len(regions) == EXTENTS
        number = Signal(range(EXTENTS + 2))
        applies = Signal()
        base = Signal(32)
        count = Signal(16)
        stride = Signal(24)
        depth, error = Signal(17), Signal(8)
        with m.Switch(number):
            for index, region in enumerate(regions):
                with m.Case(index):
                    m.d.comb += [
                        signal.eq(value) for signal, value in zip(
                            (applies, base, count, stride, depth, error), region, strict=True)]
        # The same multiplier counts the steps of the samples that are kept.
        after = Signal(signed(18))
        self._images = images = Signal(16)
        m.d.comb += after.eq(self.kept - descriptor.first_sample)
        m.d.sync += images.eq(Mux(after < 0, 0, Mux(
            after < descriptor.images, after[:16], descriptor.images)))
        with m.If(number >= EXTENTS):
            m.d.comb += [count.eq(images), stride.eq(descriptor.pixels)]
        # The product is a register: the comparison of an extent comes a cycle after its product.
        self._size = size = Signal(40)
        based, limit, fault = Signal.like(base), Signal.like(depth), Signal.like(error)
        checked = Signal()
        end = Signal(41)
        check = Signal(8)
        m.d.sync += [size.eq(count * stride), based.eq(base), checked.eq(applies),
                     limit.eq(depth), fault.eq(error)]
        m.d.comb += [end.eq(based + size), check.eq(Mux(checked & (end > limit), fault, 0))]
        return number, check
