"""Vector unit: pooling, residual addition, bias update and fill, a buffer word a cycle."""

from functools import partial

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.lfsr import Bank
from gradloom_golden.program import Function
from gradloom_golden.vector import BIAS_BITS, SUM_BITS

from .emit import place
from .layouts import DescriptorLayout
from .lfsr import Lfsr
from .ram import Ram
from .rounding import HALF, round_shift, saturate
from .select import select
from .tile_loop import BlockPointer
from .walk import PixelWalk

__all__ = ["Vector", "VectorLane"]

COUNT_BITS = 16

FLAGS = {
    Function.ADD: "adds", Function.MAXIMUM: "finds", Function.AVERAGE: "averages",
    Function.MAXIMUM_GRADIENT: "routes", Function.AVERAGE_GRADIENT: "spreads",
    Function.BIAS_UPDATE: "sums", Function.FILL: "fills",
}
"""What the unit does with each function."""


class VectorLane(wiring.Component):
    """One element of a word: gathered over some cycles, then rounded.

    `total` holds what was gathered up to the cycle before; the outputs follow from it within the
    cycle.

    Members
    -------
    activation, gradient : In
        As read; `x_unsigned` tells the range of the activation.
    takes_gradient : In(1)
        Gather the gradient, else the activation.
    enable : In(1)
        Gather in this cycle.
    fresh : In(1)
        Forget the total first.
    used : In(1)
        The element is one to gather.
    scales : In(1), factor : In(8), shift : In(5)
        Multiply the element by `factor`, else by ``2**shift``.
    finds : In(1), anew : In(1)
        Keep the larger of element and total, or the first one with `anew`.
    routes : In(1), remember : In(1)
        Take the gradient only for the first activation that equals the one to `remember`.
    pass_on : In(1)
        Else the total becomes zero.
    load : In(1), kept : In(signed(SUM_BITS))
        Take a total of an earlier chunk; wins over `enable`.
    relu, y_unsigned : In(1)
        Of the activation.
    out_shift : In(5), stochastic : In(1), random : In(16)
    old_bias : In(signed(BIAS_BITS))
    out_activation, out_gradient, positive, sum, new_bias : Out
    """

    def __init__(self, config: Config):
        self.config = config
        flags = (
            "x_unsigned", "takes_gradient", "enable", "fresh", "used", "scales", "finds", "anew",
            "routes", "remember", "pass_on", "load", "relu", "y_unsigned", "stochastic")
        super().__init__({
            "activation": In(unsigned(config.operand_bits)),
            "gradient": In(signed(config.gradient_bits)),
            **{flag: In(1) for flag in flags},
            "factor": In(8), "shift": In(5), "kept": In(signed(SUM_BITS)),
            "out_shift": In(5), "random": In(16), "old_bias": In(signed(BIAS_BITS)),
            "out_activation": Out(unsigned(config.operand_bits)),
            "out_gradient": Out(unsigned(config.gradient_bits)),
            "positive": Out(1),
            "sum": Out(unsigned(SUM_BITS)), "new_bias": Out(unsigned(BIAS_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        value_bits = max(config.operand_bits + 1, config.gradient_bits)
        # Two elements, each shifted by 31 at most.
        total = Signal(signed(value_bits + 32))
        self._gather(m, total, value_bits)
        self._round(m, total)
        return m

    def _gather(self, m, total, value_bits):
        """Add an element, or take it in place of the total."""
        operand = self.config.operand_bits
        x = Signal(signed(operand + 1))
        value = Signal(signed(value_bits))
        m.d.comb += [
            x.eq(Cat(self.activation, self.activation[-1] & ~self.x_unsigned).as_signed()),
            value.eq(Mux(self.takes_gradient, self.gradient, x)),
        ]
        best = Signal(signed(operand + 1))
        routed = Signal()
        equal = Signal()
        takes = Signal()
        m.d.comb += [
            equal.eq(self.used & ~routed & (x == best)),
            takes.eq(Mux(self.finds, self.used & (self.anew | (x > best)),
                         Mux(self.routes, equal, self.used))),
        ]
        term = Signal.like(total)
        added = Signal.like(total)
        m.d.comb += [
            term.eq(Mux(self.scales, value * self.factor, value << self.shift)),
            added.eq(Mux(self.fresh | (self.finds & takes), 0, total) + Mux(takes, term, 0)),
        ]
        with m.If(self.load):
            m.d.sync += total.eq(self.kept)
        with m.Elif(self.enable):
            m.d.sync += [total.eq(Mux(self.pass_on, added, 0)), routed.eq(routed | equal)]
            with m.If(self.remember | (self.finds & takes)):
                m.d.sync += best.eq(x)
            with m.If(self.remember):
                m.d.sync += routed.eq(0)

    def _round(self, m, total):
        """Narrow the total in each way that a function may want."""
        config = self.config
        random = Signal(16)
        m.d.comb += random.eq(Mux(self.stochastic, self.random, HALF))
        quotient = round_shift(m, total, self.out_shift, random, name="total")
        clipped = Signal(quotient.shape())
        moved = Signal(signed(len(quotient) + 1))
        m.d.comb += [
            clipped.eq(Mux(self.relu & quotient[-1], 0, quotient)),
            moved.eq(self.old_bias - quotient),
            self.out_activation.eq(saturate(m, clipped, config.operand_bits, name="activation",
                                            unsigned_range=self.y_unsigned)),
            self.out_gradient.eq(saturate(m, quotient, config.gradient_bits, name="gradient")),
            self.positive.eq(clipped > 0),
            self.sum.eq(saturate(m, total, SUM_BITS, name="sum")),
            self.new_bias.eq(saturate(m, moved, BIAS_BITS, name="bias")),
        ]


class Vector(wiring.Component):
    """Executes VECTOR descriptors as `gradloom_golden.vector.execute` says.

    Words are read, gathered in the next cycle, and written in the one after. `busy` goes up the
    cycle after `start`, and falls after the last write; `vector_cycles` tells how long it lasts.

    Members
    -------
    start : In(1)
        `descriptor` is new, its shifts and steps resolved, and stays until `busy` falls.
    descriptor : In(DescriptorLayout)
    busy : Out(1)
    activation_*, gradient_*, mask_* : read ports of the buffers
    bias_* : both ports of the bias buffer
    keep_address : Out, keep_index : In
        Entry of the keep list, answered a cycle later.
    out_en, out_gradient, out_address, out_activations, out_gradients : Out
        A finished word, of the gradient buffer or else of the activation buffer: to be written,
        and measured.
    mask_write_en : Out(1), out_positive : Out(lanes)
        Write this word of the ReLU mask, at `out_address`.
    seed_load, seed : In
    """

    TAIL = 2

    def __init__(self, config: Config):
        self.config = config
        lanes = config.lane_count
        activation, gradient = ceil_log2(config.activation_depth), ceil_log2(config.gradient_depth)
        bias = ceil_log2(config.bias_depth)
        steps = ceil_log2(config.steps_depth)
        self.address_bits = max(activation, gradient)
        self.parts = lanes // config.columns
        activations = data.ArrayLayout(unsigned(config.operand_bits), lanes)
        gradients = data.ArrayLayout(unsigned(config.gradient_bits), lanes)
        biases = data.ArrayLayout(unsigned(BIAS_BITS), config.columns)
        super().__init__({
            "start": In(1), "descriptor": In(DescriptorLayout), "busy": Out(1),
            "activation_read_en": Out(1), "activation_read_address": Out(activation),
            "activation_read_data": In(activations),
            "gradient_read_en": Out(1), "gradient_read_address": Out(gradient),
            "gradient_read_data": In(gradients),
            "mask_read_en": Out(1), "mask_read_address": Out(activation),
            "mask_read_data": In(lanes),
            "bias_read_en": Out(1), "bias_read_address": Out(bias), "bias_read_data": In(biases),
            "bias_write_en": Out(1), "bias_write_address": Out(bias),
            "bias_write_data": Out(biases),
            "keep_address": Out(steps), "keep_index": In(steps),
            "out_en": Out(1), "out_gradient": Out(1), "out_address": Out(self.address_bits),
            "out_activations": Out(activations),
            "out_gradients": Out(gradients),
            "out_positive": Out(lanes), "mask_write_en": Out(1),
            "seed_load": In(1), "seed": In(31),
        })

    def elaborate(self, platform):
        m = Module()
        self._decode(m)
        self._walks(m)
        self._blocks(m)
        self._homes(m)
        self._sequence(m)
        self._read(m)
        self._write(m)
        self._lanes(m, platform)
        return m

    def _decode(self, m):
        """Name what the descriptor asks for."""
        descriptor = self.descriptor
        for function, name in FLAGS.items():
            flag = Signal(name=name)
            m.d.comb += flag.eq(descriptor.function == function)
            setattr(self, name, flag)
        self.pools, self.hands_back, self.on_gradients, self.masks, self.gathers = (
            Signal(name=name)
            for name in ("pools", "hands_back", "on_gradients", "masks", "gathers"))
        m.d.comb += [
            self.pools.eq(self.finds | self.averages),
            self.hands_back.eq(self.routes | self.spreads),
            self.on_gradients.eq(
                self.hands_back | (descriptor.gradients & (self.adds | self.fills))),
            self.masks.eq(
                descriptor.mask & (self.hands_back | (self.adds & descriptor.gradients))),
            self.gathers.eq(descriptor.gather & (self.adds | self.hands_back)),
        ]

    def _walks(self, m):
        """Walk over the pixels, a step ahead, and from each over the taps of its window."""
        descriptor = self.descriptor
        self.block_starts = Signal()
        self.handoff = Signal()
        self.tap_advance = Signal()
        m.submodules.pixels = self.pixels = pixels = PixelWalk(self.address_bits)
        m.submodules.taps = self.taps = taps = PixelWalk(self.address_bits)
        m.d.comb += [
            pixels.rewind.eq(self.block_starts), pixels.advance.eq(self.handoff),
            pixels.base.eq(descriptor.x_offset),
            pixels.y_start.eq(descriptor.y_first), pixels.x_start.eq(descriptor.x_first),
            pixels.t_x.eq(descriptor.t_x), pixels.t_y.eq(descriptor.t_y),
            pixels.pixel.eq(descriptor.x_pixel), pixels.row.eq(descriptor.x_row),
            pixels.image.eq(descriptor.x_image),
            pixels.y_step.eq(descriptor.y_step), pixels.x_step.eq(descriptor.x_step),
            taps.rewind.eq(self.handoff), taps.advance.eq(self.tap_advance),
            taps.base.eq(pixels.address),
            taps.y_start.eq(pixels.y), taps.x_start.eq(pixels.x),
            taps.t_x.eq(descriptor.taps_x), taps.t_y.eq(descriptor.taps_y),
            taps.pixel.eq(descriptor.tap_pixel), taps.row.eq(descriptor.tap_row),
            taps.y_step.eq(descriptor.tap_dy), taps.x_step.eq(descriptor.tap_dx),
        ]
        for walk in (pixels, taps):
            m.d.comb += [walk.y_limit.eq(descriptor.y_limit), walk.x_limit.eq(descriptor.x_limit)]

    def _blocks(self, m):
        """Know where the present block begins in each buffer, and how many are left."""
        descriptor = self.descriptor
        self.block_ends = Signal()
        self.pointers = {}
        for name in ("x", "d", "packed", "out"):
            pointer = BlockPointer(self.address_bits, 0)
            m.submodules[f"{name}_pointer"] = self.pointers[name] = pointer
            stride = descriptor.w_block if name == "packed" else descriptor[f"{name}_stride"]
            m.d.comb += [
                pointer.rewind.eq(self.start), pointer.advance.eq(self.block_ends),
                pointer.base.eq(descriptor[f"{name}_base"]), pointer.stride.eq(stride),
            ]
        # A bias update counts blocks of `columns`, and a word may hold several.
        self.left = Signal(COUNT_BITS)
        self.bias_row = Signal(ceil_log2(self.config.bias_depth))
        self.block_last = Signal()
        taken = Mux(self.sums, self.parts, 1)
        m.d.comb += self.block_last.eq(self.left <= taken)
        with m.If(self.start):
            m.d.sync += [
                self.left.eq(Mux(self.sums, descriptor.n_tiles, descriptor.k_tiles)),
                self.bias_row.eq(descriptor.bias_base),
            ]
        with m.Elif(self.block_ends):
            m.d.sync += [self.left.eq(self.left - taken),
                         self.bias_row.eq(self.bias_row + self.parts)]

    def _sequence(self, m):
        """Say what each cycle reads."""
        descriptor = self.descriptor
        self.step = Signal(COUNT_BITS)
        self.head = Signal()
        self.part = Signal(max(1, ceil_log2(self.parts)))
        self.issue = Signal()
        self.window_last = Signal()
        self.load = Signal()
        self.finish = Signal()
        image_ends = Signal()
        part_last = Signal()
        active = Signal()
        tail = Signal(self.TAIL)
        m.d.comb += [
            self.window_last.eq(Mux(self.adds, ~self.head, self.sums | (
                self.taps.image_last & ~(self.routes & self.head)))),
            self.tap_advance.eq(self.issue & ~(self.routes & self.head)),
            part_last.eq((self.part == self.parts - 1) | (self.part == self.left - 1)),
            active.eq(1),
            self.busy.eq(active | tail.any()),
        ]
        m.d.sync += tail.eq((tail << 1) | active)
        with m.If(self.handoff):
            m.d.sync += [self.head.eq(1), image_ends.eq(self.pixels.image_last)]
        with m.Elif(self.issue):
            m.d.sync += self.head.eq(0)
        with m.If(self.load | self.finish):
            m.d.sync += self.part.eq(Mux(part_last, 0, self.part + 1))

        def end_block():
            m.d.comb += self.block_ends.eq(1)
            m.next = "block"
            with m.If(self.block_last):
                m.next = "idle"

        with m.FSM(name="vector"):
            with m.State("idle"):
                m.d.comb += active.eq(0)
                with m.If(self.start):
                    m.next = "block"
            with m.State("block"):
                m.d.comb += self.block_starts.eq(1)
                m.d.sync += [
                    self.step.eq(0), self.image.eq(0),
                    self.x_home.eq(self.pointers["x"].address),
                    self.packed_home.eq(self.pointers["packed"].address),
                ]
                m.next = "handoff"
                with m.If(self.sums):
                    m.next = "load"
                with m.Elif(descriptor.steps == 0):
                    m.next = "idle"
                with m.Elif(self.gathers):
                    m.next = "keep"
            with m.State("load"):
                m.d.comb += self.load.eq(1)
                with m.If(part_last):
                    m.next = "handoff"
                    with m.If(descriptor.steps == 0):
                        m.next = "finish"
            self._gather_states(m)
            with m.State("read"):
                m.d.comb += self.issue.eq(1)
                with m.If(self.window_last):
                    m.d.sync += self.step.eq(self.step + 1)
                    with m.If(self.step == descriptor.steps - 1):
                        with m.If(self.sums):
                            m.next = "finish"
                        with m.Else():
                            end_block()
                    with m.Elif(self.gathers & image_ends):
                        m.next = "keep"
                    with m.Else():
                        m.d.comb += self.handoff.eq(1)
            with m.State("finish"):
                m.d.comb += self.finish.eq(1)
                with m.If(part_last):
                    end_block()

    def _homes(self, m):
        """Find where the images that the keep list names begin, one multiplier for X and mask."""
        descriptor, bits = self.descriptor, self.address_bits
        self.image = Signal(ceil_log2(self.config.steps_depth))
        self.ahead = Signal(bits)
        self.offset = Signal(bits)
        self.image_size = Signal(COUNT_BITS)
        self.x_home = Signal(bits)
        self.packed_home = Signal(bits)
        m.d.comb += self.keep_address.eq(descriptor.first_sample + self.image)
        m.d.sync += self.offset.eq(self.ahead * self.image_size)

    def _gather_states(self, m):
        """Compare an image's place with its sample's; the product of one state is there a next."""
        descriptor, pointers = self.descriptor, self.pointers
        with m.State("keep"):
            m.next = "compare"
        with m.State("compare"):
            m.d.sync += [self.ahead.eq(self.keep_index - self.image), self.image.eq(self.image + 1)]
            m.next = "x image"
        with m.State("x image"):
            m.d.comb += self.image_size.eq(descriptor.x_image)
            m.next = "own image"
        with m.State("own image"):
            m.d.comb += self.image_size.eq(descriptor.pixels)
            # What is added stands in order; only its mask does not.
            with m.If(~self.adds):
                m.d.sync += self.x_home.eq(pointers["x"].address + self.offset)
            m.next = "handoff"
        with m.State("handoff"):
            m.d.comb += self.handoff.eq(1)
            with m.If(self.gathers):
                m.d.sync += self.packed_home.eq(pointers["packed"].address + self.offset)
            m.next = "read"

    def _read(self, m):
        """Read the words of this cycle."""
        bits = self.address_bits
        self.valid = Signal()
        remember = self.routes & self.head
        x_address, d_address, packed_address = (
            Signal(bits, name=f"{name}_address") for name in ("x", "d", "packed"))
        m.d.comb += [
            self.valid.eq(self.taps.valid | self.adds | self.sums),
            x_address.eq(self.x_home + Mux(self.adds, self.step, self.taps.address)),
            d_address.eq(self.pointers["d"].address + self.step),
            packed_address.eq(self.packed_home + self.step),
            self.activation_read_en.eq(self.issue & (
                (self.adds & ~self.on_gradients) | remember
                | ((self.pools | self.routes) & self.valid))),
            self.activation_read_address.eq(Mux(
                remember, packed_address, Mux(self.adds & ~self.head, d_address, x_address))),
            self.gradient_read_en.eq(self.issue & (
                (self.adds & self.on_gradients) | (self.hands_back & self.head) | self.sums)),
            self.gradient_read_address.eq(Mux(self.adds & self.head, x_address, d_address)),
            self.mask_read_en.eq(
                self.issue & self.masks & self.valid & ~((self.adds | self.routes) & self.head)),
            self.mask_read_address.eq(Mux(self.adds, packed_address, x_address)),
        ]

    def _write(self, m):
        """Write a word two cycles after its last read."""
        descriptor = self.descriptor
        ready = Signal()
        address = Signal(self.address_bits)
        at_step = self.adds | self.pools
        at_tap = self.fills | (self.hands_back & ~(self.routes & self.head))
        m.d.sync += [
            ready.eq(self.issue & ((at_step & self.window_last) | (at_tap & self.valid))),
            address.eq(
                self.pointers["out"].address + Mux(at_step, self.step, self.taps.address)),
            self.out_en.eq(ready),
            self.out_address.eq(address),
        ]
        m.d.comb += [
            self.out_gradient.eq(self.on_gradients),
            self.mask_write_en.eq(self.out_en & descriptor.relu & ~self.on_gradients),
        ]

    def _lanes(self, m, platform):
        """Gather and round in every lane; exchange bias gradients a part of the word at a time."""
        config, descriptor = self.config, self.descriptor
        here, head, valid, anew, load, finish = (
            Signal(name=f"here_{name}")
            for name in ("issue", "head", "valid", "anew", "load", "finish"))
        part = Signal.like(self.part)
        m.d.sync += [
            here.eq(self.issue), head.eq(self.head), valid.eq(self.valid),
            load.eq(self.load), finish.eq(self.finish), part.eq(self.part),
        ]
        # No tap of the window was valid before this one.
        missing = Signal()
        m.d.comb += anew.eq(head | missing)
        with m.If(here):
            m.d.sync += missing.eq(anew & ~valid)

        sums, new_sums, new_biases = self._bias(m, load, finish, part)
        m.submodules.lfsr = lfsr = Lfsr(Bank.VECTOR, config.lane_count)
        m.d.comb += [
            lfsr.load.eq(self.seed_load), lfsr.seed.eq(self.seed),
            lfsr.advance.eq((self.out_en | self.bias_write_en) & descriptor.stochastic),
        ]
        masked = Signal()
        m.d.comb += masked.eq(self.masks & ~(self.adds & head))
        shared = {name: descriptor[name]
                  for name in ("relu", "y_unsigned", "stochastic")}
        for name, width, value in (
            ("x_unsigned", 1, Mux(
                self.adds & ~head, descriptor.d_unsigned, descriptor.x_unsigned)),
            ("takes_gradient", 1, self.hands_back | self.sums | (self.adds & self.on_gradients)),
            ("enable", 1, here),
            ("fresh", 1, Mux(self.adds | self.pools, head, ~self.sums)),
            ("used", 1, valid & ~self.fills & ~(self.routes & head)),
            ("scales", 1, self.averages | self.spreads),
            ("factor", 8, Mux(descriptor.factor == 0, 1, descriptor.factor)),
            ("shift", 5, Mux(self.adds, Mux(head, descriptor.gradient_shift, descriptor.rate_shift),
                             0)),
            ("finds", 1, self.finds),
            ("anew", 1, anew),
            ("routes", 1, self.routes),
            ("remember", 1, self.routes & head),
            ("out_shift", 5, Mux(self.finds | self.routes, 0, Mux(
                self.sums, descriptor.gradient_shift, descriptor.out_shift))),
        ):
            shared[name] = Signal(width, name=f"lanes_{name}")
            m.d.comb += shared[name].eq(value)
        for lane in range(config.lane_count):
            own, column = divmod(lane, config.columns)
            place(m, platform, f"lane_{lane}", "vector_lane", partial(VectorLane, config),
                  inputs={**shared,
                          "activation": self.activation_read_data[lane],
                          "gradient": self.gradient_read_data[lane],
                          "pass_on": ~masked | self.mask_read_data[lane],
                          "load": load & (part == own), "kept": sums[column],
                          "old_bias": self.bias_read_data[column],
                          "random": lfsr.state[lane][:16]},
                  outputs={"out_activation": self.out_activations[lane],
                           "out_gradient": self.out_gradients[lane],
                           "positive": self.out_positive[lane],
                           "sum": new_sums[lane], "new_bias": new_biases[lane]})

    def _bias(self, m, load, finish, part):
        """Keep bias gradients between chunks, or hand them to the bias.

        Return the sums to go on with, and vectors of what a word's lanes make of theirs.
        """
        config, descriptor = self.config, self.descriptor
        columns, lanes = config.columns, config.lane_count
        m.submodules.kept = kept = Ram(config.bias_depth, 1, columns * SUM_BITS)
        row = Signal.like(self.bias_row)
        here_row = Signal.like(row)
        sums = Signal(data.ArrayLayout(signed(SUM_BITS), columns))
        new_sums = Signal(data.ArrayLayout(unsigned(SUM_BITS), lanes))
        new_biases = Signal(data.ArrayLayout(unsigned(BIAS_BITS), lanes))
        m.d.sync += here_row.eq(row)
        m.d.comb += [
            row.eq(self.bias_row + self.part),
            kept.read_en.eq(self.load & ~descriptor.first),
            kept.read_address.eq(row),
            sums.as_value().eq(Mux(descriptor.first, 0, kept.read_data)),
            kept.write_en.eq(finish & ~descriptor.last),
            kept.write_address.eq(here_row),
            kept.write_data.eq(
                select(m, new_sums.as_value(), part, columns * SUM_BITS, name="part_sums")),
            self.bias_read_en.eq(self.finish & descriptor.last),
            self.bias_read_address.eq(row),
            self.bias_write_en.eq(finish & descriptor.last),
            self.bias_write_address.eq(here_row),
            self.bias_write_data.eq(
                select(m, new_biases.as_value(), part, columns * BIAS_BITS, name="part_biases")),
        ]
        return sums, new_sums, new_biases
