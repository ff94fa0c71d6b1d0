"""The machine's core: array, edges, buffers, units, control, and the ports that the shell holds."""

from functools import partial
from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring

from gradloom_golden.config import Config
from gradloom_golden.program import COUNTERS, IDENT, Opcode, Region, Register

from . import array
from .collector import BIAS_BITS, Collector
from .confidence import Confidence
from .counters import Counters
from .emit import place_unit
from .host_port import HostPort
from .layouts import DescriptorLayout
from .loader import WeightLoader
from .loss import Loss
from .memories import Memories
from .memory_port import core_members
from .mover import Mover
from .optimizer import Optimizer
from .packer import Packer
from .precision import Precision
from .scheduler import Scheduler
from .select import select
from .sequencer import Sequencer
from .skew import delay
from .vector import Vector

__all__ = ["Machine"]


class Machine(wiring.Component):
    """Trains networks from descriptors.

    The host writes buffers and a program through `requests`, or leaves both in memory and starts
    a list; results stand when `busy` has ended. `gradloom_golden.program` is the map,
    `gradloom_golden.machine` the definition of what a program does.

    Parameters
    ----------
    config : Config

    Members
    -------
    As `memory_port.core_members` lists.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(core_members(config))

    def elaborate(self, platform):
        m = Module()
        self._units(m, platform)
        self._control(m)
        self._memory(m)
        self._west_edge(m)
        self._north_edge(m)
        self._south_and_east_edges(m)
        self._write_back(m)
        self._drain_edge(m)
        self._compare_units(m)
        self._post_processing(m)
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
        self.loss = unit("loss", Loss, config)
        self.vector = unit("vector", Vector, config)
        self.mover = unit("mover", Mover, config)
        self.counters = unit("counters", Counters)
        self.memories = Memories(m, platform, config)
        self.buffers = self.memories.buffers

    def _control(self, m):
        """A descriptor goes from the sequencer to the unit that its opcode names."""
        sequencer, program = self.sequencer, self.buffers[Region.PROGRAM]
        scales = self.memories.scales
        self.current = sequencer.current
        coming = sequencer.coming
        streams = (coming.opcode == Opcode.FORWARD) | (coming.opcode == Opcode.BACKWARD)
        self.starts = Signal()
        self.running = Signal(4)
        units = {
            Opcode.CONFIDENCE: self.confidence, Opcode.ANGLE: self.precision,
            Opcode.VECTOR: self.vector, Opcode.RESCALE: scales,
        }
        for opcode, unit in units.items():
            m.d.comb += unit.start.eq(self.starts & (self.current.opcode == opcode))
        for unit in (self.confidence, self.precision, self.loss, self.vector):
            m.d.comb += unit.descriptor.eq(self.current)
        busy = Cat(unit.busy for unit in (*units.values(), self.loss, self.optimizer))
        m.d.comb += [
            self.loss.start.eq(self.starts & ((self.current.opcode == Opcode.LOSS)
                                              | (self.current.opcode == Opcode.THRESHOLD))),
            self.loss.exponent.eq(Mux(self.current.scaled, scales.exponent, 0)),
            program.read_en.eq(sequencer.read_en),
            program.read_address.eq(sequencer.read_address),
            sequencer.read_data.eq(program.read_data[0]),
            sequencer.list_start.eq(self.list_start),
            sequencer.list_fault.eq(self.list_fault),
            sequencer.resolved.eq(scales.resolved),
            sequencer.effective.eq(scales.effective),
            scales.resolve.eq(sequencer.resolve),
            scales.begin.eq(sequencer.accept),
            scales.descriptor.eq(coming),
            sequencer.unit_ready.eq(self.scheduler.ready & ~busy.any() & ~self.starts),
            self.scheduler.start.eq(sequencer.accept & streams),
            self.scheduler.descriptor.eq(self.current),
            self.busy.eq(sequencer.busy),
            self.error.eq(sequencer.error),
            self.failed.eq(sequencer.failed),
            self.progress.eq(sequencer.accept | sequencer.move),
            # Whose cycle this is, for the counters.
            self.running.eq(Mux(sequencer.accept, coming.opcode,
                                Mux(sequencer.unit_ready, 0, self.current.opcode))),
        ]
        wiring.connect(m, wiring.flipped(self.program), sequencer.list_words)
        m.d.sync += self.starts.eq(sequencer.accept)
        for unit in (self.collector, self.optimizer):
            m.d.comb += [unit.start.eq(self.starts), unit.descriptor.eq(self.current)]
        m.d.comb += [
            self.loader.start.eq(self.scheduler.start),
            self.loader.first.eq(coming.w_base),
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

    def _memory(self, m):
        """Loads and saves run beside what computes, with a descriptor of their own."""
        sequencer, mover = self.sequencer, self.mover
        moving = Signal(DescriptorLayout)
        started = Signal()
        m.d.sync += started.eq(sequencer.move)
        with m.If(sequencer.move):
            m.d.sync += moving.eq(sequencer.coming)
        m.d.comb += [
            mover.start.eq(started),
            mover.descriptor.eq(moving),
            sequencer.mover_ready.eq(~mover.busy & ~started),
            sequencer.mover_error.eq(mover.error),
            self.failed_address.eq(mover.failed_address),
        ]
        for source, target in (
                (mover.reads, wiring.flipped(self.reads)),
                (wiring.flipped(self.read_data), mover.read_data),
                (mover.writes, wiring.flipped(self.writes)),
                (mover.write_data, wiring.flipped(self.write_data)),
                (wiring.flipped(self.write_done), mover.write_done)):
            wiring.connect(m, source, target)
        self.memories.connect_mover(mover, ~sequencer.unit_ready)

    def _west_edge(self, m):
        """X comes from the activation buffer, straight or through the packer, or as patches."""
        config, scheduler = self.config, self.scheduler
        activations = self.buffers[Region.ACTIVATION]
        image, keep = self.memories.image, self.memories.keep["x"]
        rows, bits = config.rows, config.operand_bits
        patch = self.current.patch
        self.x_reads = Signal()
        m.d.comb += [
            self.x_reads.eq(scheduler.x_read & ~patch),
            keep.read_address.eq(Mux(
                self.vector.busy, self.vector.keep_address, scheduler.keep_address)),
            scheduler.keep_index.eq(keep.read_data),
            self.vector.keep_index.eq(keep.read_data),
            image.start.eq(self.sequencer.accept),
            image.descriptor.eq(Mux(self.sequencer.accept, self.sequencer.coming, self.current)),
            image.read_en.eq(scheduler.x_read & patch),
            image.element.eq(scheduler.element),
            image.advance.eq(scheduler.x_block_ends),
        ]
        self.memories.reads(
            Region.ACTIVATION,
            (self.x_reads | scheduler.packed_read, scheduler.x_address),
            (self.confidence.read_en, self.confidence.read_address),
            (self.loss.read_en, self.loss.read_address),
            (self.vector.activation_read_en, self.vector.activation_read_address))
        stored = select(m, activations.read_data.as_value(), scheduler.x_part, rows * bits,
                        name="x_row")
        read = Signal(rows * bits)
        m.d.comb += read.eq(Mux(
            scheduler.x_zero, 0,
            Mux(patch & ~scheduler.x_packed, image.row.as_value(), stored)))
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
        self.memories.reads(
            Region.GRADIENT,
            (scheduler.d_read, scheduler.d_address),
            (self.vector.gradient_read_en, self.vector.gradient_read_address))
        m.d.comb += self.array.gradients.as_value().eq(Mux(scheduler.d_wave, row, 0))

    def _south_and_east_edges(self, m):
        """Weights enter from the south; Y and dX are collected."""
        scheduler, collector, loader = self.scheduler, self.collector, self.loader
        weights, sums = self.buffers[Region.WEIGHT], self.buffers[Region.SUMS]
        biases, mask = self.buffers[Region.BIAS], self.buffers[Region.MASK]
        keep, vector = self.memories.keep["mask"], self.vector
        self.memories.reads(
            Region.WEIGHT, (loader.read_en, loader.read_address),
            (self.optimizer.weight_read_en, self.optimizer.weight_read_address))
        self.memories.reads(
            Region.BIAS, (collector.bias_read_en, collector.bias_read_address),
            (vector.bias_read_en, vector.bias_read_address))
        self.memories.reads(
            Region.MASK, (collector.mask_read_en, collector.mask_read_address),
            (vector.mask_read_en, vector.mask_read_address))
        bias_shift = Signal(5)
        m.d.comb += bias_shift.eq(
            BIAS_BITS - 1 - Mux(self.current.scaled, self.memories.scales.bias_shift, 0))
        m.d.comb += [
            loader.next.eq(scheduler.load),
            self.array.weights.as_value().eq(weights.read_data.as_value()),
            self.optimizer.weight_read_data.eq(weights.read_data),
            collector.coming.eq(
                delay(m, scheduler.result, self.array.RESULT_LATENCY, name="result_delay")),
            collector.sums_south.eq(self.array.sums_south),
            collector.sums_east.eq(self.array.sums_east),
            collector.bias_drop.eq(bias_shift),
            collector.bias_read_data.as_value().eq(biases.read_data.as_value()),
            sums.read_en.eq(collector.sums_read_en),
            sums.read_address.eq(collector.sums_read_address),
            collector.sums_read_data.eq(sums.read_data),
            sums.write_parts.eq(collector.sums_write_en),
            sums.write_address.eq(collector.sums_write_address),
            sums.write_data.eq(collector.sums_write_data),
            keep.read_address.eq(collector.keep_address),
            collector.keep_index.eq(keep.read_data),
            collector.mask_read_data.eq(mask.read_data.as_value()),
        ]

    def _write_back(self, m):
        """Finished rows and packed activations go to their part of a buffer word."""
        config, scheduler, collector = self.config, self.scheduler, self.collector
        vector, loss, scales = self.vector, self.loss, self.memories.scales
        forward = scheduler.mode.forward
        y_row, y_parts = self._spread(collector.out_activations, config.columns, collector.out_part)
        dx_row, dx_parts = self._spread(collector.out_gradients, config.rows, collector.out_part)
        positive, _ = self._spread(collector.out_positive, config.columns, collector.out_part)
        whole = (1 << config.lane_count // min(config.rows, config.columns)) - 1
        y_written = Mux(collector.out_en & forward, y_parts, 0)
        vector_y = Mux(vector.out_en & ~vector.out_gradient, whole, 0)
        activations = [
            (y_written, collector.out_address, y_row),
            (vector_y, vector.out_address, vector.out_activations.as_value()),
        ]
        if self.packer is not None:
            packed_row, packed_parts = self._spread(
                self.packer.packed, config.rows, scheduler.packed_part)
            activations.append((Mux(scheduler.packed_write, packed_parts, 0),
                                scheduler.packed_address, packed_row))
        self.memories.writes(Region.ACTIVATION, *activations)
        self.memories.writes(
            Region.GRADIENT,
            (Mux(collector.out_en & ~forward, dx_parts, 0), collector.out_address, dx_row),
            (Mux(vector.out_en & vector.out_gradient, whole, 0), vector.out_address,
             vector.out_gradients.as_value()),
            (Mux(loss.gradient_write_en, whole, 0), loss.gradient_write_address,
             loss.gradient_write_data.as_value()))
        self.memories.writes(
            Region.MASK, (y_written, collector.out_address, positive),
            (Mux(vector.mask_write_en, whole, 0), vector.out_address, vector.out_positive))
        from_vector = vector.out_en
        to_gradients = Mux(from_vector, vector.out_gradient, ~forward)
        current = self.current
        m.d.comb += [
            scales.measure.eq(current.measure & (vector.out_en | collector.out_en)),
            scales.scale.eq(current.out_scale),
            scales.is_gradient.eq(to_gradients),
            scales.is_unsigned.eq(~to_gradients & current.y_unsigned),
        ]
        for lane in range(config.lane_count):
            m.d.comb += scales.elements[lane].eq(Mux(
                from_vector,
                Mux(to_gradients, vector.out_gradients[lane], vector.out_activations[lane]),
                Mux(to_gradients,
                    collector.out_gradients[lane] if lane < config.rows else 0,
                    collector.out_activations[lane] if lane < config.columns else 0)))

    def _spread(self, vector, width, part):
        """Return the first `width` elements repeated over a word, and the bits of part `part`."""
        lanes = self.config.lane_count
        write_lanes = min(self.config.rows, self.config.columns)
        bits = vector.as_value() if isinstance(vector, data.View) else vector
        element = len(bits) // (len(vector) if isinstance(vector, data.View) else lanes)
        repeated = bits[:width * element].replicate(lanes // width)
        run = width // write_lanes
        return repeated, Value.cast(
            (((1 << run) - 1) << (part * run))[:lanes // write_lanes])

    def _drain_edge(self, m):
        """Let dW leave beside the old weight, which it updates."""
        scheduler, optimizer, precision = self.scheduler, self.optimizer, self.precision
        state = self.buffers[Region.STATE]
        self.memories.reads(
            Region.STATE, (optimizer.state_read_en, optimizer.state_read_address),
            (precision.read_en, precision.read_address))
        self.memories.writes(
            Region.STATE, (optimizer.state_write_en, optimizer.state_write_address,
                           optimizer.state_write_data.as_value()))
        self.memories.writes(
            Region.WEIGHT, (optimizer.weight_write_en, optimizer.weight_write_address,
                            optimizer.weight_write_data.as_value()))
        m.d.comb += [
            optimizer.coming.eq(
                delay(m, scheduler.drain, self.array.DRAIN_LATENCY, name="drain_delay")),
            optimizer.drained.eq(self.array.drained),
            optimizer.old_weights.eq(self.array.old_weights),
            optimizer.state_read_data.eq(state.read_data),
            precision.read_data.eq(state.read_data),
        ]

    def _compare_units(self, m):
        """Confidence and loss read logits and labels, and write the keep list."""
        confidence, loss, labels = self.confidence, self.loss, self.buffers[Region.LABEL]
        logits = self.buffers[Region.ACTIVATION].read_data
        self.memories.reads(
            Region.LABEL, (confidence.read_en, confidence.label_address),
            (loss.read_en, loss.label_address))
        for unit in (confidence, loss):
            m.d.comb += [unit.read_data.eq(logits), unit.label.eq(labels.read_data[0])]
        self.memories.writes_keep(*(
            (unit.keep_write_en, unit.keep_write_address, unit.keep_write_data)
            for unit in (confidence, loss)))

    def _post_processing(self, m):
        """What the vector unit reads and writes beside finished words."""
        vector, biases = self.vector, self.buffers[Region.BIAS]
        self.memories.writes(
            Region.BIAS, (vector.bias_write_en, vector.bias_write_address,
                          vector.bias_write_data.as_value()))
        for port, region in (("activation", Region.ACTIVATION), ("gradient", Region.GRADIENT),
                             ("mask", Region.MASK)):
            m.d.comb += Value.cast(getattr(vector, f"{port}_read_data")).eq(
                self.buffers[region].read_data.as_value())
        m.d.comb += vector.bias_read_data.as_value().eq(biases.read_data.as_value())

    def _counters(self, m):
        scheduler, collector, optimizer = self.scheduler, self.collector, self.optimizer
        vector, mover = self.vector, self.mover
        forward = scheduler.mode.forward
        state, activation = self.buffers[Region.STATE], self.buffers[Region.ACTIVATION]

        def runs(*opcodes):
            return Cat(*(self.running == opcode for opcode in opcodes)).any()

        events = {
            "cycles": self.busy,
            "forward_cycles": runs(Opcode.FORWARD),
            "backward_cycles": runs(Opcode.BACKWARD),
            "confidence_cycles": runs(Opcode.CONFIDENCE),
            "angle_cycles": runs(Opcode.ANGLE),
            "loss_cycles": runs(Opcode.LOSS, Opcode.THRESHOLD),
            "vector_cycles": runs(Opcode.VECTOR),
            "update_cycles": runs(Opcode.UPDATE, Opcode.RESCALE),
            "wait_cycles": self.sequencer.waits,
            "forward_slots": scheduler.result & forward,
            "ws_slots": scheduler.result & ~forward,
            "os_products": scheduler.product,
            "slots": scheduler.slot_now,
            "x_reads": activation.read_en & ~scheduler.packed_read,
            "image_reads": self.memories.image.read_en,
            "packed_reads": scheduler.packed_read,
            "d_reads": self.buffers[Region.GRADIENT].read_en,
            "weight_reads": self.buffers[Region.WEIGHT].read_en,
            "state_reads": state.read_en,
            "sum_reads": collector.sums_read_en,
            "mask_reads": self.buffers[Region.MASK].read_en,
            "y_writes": (collector.out_en & forward) | (vector.out_en & ~vector.out_gradient),
            "dx_writes": (collector.out_en & ~forward) | (vector.out_en & vector.out_gradient)
            | self.loss.gradient_write_en,
            "packed_writes": scheduler.packed_write,
            "weight_writes": optimizer.weight_write_en,
            "state_writes": optimizer.state_write_en,
            "sum_writes": collector.sums_write_en,
            "skipped_samples": self.confidence.skipped_one | self.loss.skipped_one,
            "kept_samples": self.confidence.kept_one | self.loss.kept_one,
            "correct_samples": self.loss.correct_one,
            "descriptors": self.sequencer.accept | self.sequencer.move,
            "load_words": mover.buffer_write.valid & mover.buffer_write.ready,
            "save_words": mover.buffer_read.valid & mover.buffer_read.ready,
        }
        for name in COUNTERS:
            m.d.comb += self.counters.count[name].eq(events[name])

    def _host(self, m):
        """The host's accesses, decoded by region."""
        port, sequencer, counters, loss = (
            self.host_port, self.sequencer, self.counters, self.loss)
        wiring.connect(m, wiring.flipped(self.requests), port.requests)
        wiring.connect(m, port.responses, wiring.flipped(self.responses))
        m.d.comb += port.busy.eq(self.busy)

        # CONFIDENCE and LOSS both keep samples; the last one counts.
        by_loss = Signal()
        with m.If(self.starts & ((self.current.opcode == Opcode.LOSS)
                                 | (self.current.opcode == Opcode.CONFIDENCE))):
            m.d.sync += by_loss.eq(self.current.opcode == Opcode.LOSS)
        kept = Mux(by_loss, loss.kept, self.confidence.kept)
        m.d.comb += sequencer.kept.eq(kept)

        control = Signal(32)
        status = Cat(self.busy, Const(0, 7), sequencer.error, sequencer.failed[:16])
        writes = port.write & (port.region == Region.CONTROL)
        seeds = writes & (port.offset == Register.SEED)
        clears = writes & (port.offset == Register.CLEAR)
        m.d.comb += [
            sequencer.run.eq(writes & (port.offset == Register.START)),
            sequencer.length.eq(port.data),
            counters.clear.eq(clears),
            loss.clear_loss.eq(clears),
            counters.select.eq((port.offset - Register.COUNTER) >> 1),
            counters.word.eq(port.offset[0]),
        ]
        seeded = (self.collector, self.optimizer, self.packer, loss, self.vector, self.mover)
        for unit in filter(None, seeded):
            m.d.comb += [unit.seed_load.eq(seeds), unit.seed.eq(port.data)]
        with m.If(port.offset >= Register.COUNTER):
            m.d.comb += control.eq(counters.value)
        with m.Else():
            with m.Switch(port.offset):
                for register, value in (
                    (Register.IDENT, IDENT), (Register.STATUS, status),
                    (Register.KEPT, kept), (Register.BITS, self.precision.bits),
                    (Register.LOSS, loss.loss_sum[:32]), (Register.LOSS + 1, loss.loss_sum[32:]),
                    (Register.THRESHOLD, loss.threshold),
                ):
                    with m.Case(register):
                        m.d.comb += control.eq(value)

        region = Signal.like(port.region)
        control_read = Signal(32)
        with m.If(port.read):
            m.d.sync += [region.eq(port.region), control_read.eq(control)]
        with m.If(region == Region.CONTROL):
            m.d.comb += port.answer.eq(control_read)
        self.memories.connect_host(port, region)
