"""Interleaving scheduler: which slot every cycle is, and what memory feeds it."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import Opcode, Schedule

from .layouts import DescriptorLayout, Mode, Wave
from .tile_loop import BlockPointer, TapPointer, TileLoop
from .walk import COORDINATE_BITS, PixelWalk

__all__ = ["Scheduler"]


class Scheduler(wiring.Component):
    """Runs the tiles of a forward or backward descriptor through the array.

    Per tile it issues T forward slots, or T weight-stationary and T output-stationary ones in the
    order that the schedule asks for: interleaved (q weight-stationary slots, then one
    output-stationary slot for q packed activations), either kind alone, or one after the other.
    With `overlap` the next weights enter and the last gradients leave while a tile streams;
    without it the array shifts between tiles.

    Everything here is issued one cycle before the array sees it: `wave`, `shift` and the flags
    named ``_wave`` come a register later, together with what the memories then answer.

    Members
    -------
    start : In(1)
        Begin; `descriptor` and `mode` are right from the next cycle on.
    descriptor : In(DescriptorLayout)
    ready : Out(1)
        No descriptor is running; the last write of the one before happens at the latest now.
    mode : Out(Mode)
    wave : Out(Wave), shift : Out(1)
    keep_address : Out, keep_index : In
        Index t and, a cycle later, entry t of the keep list.
    x_read, x_address, packed_read : Out
        Row of X, or of packed X, from the activation buffer (never both).
    element : Out
        With `patch`: the element of the image buffer at which `x_read` reads.
    x_block_ends : Out(1)
        The next tile takes another block of X.
    x_zero : Out(1)
        The row of X lies outside its image: it is zero.
    x_packed : Out(1)
        What was read last are packed words.
    d_read, d_address : Out
    x_wave, packed_wave, x_part : Out
        The west edge takes X from the buffer, or from the packer; which part of the word.
    d_wave, d_part : Out
        The north edge takes D, else zero (padding of a group); which part of the word.
    pack_wave, pack_step : Out
        The X at the buffer's output goes into the packer, as that step of a group.
    packed_write, packed_address, packed_part : Out
        Write what the packer holds.
    counts_wave, ends_wave : Out(1)
        The D of this slot belongs to the weight gradient; this is the last slot of a tile.
    load, result, drain : Out(1)
        A shift takes a row of weights; a slot gives a row of sums; a shift gives a row of
        gradients.
    product, slot_now : Out(1)
        An activation of this slot goes into the weight gradient; there is a slot (for the
        counters).
    """

    def __init__(self, config: Config):
        self.config = config
        steps = ceil_log2(config.steps_depth)
        activation = ceil_log2(config.activation_depth)
        self.k_part_bits = ceil_log2(config.lane_count // config.rows)
        self.n_part_bits = ceil_log2(config.lane_count // config.columns)
        k_part, n_part = max(1, self.k_part_bits), max(1, self.n_part_bits)
        self.element_bits = max(
            activation, ceil_log2(config.image_depth) + ceil_log2(config.lane_count))
        super().__init__({
            "start": In(1), "descriptor": In(DescriptorLayout), "ready": Out(1),
            "mode": Out(Mode), "wave": Out(Wave), "shift": Out(1),
            "keep_address": Out(steps), "keep_index": In(steps),
            "x_read": Out(1), "x_address": Out(activation), "packed_read": Out(1),
            "element": Out(self.element_bits), "x_zero": Out(1), "x_packed": Out(1),
            "x_block_ends": Out(1),
            "d_read": Out(1), "d_address": Out(ceil_log2(config.gradient_depth)),
            "x_wave": Out(1), "packed_wave": Out(1), "x_part": Out(k_part),
            "d_wave": Out(1), "d_part": Out(n_part),
            "pack_wave": Out(1), "pack_step": Out(2),
            "packed_write": Out(1), "packed_address": Out(activation), "packed_part": Out(k_part),
            "counts_wave": Out(1), "ends_wave": Out(1),
            "load": Out(1), "result": Out(1), "drain": Out(1), "product": Out(1),
            "slot_now": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        self._decode(m)
        self._tiles(m)
        self._slots(m)
        self._operands(m)
        self._sequence(m)
        return m

    def _decode(self, m):
        """Name what the descriptor asks for."""
        descriptor = self.descriptor
        self.forward = Signal()
        self.interleaved = Signal()
        self.sequential = Signal()
        self.drains = Signal()
        self.packs = Signal()
        self.begin = Signal()
        backward = ~self.forward
        m.d.comb += [
            self.forward.eq(descriptor.opcode == Opcode.FORWARD),
            self.interleaved.eq(backward & (descriptor.schedule == Schedule.INTERLEAVED)),
            self.sequential.eq(backward & (descriptor.schedule == Schedule.SEQUENTIAL)),
            self.drains.eq(backward & (descriptor.schedule != Schedule.INPUT_GRADIENT)),
            self.packs.eq(descriptor.lanes_log2 != 0),
            self.mode.forward.eq(self.forward),
            self.mode.two.eq(descriptor.lanes_log2 == 1),
            self.mode.four.eq(descriptor.lanes_log2 == 2),
        ]
        m.d.sync += self.begin.eq(self.start)

    def _tiles(self, m):
        """Walk over the tiles; X, packed X and D follow."""
        config, descriptor, forward = self.config, self.descriptor, self.forward
        self.tile_ends = Signal()
        self.later_tile = Signal()
        m.submodules.loop = self.loop = loop = TileLoop()
        m.d.comb += [
            loop.start.eq(self.begin),
            loop.descriptor.eq(descriptor),
            loop.forward.eq(forward),
            loop.advance.eq(self.tile_ends),
        ]
        with m.If(self.begin):
            m.d.sync += self.later_tile.eq(0)
        with m.Elif(self.tile_ends):
            m.d.sync += self.later_tile.eq(1)

        activation = ceil_log2(config.activation_depth)
        self.x_pointer = BlockPointer(activation, self.k_part_bits)
        self.patch_pointer = BlockPointer(self.element_bits, 0)
        self.packed_pointer = BlockPointer(activation, self.k_part_bits)
        self.d_pointer = BlockPointer(ceil_log2(config.gradient_depth), self.n_part_bits)
        m.submodules.x_pointer = self.x_pointer
        m.submodules.patch_pointer = self.patch_pointer
        m.submodules.packed_pointer = self.packed_pointer
        m.submodules.d_pointer = self.d_pointer
        groups = (descriptor.steps + (1 << descriptor.lanes_log2) - 1) >> descriptor.lanes_log2
        last_block = loop.step_block & loop.last_block
        for pointer in (self.x_pointer, self.patch_pointer):
            m.d.comb += [
                pointer.base.eq(descriptor.x_base),
                pointer.stride.eq(descriptor.x_stride),
                pointer.rewind.eq(self.begin | last_block),
                pointer.advance.eq(loop.step_block),
            ]
        m.d.comb += [
            self.packed_pointer.base.eq(descriptor.packed_base),
            self.packed_pointer.stride.eq(groups),
            self.packed_pointer.rewind.eq(self.begin),
            self.packed_pointer.advance.eq(loop.step_block),
            self.d_pointer.base.eq(descriptor.d_base),
            self.d_pointer.stride.eq(Mux(descriptor.conv, descriptor.d_stride, descriptor.steps)),
            self.d_pointer.rewind.eq(self.begin | (loop.step_n & loop.last_n)),
            self.d_pointer.advance.eq(loop.step_n),
        ]
        self._taps(m)

    def _taps(self, m):
        """Say how far the taps of this tile have moved X or D, and where that side begins."""
        descriptor, loop = self.descriptor, self.loop
        steps = {"offset": (self.element_bits, "tap_row", "tap_pixel"),
                 "y": (COORDINATE_BITS, "tap_dy", None), "x": (COORDINATE_BITS, None, "tap_dx")}
        moved = {}
        for name, (bits, row, pixel) in steps.items():
            m.submodules[f"tap_{name}"] = pointer = TapPointer(bits)
            pointer.follow(m, loop, self.begin)
            m.d.comb += [
                pointer.row.eq(getattr(descriptor, row) if row else 0),
                pointer.pixel.eq(getattr(descriptor, pixel) if pixel else 0),
            ]
            moved[name] = pointer.offset
        self.tap_offset = moved["offset"]
        self.tap_y = Signal(signed(COORDINATE_BITS))
        self.tap_x = Signal(signed(COORDINATE_BITS))
        m.d.comb += [
            self.tap_y.eq(moved["y"] + descriptor.y_first),
            self.tap_x.eq(moved["x"] + descriptor.x_first),
        ]

    def _slots(self, m):
        """Say what a slot of the running tile is, and count through the tile."""
        descriptor = self.descriptor
        steps = ceil_log2(self.config.steps_depth)
        # Rounding a tile up to whole groups can pass the last step by up to three.
        self.step = step = Signal(steps + 2)
        self.next_step = next_step = Signal.like(step)
        self.member = member = Signal(3)
        self.group = Signal(steps)
        second_phase = Signal()
        due = Signal()
        self.slot = Signal()
        self.slot_os = Signal()
        self.slot_step = Signal()
        self.step_valid = Signal()
        self.slot_last = Signal()
        ws_only = Signal()
        os_only = Signal()
        tail = Signal()
        after_group = Signal()
        group_full = Signal()
        self.phase_last = phase_last = Signal()
        steps_done = step >= descriptor.steps
        m.d.comb += [
            ws_only.eq(~self.forward & ((descriptor.schedule == Schedule.INPUT_GRADIENT)
                                        | (self.sequential & ~second_phase))),
            os_only.eq(~self.forward & ((descriptor.schedule == Schedule.WEIGHT_GRADIENT)
                                        | (self.sequential & second_phase))),
            # The slot after a whole group: of its own when interleaved; without the other kind of
            # slot between, the next group's first step, or past the last group nothing.
            after_group.eq(self.interleaved & (member == 1 << descriptor.lanes_log2)),
            tail.eq(os_only & due & steps_done),
            self.slot_step.eq(~after_group & ~tail),
            self.slot_os.eq(after_group | (os_only & (due | ~self.packs))),
            self.step_valid.eq(~steps_done),
            group_full.eq(member == (1 << descriptor.lanes_log2) - 1),
            phase_last.eq(Mux(
                self.interleaved, after_group & steps_done,
                Mux(os_only & self.packs, tail, step == descriptor.steps - 1))),
            self.slot_last.eq(phase_last & ~(self.sequential & ~second_phase)),
            next_step.eq(step),
        ]
        with m.If(self.begin):
            m.d.comb += next_step.eq(0)
            m.d.sync += [member.eq(0), self.group.eq(0), due.eq(0), second_phase.eq(0)]
        with m.Elif(self.slot):
            with m.If(self.slot_step):
                m.d.comb += next_step.eq(step + 1)
                m.d.sync += member.eq(member + 1)
            with m.If(after_group | (os_only & group_full)):
                m.d.sync += member.eq(0)
            m.d.sync += due.eq(os_only & self.packs & self.slot_step & group_full)
            with m.If(self.slot_os):
                m.d.sync += self.group.eq(self.group + 1)
            with m.If(phase_last):
                m.d.comb += next_step.eq(0)
                m.d.sync += [member.eq(0), self.group.eq(0), due.eq(0)]
                m.d.sync += second_phase.eq(self.sequential & ~second_phase)
        m.d.sync += step.eq(next_step)
        self.gives_sums = Signal()
        self.takes_x = Signal()
        m.d.comb += [
            self.gives_sums.eq(self.forward | self.interleaved | ws_only),
            self.takes_x.eq(self.interleaved | os_only),
        ]

    def _walks(self, m):
        """Go from pixel to pixel on both sides, as the steps do."""
        descriptor = self.descriptor
        rewind = self.begin | (self.slot & self.phase_last)
        advance = self.slot & self.slot_step
        conv = descriptor.conv
        self.x_walk = PixelWalk(self.element_bits)
        self.d_walk = PixelWalk(ceil_log2(self.config.gradient_depth))
        m.submodules.x_walk, m.submodules.d_walk = self.x_walk, self.d_walk
        sides = (
            (self.x_walk, descriptor.x_pixel, descriptor.x_row,
             Mux(descriptor.gather, 0, descriptor.x_image)),
            (self.d_walk, 1, descriptor.d_row, descriptor.d_image),
        )
        for walk, pixel, row, image in sides:
            m.d.comb += [
                walk.rewind.eq(rewind), walk.advance.eq(advance),
                walk.t_x.eq(descriptor.t_x), walk.t_y.eq(descriptor.t_y),
                walk.pixel.eq(pixel), walk.row.eq(row), walk.image.eq(image),
                walk.y_step.eq(descriptor.y_step), walk.x_step.eq(descriptor.x_step),
            ]
        inside = Signal()
        y, x = Signal(COORDINATE_BITS), Signal(COORDINATE_BITS)
        m.d.comb += [
            y.eq(self.x_walk.y + self.tap_y),
            x.eq(self.x_walk.x + self.tap_x),
            # A negative number is a large one without its sign.
            inside.eq((y < descriptor.y_limit) & (x < descriptor.x_limit)),
        ]
        d_moves = conv & descriptor.d_moves & ~self.forward
        self.d_moves = d_moves
        self.x_inside = ~conv | descriptor.patch | d_moves | inside
        self.d_inside = ~d_moves | inside

        # The keep list is asked for the next step, or image.
        image = Signal(ceil_log2(self.config.steps_depth))
        next_image = Signal.like(image)
        with m.If(rewind):
            m.d.comb += next_image.eq(descriptor.first_sample)
        with m.Else():
            m.d.comb += next_image.eq(image + (advance & self.x_walk.image_last))
        m.d.sync += image.eq(next_image)
        m.d.comb += self.keep_address.eq(Mux(conv, next_image, self.next_step))

    def _operands(self, m):
        """Read what the slot needs, and tell the edges what to do with it a cycle later."""
        descriptor, loop = self.descriptor, self.loop
        self._walks(m)
        gathers = descriptor.gather & ~self.forward
        step_here = Signal()
        packing = Signal()
        row = Signal(self.element_bits)
        d_row = Signal(ceil_log2(self.config.gradient_depth))
        tap = Signal.like(row)
        m.d.comb += [
            row.eq(Mux(gathers, self.keep_index, self.step)),
            d_row.eq(self.step),
            tap.eq(self.tap_offset),
            self.element.eq(self.patch_pointer.address + row),
        ]
        with m.If(descriptor.conv):
            m.d.comb += row.eq(
                self.x_walk.address + descriptor.x_offset + Mux(self.d_moves, 0, tap)
                + Mux(gathers, self.keep_index * descriptor.x_image, 0))
        with m.If(self.d_moves):
            m.d.comb += d_row.eq(self.d_walk.address + descriptor.d_offset + tap)
        m.d.comb += [
            step_here.eq(self.slot & self.slot_step & self.step_valid),
            # Packed once, while the first tile of a block of X streams; later ones read the words.
            packing.eq(self.packs & loop.inner_first),
            self.x_read.eq(step_here & self.x_inside
                           & (self.forward
                              | (self.takes_x & (~self.packs | loop.inner_first)))),
            self.packed_read.eq(self.slot & self.slot_os & self.packs & ~loop.inner_first),
            self.x_address.eq(Mux(self.packed_read, self.packed_pointer.address + self.group,
                                  self.x_pointer.address + row)),
            self.d_read.eq(step_here & ~self.forward & self.d_inside),
            self.d_address.eq(self.d_pointer.address + d_row),
            self.result.eq(step_here & self.gives_sums),
            self.product.eq(step_here & self.takes_x),
            self.slot_now.eq(self.slot),
        ]
        m.d.sync += [
            self.x_wave.eq(self.slot & (self.forward | self.slot_os)),
            self.packed_wave.eq(packing),
            self.x_part.eq(Mux(self.packed_read, self.packed_pointer.part, self.x_pointer.part)),
            self.d_part.eq(self.d_pointer.part),
            self.counts_wave.eq(self.product),
            self.ends_wave.eq(self.tile_ends),
            self.pack_wave.eq(step_here & self.takes_x & packing),
            self.pack_step.eq(self.member),
            self.packed_write.eq(self.slot & self.slot_os & packing & ~loop.inner_last),
            self.packed_address.eq(self.packed_pointer.address + self.group),
            self.packed_part.eq(self.packed_pointer.part),
        ]
        # These stand with what was read, which an output-stationary slot may use again.
        with m.If(self.packed_read):
            m.d.sync += [self.x_zero.eq(0), self.x_packed.eq(1)]
        with m.Elif(step_here):
            m.d.sync += [self.x_zero.eq(~self.x_inside), self.x_packed.eq(0)]
        with m.If(self.slot & self.slot_step):
            m.d.sync += self.d_wave.eq(self.step_valid & self.d_inside)

    def _sequence(self, m):
        """Load, stream, drain.

        A shift moves whole columns, so it waits until the wave that came before has passed all
        rows: `age` counts the cycles of a tile, or since one ended.
        """
        config, loop = self.config, self.loop
        rows, columns = config.rows, config.columns
        issued = Signal(Wave)
        shift = Signal()
        m.d.sync += [self.wave.eq(issued), self.shift.eq(shift)]
        m.d.comb += issued.os.eq(self.slot & self.slot_os)

        age = Signal(range(2 * rows))
        shift_from, shift_end = rows - 1, 2 * rows - 1
        shifting = Signal()
        finished = Signal()
        flush = Signal(range(rows + columns))
        m.d.comb += shifting.eq((age >= shift_from) & (age < shift_end))
        with m.If(age != shift_end):
            m.d.sync += age.eq(age + 1)

        def end_tile():
            m.d.comb += self.tile_ends.eq(1)
            m.d.sync += [age.eq(0), finished.eq(loop.last)]
            if not config.overlap:
                m.d.sync += block_ended.eq(loop.step_block)
            if config.overlap:
                m.d.comb += issued.swap.eq(~loop.last | self.drains)
            with m.If(~loop.last):
                m.next = "stream" if config.overlap else "turn"
            with m.Elif(self.drains):
                m.next = "turn"
            with m.Else():
                m.d.sync += flush.eq(rows + columns - 1)
                m.next = "flush"

        def shift_beside_slots():
            with m.If(needs_shifts & shifting):
                m.d.comb += [
                    shift.eq(1),
                    self.load.eq(~loop.last),
                    self.drain.eq(self.later_tile & self.drains),
                ]

        if config.overlap:
            m.d.comb += self.x_block_ends.eq(loop.step_block)
        block_ended = Signal()
        needs_shifts = Signal()
        m.d.comb += needs_shifts.eq(~loop.last | (self.later_tile & self.drains))

        with m.FSM(name="sequence"):
            with m.State("idle"):
                m.d.comb += self.ready.eq(1)
                m.d.sync += [age.eq(shift_from + 1), finished.eq(0)]
                with m.If(self.start):
                    m.d.comb += [shift.eq(1), self.load.eq(1)]
                    m.next = "load"
            with m.State("load"):
                m.d.comb += [shift.eq(1), self.load.eq(1)]
                with m.If(age == shift_end - 1):
                    m.d.sync += age.eq(0)
                    m.next = "swap" if config.overlap else "stream"
                    if not config.overlap:
                        with m.If(self.descriptor.patch):
                            m.next = "find patches"
            if not config.overlap:
                with m.State("find patches"):
                    # The image buffer learns the window, a row of the array a cycle.
                    m.d.sync += age.eq(0)
                    m.next = "stream"
            if config.overlap:
                with m.State("swap"):
                    m.d.comb += issued.swap.eq(1)
                    m.d.sync += age.eq(0)
                    m.next = "stream"
            with m.State("stream"):
                m.d.comb += self.slot.eq(1)
                if config.overlap:
                    shift_beside_slots()
                with m.If(self.slot_last):
                    if config.overlap:
                        with m.If(needs_shifts & (age != shift_end)):
                            m.next = "pad"
                        with m.Else():
                            end_tile()
                    else:
                        end_tile()
            if config.overlap:
                with m.State("pad"):
                    shift_beside_slots()
                    with m.If(age == shift_end):
                        end_tile()
            with m.State("turn"):
                with m.If(shifting):
                    m.d.comb += [
                        shift.eq(1), self.load.eq(~finished), self.drain.eq(self.drains),
                    ]
                with m.If(age == shift_end - 1):
                    if not config.overlap:
                        m.d.comb += self.x_block_ends.eq(block_ended)
                        m.d.sync += block_ended.eq(0)
                    m.d.sync += [age.eq(0), flush.eq(columns - 1)]
                    m.next = "stream"
                    with m.If(finished):
                        m.next = "flush"
            with m.State("flush"):
                m.d.sync += flush.eq(flush - 1)
                with m.If(flush == 0):
                    m.next = "idle"
