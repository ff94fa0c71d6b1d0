"""Precision unit: tells whether the gradient of fewer activation bits is close in angle."""

from amaranth import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.precision import MANTISSA_BITS

from .layouts import DescriptorLayout

__all__ = ["Precision"]

FULL_BITS = 8


class Precision(wiring.Component):
    """Compares stored weight gradients row by row: three dot products, one multiplier.

    ``rows`` rows from `state_base` (8-bit gradient g) and from `packed_base` (tested gradient h)
    add to <g,g>, <g,h> and <h,h>; `first` clears them before. With `last` the unit then
    decides as `gradloom_golden.precision.angle_within` does, and clears them: if the bound holds
    it picks `tested_bits`, else with `fresh` 8 bits, else what it had picked before.

    Members
    -------
    start : In(1)
        `descriptor` is new.
    descriptor : In(DescriptorLayout)
    busy : Out(1)
    read_en, read_address, read_data
        State buffer.
    bits : Out(4)
        The width picked.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__({
            "start": In(1),
            "descriptor": In(DescriptorLayout),
            "busy": Out(1),
            "read_en": Out(1),
            "read_address": Out(ceil_log2(config.weight_depth)),
            "read_data": In(data.ArrayLayout(unsigned(config.state_bits), config.columns)),
            "bits": Out(4),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        factor_bits = max(config.wgrad_bits, MANTISSA_BITS + 1)
        self.picked = Signal(4, init=FULL_BITS)
        self.gg, self.gh, self.hh = (
            Signal(signed(config.dot_bits), name=name) for name in ("gg", "gh", "hh"))
        # One multiplier; the product of one state is there in the next.
        self.left = Signal(signed(factor_bits))
        self.right = Signal(signed(factor_bits))
        self.product = Signal(signed(2 * factor_bits))
        m.d.sync += self.product.eq(self.left * self.right)
        m.d.comb += [self.busy.eq(1), self.bits.eq(self.picked)]
        with m.FSM(name="angle"):
            with m.State("idle"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.next = "clear"
            self._dot_states(m)
            self._fit_state(m)
            self._decide_states(m)
        return m

    def _dot_states(self, m):
        """Read a row of each gradient and add its products, one column after the other."""
        descriptor, columns = self.descriptor, self.config.columns
        element = self.config.wgrad_bits
        g_row = Signal(element * columns)
        h_row = Signal(element * columns)
        row = Signal(16)
        column = Signal(range(columns))
        g, h = g_row[:element].as_signed(), h_row[:element].as_signed()
        arriving = Cat(*(self.read_data[lane][:element] for lane in range(columns)))

        with m.State("clear"):
            m.d.sync += row.eq(0)
            with m.If(descriptor.first):
                m.d.sync += [self.gg.eq(0), self.gh.eq(0), self.hh.eq(0)]
            m.next = "read g"
        with m.State("read g"):
            m.d.comb += [self.read_en.eq(1), self.read_address.eq(descriptor.state_base + row)]
            m.next = "read h"
        with m.State("read h"):
            m.d.comb += [self.read_en.eq(1), self.read_address.eq(descriptor.packed_base + row)]
            m.d.sync += g_row.eq(arriving)
            m.next = "take h"
        with m.State("take h"):
            m.d.sync += [h_row.eq(arriving), column.eq(0)]
            m.next = "g g"
        with m.State("g g"):
            m.d.comb += [self.left.eq(g), self.right.eq(g)]
            m.next = "g h"
        with m.State("g h"):
            m.d.comb += [self.left.eq(g), self.right.eq(h)]
            m.d.sync += self.gg.eq(self.gg + self.product)
            m.next = "h h"
        with m.State("h h"):
            m.d.comb += [self.left.eq(h), self.right.eq(h)]
            m.d.sync += self.gh.eq(self.gh + self.product)
            m.next = "next"
        with m.State("next"):
            m.d.sync += [
                self.hh.eq(self.hh + self.product),
                # Slices, as a shift would have every bit depend on every other.
                g_row.eq(g_row[element:]), h_row.eq(h_row[element:]),
                column.eq(column + 1),
            ]
            m.next = "g g"
            with m.If(column == columns - 1):
                m.d.sync += row.eq(row + 1)
                m.next = "read g"
                with m.If(row == descriptor.rows - 1):
                    m.next = "idle"
                    with m.If(descriptor.last):
                        m.next = "fit"

    def _fit_state(self, m):
        """Drop common low bits until the squares fit the mantissa; always as many cycles."""
        cycles = self.config.dot_bits - MANTISSA_BITS
        loops = Signal(range(cycles))
        with m.State("fit"):
            with m.If((self.gg[MANTISSA_BITS:] | self.hh[MANTISSA_BITS:]).any()):
                m.d.sync += [dot.eq(dot >> 1) for dot in (self.gg, self.gh, self.hh)]
            m.d.sync += loops.eq(loops + 1)
            with m.If(loops == cycles - 1):
                m.d.sync += loops.eq(0)
                m.next = "square"

    def _decide_states(self, m):
        """Compare gh^2 with the bound times gg hh, and pick."""
        descriptor, product = self.descriptor, self.product
        gg, gh, hh = (dot[:MANTISSA_BITS + 1].as_signed() for dot in (self.gg, self.gh, self.hh))
        square = Signal(unsigned(2 * MANTISSA_BITS))
        both = Signal(unsigned(2 * MANTISSA_BITS))
        bounded = Signal(unsigned(2 * MANTISSA_BITS + 16))
        with m.State("square"):
            m.d.comb += [self.left.eq(gh), self.right.eq(gh)]
            m.next = "both"
        with m.State("both"):
            m.d.comb += [self.left.eq(gg), self.right.eq(hh)]
            m.d.sync += square.eq(product)
            m.next = "scale"
        with m.State("scale"):
            m.d.sync += both.eq(product)
            m.next = "bound high"
        # The bound times `both`, in two halves that fit the multiplier.
        with m.State("bound high"):
            m.d.comb += [self.left.eq(both[MANTISSA_BITS:]), self.right.eq(descriptor.bound)]
            m.next = "bound low"
        with m.State("bound low"):
            m.d.comb += [self.left.eq(both[:MANTISSA_BITS]), self.right.eq(descriptor.bound)]
            m.d.sync += bounded.eq(product << MANTISSA_BITS)
            m.next = "decide"
        with m.State("decide"):
            within = (self.gh > 0) & ((square << 16) >= bounded + product)
            with m.If(within):
                m.d.sync += self.picked.eq(descriptor.tested_bits)
            with m.Elif(descriptor.fresh):
                m.d.sync += self.picked.eq(FULL_BITS)
            m.d.sync += [self.gg.eq(0), self.gh.eq(0), self.hh.eq(0)]
            m.next = "idle"
