"""The whole machine: array, edges, buffers, control and the host port."""

from functools import partial
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config
from gradloom_golden.program import (
    COUNTERS,
    IDENT,
    Opcode,
    Region,
    Register,
    element_bits,
    memory_shape,
)

from . import array
from .buffer import Buffer
from .collector import Collector
from .confidence import Confidence
from .counters import Counters
from .emit import place_unit
from .host_port import HostPort
from .layouts import Request
from .loader import WeightLoader
from .optimizer import Optimizer
from .packer import Packer
from .precision import Precision
from .ram import Ram
from .scheduler import Scheduler
from .select import select
from .sequencer import Sequencer
from .skew import delay

__all__ = ["Machine"]


class Machine(wiring.Component):
    """Trains fully connected networks from descriptors.

    The host writes buffers and a program through `requests`, starts it, and reads results when
    `busy` has ended. `gradloom_golden.program` is the map, `gradloom_golden.machine` the
    definition of what a program does.

    Parameters
    ----------
    config : Config

    Members
    -------
    requests : In(stream.Signature(Request))
    responses : Out(stream.Signature(32))
    busy : Out(1)
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "requests": In(stream.Signature(Request)),
            "responses": Out(stream.Signature(32)),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        self._units(m, platform)
        self._control(m)
        self._west_edge(m)
        self._north_edge(m)
        self._south_and_east_edges(m)
        self._drain_edge(m)
        self._compare_units(m)
        self._counters(m)
        self._host(m)
        return m

    def _units(self, m, platform):
        """Put everything in place; the stages below wire it."""
        config = self.config

        def unit(name: str, kind: type, *arguments, **options) -> Any:
            return place_unit(
                m, platform, name, f"gradloom_{name}", partial(kind, *arguments, **options))

        self.host_port = unit("host_port", HostPort)
        self.sequencer = unit("sequencer", Sequencer, config)
        self.scheduler = unit("scheduler", Scheduler, config)
        self.loader = unit("loader", WeightLoader, config)
        self.packer = unit("packer", Packer, config.rows) if config.lanes else None
        self.array = unit("array", array.Array, config)
        self.collector = unit("collector", Collector, config)
        self.optimizer = unit("optimizer", Optimizer, config)
        self.confidence = unit("confidence", Confidence, config)
        self.precision = unit("precision", Precision, config)
        self.counters = unit("counters", Counters)

        write_lanes = min(config.rows, config.columns)
        self.buffers: dict[Region, Buffer] = {}
        for region in (Region.PROGRAM, Region.ACTIVATION, Region.GRADIENT, Region.WEIGHT,
                       Region.STATE, Region.SUMS, Region.LABEL):
            depth, lanes, host_bits = memory_shape(config, region)
            parts = region in (Region.ACTIVATION, Region.GRADIENT)
            self.buffers[region] = unit(
                f"{region.name.lower()}_buffer", Buffer, depth, lanes,
                element_bits(config, region),
                host_bits=host_bits, write_lanes=write_lanes if parts else lanes)

        # The keep list is looked up twice in a cycle, where X is read and where dX is masked: two
        # copies.
        keep_bits = element_bits(config, Region.KEEP)
        self.keep_x = Ram(config.steps_depth, 1, keep_bits)
        self.keep_mask = Ram(config.steps_depth, 1, keep_bits)
        self.relu_mask = Ram(config.activation_depth, config.lane_count // write_lanes, write_lanes)
        m.submodules.keep_x = self.keep_x
        m.submodules.keep_mask = self.keep_mask
        m.submodules.relu_mask = self.relu_mask

    def _control(self, m):
        """A descriptor goes from the sequencer to the unit that its opcode names."""
        sequencer, program = self.sequencer, self.buffers[Region.PROGRAM]
        self.current = sequencer.current
        opcode = sequencer.coming.opcode
        streams = (opcode == Opcode.FORWARD) | (opcode == Opcode.BACKWARD)
        self.starts = Signal()
        self.running = Signal(4)
        m.d.comb += [
            program.read_en.eq(sequencer.read_en),
            program.read_address.eq(sequencer.read_address),
            sequencer.read_data.eq(program.read_data[0]),
            sequencer.unit_ready.eq(
                self.scheduler.ready & ~self.confidence.busy & ~self.precision.busy
                & ~self.starts),
            self.scheduler.start.eq(sequencer.accept & streams),
            self.scheduler.descriptor.eq(self.current),
            self.confidence.start.eq(self.starts & (self.current.opcode == Opcode.CONFIDENCE)),
            self.precision.start.eq(self.starts & (self.current.opcode == Opcode.ANGLE)),
            self.busy.eq(sequencer.busy),
            # Whose cycle this is, for the counters.
            self.running.eq(Mux(sequencer.accept, opcode,
                                Mux(sequencer.unit_ready, 0, self.current.opcode))),
        ]
        m.d.sync += self.starts.eq(sequencer.accept)
        for unit in (self.collector, self.optimizer):
            m.d.comb += [unit.start.eq(self.starts), unit.descriptor.eq(self.current)]
        m.d.comb += [
            self.loader.start.eq(self.scheduler.start),
            self.loader.first.eq(sequencer.coming.w_base),
            self.loader.descriptor.eq(self.current),
        ]
        for unit in (self.loader, self.collector):
            m.d.comb += unit.forward.eq(self.scheduler.mode.forward)
        m.d.comb += [
            self.array.mode.eq(self.scheduler.mode),
            self.array.wave.eq(self.scheduler.wave),
            self.array.shift.eq(self.scheduler.shift),
            self.array.x_unsigned.eq(self.current.x_unsigned),
            self.array.counts.eq(self.scheduler.counts_wave),
            self.array.ends.eq(self.scheduler.ends_wave),
        ]

    def _west_edge(self, m):
        """X comes from the activation buffer, straight or through the packer."""
        scheduler, activations = self.scheduler, self.buffers[Region.ACTIVATION]
        m.d.comb += [
            activations.read_en.eq(
                scheduler.x_read | scheduler.packed_read | self.confidence.read_en),
            activations.read_address.eq(Mux(
                self.confidence.read_en, self.confidence.read_address, scheduler.x_address)),
            self.keep_x.read_en.eq(1),
            self.keep_x.read_address.eq(scheduler.keep_address),
            scheduler.keep_index.eq(self.keep_x.read_data),
        ]
        rows, bits = self.config.rows, self.config.operand_bits
        read = select(m, activations.read_data.as_value(), scheduler.x_part, rows * bits,
                      name="x_row")
        chosen = Signal(rows * bits, name="west_row")
        m.d.comb += chosen.eq(read)
        if self.packer is not None:
            packer = self.packer
            m.d.comb += [
                packer.valid.eq(scheduler.pack_wave),
                packer.step.eq(scheduler.pack_step),
                packer.four.eq(scheduler.mode.four),
                packer.x_unsigned.eq(self.current.x_unsigned),
                packer.shift.eq(self.current.x_shift),
                packer.activations.eq(read),
            ]
            with m.If(scheduler.packed_wave):
                m.d.comb += chosen.eq(packer.packed)
        # The cells take signed fields: invert the top bit of unsigned ones.
        tops = Signal(bits)
        with m.If(self.current.x_unsigned):
            m.d.comb += tops.eq(1 << bits - 1)
            with m.If(scheduler.mode.two):
                m.d.comb += tops.eq(0x88)
            with m.If(scheduler.mode.four):
                m.d.comb += tops.eq(0xAA)
        for row in range(rows):
            x = chosen[row * bits:(row + 1) * bits]
            m.d.comb += self.array.west[row].eq(Mux(scheduler.x_wave, x ^ tops, 0))

    def _north_edge(self, m):
        """D comes from the gradient buffer; rows that pad a group are zero."""
        scheduler, gradients = self.scheduler, self.buffers[Region.GRADIENT]
        width = self.config.columns * self.config.gradient_bits
        row = select(m, gradients.read_data.as_value(), scheduler.d_part, width, name="d_row")
        m.d.comb += [
            gradients.read_en.eq(scheduler.d_read),
            gradients.read_address.eq(scheduler.d_address),
            self.array.gradients.as_value().eq(Mux(scheduler.d_wave, row, 0)),
        ]

    def _south_and_east_edges(self, m):
        """Weights enter from the south; Y and dX are collected and written back."""
        scheduler, collector, loader = self.scheduler, self.collector, self.loader
        weights, sums = self.buffers[Region.WEIGHT], self.buffers[Region.SUMS]
        m.d.comb += [
            loader.next.eq(scheduler.load),
            weights.read_en.eq(loader.read_en),
            weights.read_address.eq(loader.read_address),
            self.array.weights.as_value().eq(weights.read_data.as_value()),
            collector.coming.eq(
                delay(m, scheduler.result, self.array.RESULT_LATENCY, name="result_delay")),
            collector.sums_south.eq(self.array.sums_south),
            collector.sums_east.eq(self.array.sums_east),
            sums.read_en.eq(collector.sums_read_en),
            sums.read_address.eq(collector.sums_read_address),
            collector.sums_read_data.eq(sums.read_data),
            sums.write_parts.eq(collector.sums_write_en),
            sums.write_address.eq(collector.sums_write_address),
            sums.write_data.eq(collector.sums_write_data),
            self.keep_mask.read_en.eq(1),
            self.keep_mask.read_address.eq(collector.keep_address),
            collector.keep_index.eq(self.keep_mask.read_data),
            self.relu_mask.read_en.eq(collector.mask_read_en),
            self.relu_mask.read_address.eq(collector.mask_read_address),
            collector.mask_read_data.eq(self.relu_mask.read_data),
        ]
        self._write_back(m)

    def _write_back(self, m):
        """Finished rows and packed activations go to their part of a buffer word."""
        config, scheduler, collector = self.config, self.scheduler, self.collector
        activations, gradients = self.buffers[Region.ACTIVATION], self.buffers[Region.GRADIENT]
        forward = scheduler.mode.forward
        y_row, y_parts = self._spread(collector.out_activations, config.columns, collector.out_part)
        dx_row, dx_parts = self._spread(collector.out_gradients, config.rows, collector.out_part)
        positive, _ = self._spread(collector.out_positive, config.columns, collector.out_part)
        y_en = collector.out_en & forward
        m.d.comb += [
            activations.write_address.eq(collector.out_address),
            activations.write_data.as_value().eq(y_row),
            activations.write_parts.eq(Mux(y_en, y_parts, 0)),
            gradients.write_address.eq(collector.out_address),
            gradients.write_data.as_value().eq(dx_row),
            gradients.write_parts.eq(Mux(collector.out_en & ~forward, dx_parts, 0)),
            self.relu_mask.write_address.eq(collector.out_address),
            self.relu_mask.write_data.eq(positive),
            self.relu_mask.write_en.eq(Mux(y_en, y_parts, 0)),
        ]
        if self.packer is not None:
            packed_row, packed_parts = self._spread(
                self.packer.packed, config.rows, scheduler.packed_part)
            with m.If(scheduler.packed_write):
                m.d.comb += [
                    activations.write_address.eq(scheduler.packed_address),
                    activations.write_data.as_value().eq(packed_row),
                    activations.write_parts.eq(packed_parts),
                ]

    def _spread(self, vector, width, part):
        """Return the first `width` elements repeated over a word, and the bits of part `part`."""
        lanes = self.config.lane_count
        write_lanes = min(self.config.rows, self.config.columns)
        bits = vector.as_value() if isinstance(vector, data.View) else vector
        element = len(bits) // (len(vector) if isinstance(vector, data.View) else lanes)
        repeated = bits[:width * element].replicate(lanes // width)
        run = width // write_lanes
        return repeated, (((1 << run) - 1) << (part * run))[:lanes // write_lanes]

    def _drain_edge(self, m):
        """Let dW leave beside the old weight, which it updates."""
        scheduler, optimizer, precision = self.scheduler, self.optimizer, self.precision
        weights, state = self.buffers[Region.WEIGHT], self.buffers[Region.STATE]
        m.d.comb += [
            optimizer.coming.eq(
                delay(m, scheduler.drain, self.array.DRAIN_LATENCY, name="drain_delay")),
            optimizer.drained.eq(self.array.drained),
            optimizer.old_weights.eq(self.array.old_weights),
            state.read_en.eq(optimizer.state_read_en | precision.read_en),
            state.read_address.eq(Mux(
                precision.read_en, precision.read_address, optimizer.state_read_address)),
            optimizer.state_read_data.eq(state.read_data),
            precision.read_data.eq(state.read_data),
            state.write_parts.eq(optimizer.state_write_en),
            state.write_address.eq(optimizer.state_write_address),
            state.write_data.eq(optimizer.state_write_data),
            weights.write_parts.eq(optimizer.weight_write_en),
            weights.write_address.eq(optimizer.weight_write_address),
            weights.write_data.eq(optimizer.weight_write_data),
        ]

    def _compare_units(self, m):
        """Confidence reads logits and writes the keep list; precision compares gradients."""
        confidence, labels = self.confidence, self.buffers[Region.LABEL]
        m.d.comb += [
            confidence.descriptor.eq(self.current),
            self.precision.descriptor.eq(self.current),
            confidence.read_data.eq(self.buffers[Region.ACTIVATION].read_data),
            labels.read_en.eq(confidence.read_en),
            labels.read_address.eq(confidence.label_address),
            confidence.label.eq(labels.read_data[0]),
        ]
        for copy in (self.keep_x, self.keep_mask):
            m.d.comb += [
                copy.write_en.eq(confidence.keep_write_en),
                copy.write_address.eq(confidence.keep_write_address),
                copy.write_data.eq(confidence.keep_write_data),
            ]

    def _counters(self, m):
        scheduler, collector, optimizer = self.scheduler, self.collector, self.optimizer
        forward = scheduler.mode.forward
        state = self.buffers[Region.STATE]
        events = {
            "cycles": self.busy,
            "forward_cycles": self.running == Opcode.FORWARD,
            "backward_cycles": self.running == Opcode.BACKWARD,
            "confidence_cycles": self.running == Opcode.CONFIDENCE,
            "angle_cycles": self.running == Opcode.ANGLE,
            "forward_slots": scheduler.result & forward,
            "ws_slots": scheduler.result & ~forward,
            "os_products": scheduler.product,
            "x_reads": scheduler.x_read | self.confidence.read_en,
            "packed_reads": scheduler.packed_read,
            "d_reads": scheduler.d_read,
            "weight_reads": self.loader.read_en,
            "state_reads": state.read_en,
            "sum_reads": collector.sums_read_en,
            "mask_reads": collector.mask_read_en,
            "y_writes": collector.out_en & forward,
            "dx_writes": collector.out_en & ~forward,
            "packed_writes": scheduler.packed_write,
            "weight_writes": optimizer.weight_write_en,
            "state_writes": optimizer.state_write_en,
            "sum_writes": collector.sums_write_en,
            "skipped_samples": self.confidence.skipped_one,
            "kept_samples": self.confidence.kept_one,
            "descriptors": self.sequencer.accept,
        }
        for name in COUNTERS:
            m.d.comb += self.counters.count[name].eq(events[name])

    def _host(self, m):
        """The host's accesses, decoded by region."""
        port, sequencer, counters = self.host_port, self.sequencer, self.counters
        wiring.connect(m, wiring.flipped(self.requests), port.requests)
        wiring.connect(m, port.responses, wiring.flipped(self.responses))
        m.d.comb += port.busy.eq(self.busy)

        with m.Switch(port.region):
            for region, buffer in self.buffers.items():
                m.d.comb += [
                    buffer.host_address.eq(port.offset), buffer.host_data_i.eq(port.data),
                ]
                with m.Case(region):
                    m.d.comb += [buffer.host_read.eq(port.read), buffer.host_write.eq(port.write)]
            with m.Case(Region.KEEP):
                for copy in (self.keep_x, self.keep_mask):
                    with m.If(port.write):
                        m.d.comb += [
                            copy.write_en.eq(1), copy.write_address.eq(port.offset),
                            copy.write_data.eq(port.data),
                        ]
                with m.If(port.read):
                    m.d.comb += self.keep_mask.read_address.eq(port.offset)

        control = Signal(32)
        status = Cat(self.busy, Const(0, 7), sequencer.error, sequencer.failed)
        writes = port.write & (port.region == Region.CONTROL)
        seeds = writes & (port.offset == Register.SEED)
        m.d.comb += [
            sequencer.run.eq(writes & (port.offset == Register.START)),
            sequencer.length.eq(port.data),
            counters.clear.eq(writes & (port.offset == Register.CLEAR)),
            counters.select.eq((port.offset - Register.COUNTER) >> 1),
            counters.word.eq(port.offset[0]),
        ]
        seeded = [unit for unit in (self.collector, self.optimizer, self.packer) if unit]
        for unit in seeded:
            m.d.comb += [unit.seed_load.eq(seeds), unit.seed.eq(port.data)]
        with m.If(port.offset >= Register.COUNTER):
            m.d.comb += control.eq(counters.value)
        with m.Else():
            with m.Switch(port.offset):
                for register, value in (
                    (Register.IDENT, IDENT), (Register.STATUS, status),
                    (Register.KEPT, self.confidence.kept), (Register.BITS, self.precision.bits),
                ):
                    with m.Case(register):
                        m.d.comb += control.eq(value)

        region = Signal.like(port.region)
        control_read = Signal(32)
        with m.If(port.read):
            m.d.sync += [region.eq(port.region), control_read.eq(control)]
        with m.Switch(region):
            with m.Case(Region.CONTROL):
                m.d.comb += port.answer.eq(control_read)
            for place, buffer in self.buffers.items():
                with m.Case(place):
                    m.d.comb += port.answer.eq(buffer.host_data_o)
            with m.Case(Region.KEEP):
                m.d.comb += port.answer.eq(self.keep_mask.read_data)
