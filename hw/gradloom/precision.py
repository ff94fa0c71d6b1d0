"""Precision unit: is the weight gradient of fewer activation bits close enough in angle?"""

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
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
            "bits": Out(4, init=FULL_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        config, descriptor = self.config, self.descriptor
        columns, element = config.columns, config.wgrad_bits
        factor_bits = max(element, MANTISSA_BITS + 1)

        gg, gh, hh = (Signal(signed(config.dot_bits), name=name) for name in ("gg", "gh", "hh"))
        g_row = Signal(element * columns)
        h_row = Signal(element * columns)
        row = Signal(16)
        column = Signal(range(columns))
        loops = Signal(range(config.dot_bits))

        left = Signal(signed(factor_bits))
        right = Signal(signed(factor_bits))
        product = Signal(signed(2 * factor_bits))
        m.d.sync += product.eq(left * right)

        g = g_row[:element].as_signed()
        h = h_row[:element].as_signed()
        arriving = Cat(*(self.read_data[lane][:element] for lane in range(columns)))
        mantissas = [dot[:MANTISSA_BITS + 1].as_signed() for dot in (gg, gh, hh)]
        square = Signal(unsigned(2 * MANTISSA_BITS))
        both = Signal(unsigned(2 * MANTISSA_BITS))
        bounded = Signal(unsigned(2 * MANTISSA_BITS + 16))
        m.d.comb += self.busy.eq(1)

        with m.FSM(name="angle"):
            with m.State("idle"):
                m.d.comb += self.busy.eq(0)
                with m.If(self.start):
                    m.next = "clear"
            with m.State("clear"):
                m.d.sync += row.eq(0)
                with m.If(descriptor.first):
                    m.d.sync += [gg.eq(0), gh.eq(0), hh.eq(0)]
                m.next = "read g"
            with m.State("read g"):
                m.d.comb += [
                    self.read_en.eq(1), self.read_address.eq(descriptor.state_base + row),
                ]
                m.next = "read h"
            with m.State("read h"):
                m.d.comb += [
                    self.read_en.eq(1), self.read_address.eq(descriptor.packed_base + row),
                ]
                m.d.sync += g_row.eq(arriving)
                m.next = "take h"
            with m.State("take h"):
                m.d.sync += [h_row.eq(arriving), column.eq(0)]
                m.next = "g g"
            # The product of one state is added in the next.
            with m.State("g g"):
                m.d.comb += [left.eq(g), right.eq(g)]
                m.next = "g h"
            with m.State("g h"):
                m.d.comb += [left.eq(g), right.eq(h)]
                m.d.sync += gg.eq(gg + product)
                m.next = "h h"
            with m.State("h h"):
                m.d.comb += [left.eq(h), right.eq(h)]
                m.d.sync += gh.eq(gh + product)
                m.next = "next"
            with m.State("next"):
                m.d.sync += [
                    hh.eq(hh + product),
                    g_row.eq(g_row[element:]), h_row.eq(h_row[element:]),
                    column.eq(column + 1),
                ]
                m.next = "g g"
                with m.If(column == columns - 1):
                    m.d.sync += [row.eq(row + 1), loops.eq(0)]
                    m.next = "read g"
                    with m.If(row == descriptor.rows - 1):
                        m.next = "idle"
                        with m.If(descriptor.last):
                            m.next = "fit"
            with m.State("fit"):
                with m.If((gg[MANTISSA_BITS:] | hh[MANTISSA_BITS:]).any()):
                    m.d.sync += [gg.eq(gg >> 1), gh.eq(gh >> 1), hh.eq(hh >> 1)]
                m.d.sync += loops.eq(loops + 1)
                with m.If(loops == config.dot_bits - MANTISSA_BITS - 1):
                    m.next = "square"
            with m.State("square"):
                m.d.comb += [left.eq(mantissas[1]), right.eq(mantissas[1])]
                m.next = "both"
            with m.State("both"):
                m.d.comb += [left.eq(mantissas[0]), right.eq(mantissas[2])]
                m.d.sync += square.eq(product)
                m.next = "scale"
            with m.State("scale"):
                m.d.sync += both.eq(product)
                m.next = "bound high"
            # The bound times the product of squares, in two halves that fit the multiplier.
            with m.State("bound high"):
                m.d.comb += [left.eq(both[MANTISSA_BITS:]), right.eq(descriptor.bound)]
                m.next = "bound low"
            with m.State("bound low"):
                m.d.comb += [left.eq(both[:MANTISSA_BITS]), right.eq(descriptor.bound)]
                m.d.sync += bounded.eq(product << MANTISSA_BITS)
                m.next = "decide"
            with m.State("decide"):
                within = (gh > 0) & ((square << 16) >= bounded + product)
                m.d.sync += self.bits.eq(Mux(
                    within, descriptor.tested_bits, Mux(descriptor.fresh, FULL_BITS, self.bits)))
                m.d.sync += [gg.eq(0), gh.eq(0), hh.eq(0)]
                m.next = "idle"
        return m
