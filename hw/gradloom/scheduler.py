"""Interleaving scheduler: which slot every cycle is, and what memory feeds it."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.program import Opcode, Schedule

from .layouts import DescriptorLayout, Mode, Wave
from .tile_loop import BlockPointer, TileLoop

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
    product : Out(1)
        An activation of this slot goes into the weight gradient (for the counters).
    """

    def __init__(self, config: Config):
        self.config = config
        steps = ceil_log2(config.steps_depth)
        activation = ceil_log2(config.activation_depth)
        self.k_part_bits = ceil_log2(config.lane_count // config.rows)
        self.n_part_bits = ceil_log2(config.lane_count // config.columns)
        k_part, n_part = max(1, self.k_part_bits), max(1, self.n_part_bits)
        super().__init__({
            "start": In(1), "descriptor": In(DescriptorLayout), "ready": Out(1),
            "mode": Out(Mode), "wave": Out(Wave), "shift": Out(1),
            "keep_address": Out(steps), "keep_index": In(steps),
            "x_read": Out(1), "x_address": Out(activation), "packed_read": Out(1),
            "d_read": Out(1), "d_address": Out(ceil_log2(config.gradient_depth)),
            "x_wave": Out(1), "packed_wave": Out(1), "x_part": Out(k_part),
            "d_wave": Out(1), "d_part": Out(n_part),
            "pack_wave": Out(1), "pack_step": Out(2),
            "packed_write": Out(1), "packed_address": Out(activation), "packed_part": Out(k_part),
            "counts_wave": Out(1), "ends_wave": Out(1),
            "load": Out(1), "result": Out(1), "drain": Out(1), "product": Out(1),
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
        descriptor, forward = self.descriptor, self.forward
        self.tile_ends = Signal()
        self.later_tile = Signal()
        m.submodules.loop = self.loop = loop = TileLoop()
        m.d.comb += [
            loop.start.eq(self.begin),
            loop.outer_count.eq(Mux(forward, descriptor.n_tiles, descriptor.k_tiles)),
            loop.inner_count.eq(Mux(forward, descriptor.k_tiles, descriptor.n_tiles)),
            loop.advance.eq(self.tile_ends),
        ]
        with m.If(self.begin):
            m.d.sync += self.later_tile.eq(0)
        with m.Elif(self.tile_ends):
            m.d.sync += self.later_tile.eq(1)

        activation = ceil_log2(self.config.activation_depth)
        self.x_pointer = BlockPointer(activation, self.k_part_bits)
        self.packed_pointer = BlockPointer(activation, self.k_part_bits)
        self.d_pointer = BlockPointer(ceil_log2(self.config.gradient_depth), self.n_part_bits)
        m.submodules.x_pointer = self.x_pointer
        m.submodules.packed_pointer = self.packed_pointer
        m.submodules.d_pointer = self.d_pointer
        groups = (descriptor.steps + (1 << descriptor.lanes_log2) - 1) >> descriptor.lanes_log2
        inner_ends = self.tile_ends & loop.inner_last
        m.d.comb += [
            self.x_pointer.base.eq(descriptor.x_base),
            self.x_pointer.stride.eq(descriptor.x_stride),
            self.x_pointer.rewind.eq(self.begin | (forward & inner_ends)),
            self.x_pointer.advance.eq(Mux(forward, self.tile_ends, inner_ends)),
            self.packed_pointer.base.eq(descriptor.packed_base),
            self.packed_pointer.stride.eq(groups),
            self.packed_pointer.rewind.eq(self.begin),
            self.packed_pointer.advance.eq(inner_ends),
            self.d_pointer.base.eq(descriptor.d_base),
            self.d_pointer.stride.eq(descriptor.steps),
            self.d_pointer.rewind.eq(self.begin | inner_ends),
            self.d_pointer.advance.eq(self.tile_ends),
        ]

    def _slots(self, m):
        """Say what a slot of the running tile is, and count through the tile."""
        descriptor = self.descriptor
        steps = ceil_log2(self.config.steps_depth)
        # Rounding a tile up to whole groups can pass the last step by up to three.
        self.step = step = Signal(steps + 2)
        next_step = Signal.like(step)
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
        phase_last = Signal()
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
            self.keep_address.eq(next_step),
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

    def _operands(self, m):
        """Read what the slot needs, and tell the edges what to do with it a cycle later."""
        descriptor, loop = self.descriptor, self.loop
        step_here = Signal()
        packing = Signal()
        row = Mux(descriptor.gather & ~self.forward, self.keep_index, self.step)
        m.d.comb += [
            step_here.eq(self.slot & self.slot_step & self.step_valid),
            # Packed once, while the first column tile streams; later tiles read packed words.
            packing.eq(self.packs & loop.inner_first),
            self.x_read.eq(step_here & (self.forward
                                        | (self.takes_x & (~self.packs | loop.inner_first)))),
            self.packed_read.eq(self.slot & self.slot_os & self.packs & ~loop.inner_first),
            self.x_address.eq(Mux(self.packed_read, self.packed_pointer.address + self.group,
                                  self.x_pointer.address + row)),
            self.d_read.eq(step_here & ~self.forward),
            self.d_address.eq(self.d_pointer.address + self.step),
            self.result.eq(step_here & self.gives_sums),
            self.product.eq(step_here & self.takes_x),
        ]
        m.d.sync += [
            self.x_wave.eq(self.slot & (self.forward | self.slot_os)),
            self.packed_wave.eq(packing),
            self.x_part.eq(Mux(self.packed_read, self.packed_pointer.part, self.x_pointer.part)),
            self.d_wave.eq(~self.slot_step | self.step_valid),
            self.d_part.eq(self.d_pointer.part),
            self.counts_wave.eq(self.product),
            self.ends_wave.eq(self.tile_ends),
            self.pack_wave.eq(self.x_read & packing),
            self.pack_step.eq(self.member),
            self.packed_write.eq(self.slot & self.slot_os & packing & (descriptor.n_tiles != 1)),
            self.packed_address.eq(self.packed_pointer.address + self.group),
            self.packed_part.eq(self.packed_pointer.part),
        ]

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
                    m.d.sync += [age.eq(0), flush.eq(columns - 1)]
                    m.next = "stream"
                    with m.If(finished):
                        m.next = "flush"
            with m.State("flush"):
                m.d.sync += flush.eq(flush - 1)
                with m.If(flush == 0):
                    m.next = "idle"
