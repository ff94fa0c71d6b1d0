"""Addresses of the pixels that a descriptor visits, and which of them lie inside the image."""

from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .layouts import DescriptorLayout

__all__ = ["COORDINATE_BITS", "PixelWalk"]

COORDINATE_BITS = 22
"""Signed bits that hold every coordinate a descriptor can describe, so that none wraps."""

STEP_BITS = 9
"""Signed bits that hold a step between pixels, which has no sign, and between taps, which has."""


def _bits(name: str) -> int:
    return DescriptorLayout[name].width


class PixelWalk(wiring.Component):
    """Walks over ``for image: for ty < t_y: for tx < t_x``, one step an `advance`, by adders alone.

    Step (b, ty, tx) lies at ``base + b image + ty row + tx pixel``, modulo ``2**address_bits``, and
    is valid where ``0 <= y_start + ty y_step < y_limit`` and x likewise. Outputs come from
    registers and the limits only: step 0 stands from the cycle after `rewind`, the next step from
    the cycle after `advance`. `rewind` wins, so that in the cycle of the last step it leads to the
    next walk without a gap. There is no last image: the user counts steps.

    Parameters
    ----------
    address_bits : int

    Members
    -------
    rewind, advance : In(1)
    base : In(address_bits), y_start, x_start : In(signed(COORDINATE_BITS))
        Of step 0, offsets of the tap included; read only in the cycle of `rewind`.
    t_x, t_y, pixel, row, image, y_step, x_step, y_limit, x_limit : In
        Hold those fields of a descriptor, or those of its taps, and are stable during a walk;
        0 steps count as 4096.
    address : Out(address_bits)
    valid : Out(1)
    y, x : Out(signed(COORDINATE_BITS))
    row_last, image_last : Out(1)
        This step is the last of its row, of its image.
    """

    def __init__(self, address_bits: int):
        self.address_bits = address_bits
        coordinate = signed(COORDINATE_BITS)
        super().__init__({
            "rewind": In(1), "advance": In(1),
            "base": In(address_bits), "y_start": In(coordinate), "x_start": In(coordinate),
            "t_x": In(_bits("t_x")), "t_y": In(_bits("t_y")),
            "pixel": In(address_bits), "row": In(address_bits), "image": In(address_bits),
            "y_step": In(signed(STEP_BITS)), "x_step": In(signed(STEP_BITS)),
            "y_limit": In(_bits("y_limit")), "x_limit": In(_bits("x_limit")),
            "address": Out(address_bits), "valid": Out(1),
            "y": Out(coordinate), "x": Out(coordinate),
            "row_last": Out(1), "image_last": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        image, row, next_image, next_row = (
            Signal(self.address_bits, name=f"{name}_start")
            for name in ("image", "row", "next_image", "next_row"))
        m.d.comb += [next_image.eq(image + self.image), next_row.eq(row + self.row)]
        with m.If(self.rewind):
            m.d.sync += [image.eq(self.base), row.eq(self.base), self.address.eq(self.base)]
        with m.Elif(self.advance):
            with m.If(self.image_last):
                m.d.sync += [
                    image.eq(next_image), row.eq(next_image), self.address.eq(next_image),
                ]
            with m.Elif(self.row_last):
                m.d.sync += [row.eq(next_row), self.address.eq(next_row)]
            with m.Else():
                m.d.sync += self.address.eq(self.address + self.pixel)

        row_step = Signal()
        m.d.comb += row_step.eq(self.advance & self.row_last)
        last_x, inside_x = self._coordinate(
            m, self.x, self.advance, self.t_x, self.x_start, self.x_step, self.x_limit)
        last_y, inside_y = self._coordinate(
            m, self.y, row_step, self.t_y, self.y_start, self.y_step, self.y_limit)
        m.d.comb += [
            self.row_last.eq(last_x),
            self.image_last.eq(last_x & last_y),
            self.valid.eq(inside_x & inside_y),
        ]
        return m

    def _coordinate(self, m, coordinate, advance, count, start, step, limit):
        """Count along one edge; return whether this is its last step and lies inside."""
        name = coordinate.name
        place = Signal.like(count, name=f"place_{name}")
        first = Signal.like(start, name=f"first_{name}")
        last = Signal(name=f"last_{name}")
        inside = Signal(name=f"inside_{name}")
        m.d.comb += [
            last.eq(place == (count - 1)[:len(count)]),
            # A negative number is a large one without its sign.
            inside.eq(coordinate.as_unsigned() < limit),
        ]
        with m.If(self.rewind):
            m.d.sync += [place.eq(0), first.eq(start), coordinate.eq(start)]
        with m.Elif(advance):
            m.d.sync += [place.eq(place + 1), coordinate.eq(coordinate + step)]
            with m.If(last):
                m.d.sync += [place.eq(0), coordinate.eq(first)]
        return last, inside
