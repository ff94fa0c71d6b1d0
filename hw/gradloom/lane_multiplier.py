"""Lane multiplier: one 8-bit word of one, two or four activations times one factor a field."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LaneMultiplier"]


def _add(low, high, carry):
    """Return ``low + high + carry``; an adder with a carry input instead of two adders."""
    return (Cat(Const(1), low).as_signed() + Cat(carry, high).as_signed()) >> 1


class LaneMultiplier(wiring.Component):
    """Sum over the fields of a word of field times factor; combinational.

    Fields are two's complement. An unsigned field x of n bits is the signed field
    ``x ^ 2**(n-1)`` plus ``2**(n-1)``: a caller inverts the top bits of its words and adds
    ``2**(n-1)`` times the sum of the factors at the end of a dot product (`gradloom.column`).
    Choosing the sign here would cost a third of the multiplier.

    Parameters
    ----------
    factor_bits : int
        Width of a factor, 8 or 16.

    Members
    -------
    word : In(8)
        Fields, lowest first.
    factors : In(ArrayLayout(signed(factor_bits), 4))
        One a quarter of the word, lowest first. The quarters of one field must carry the same
        factor: all four in 8-bit mode, 0 = 1 and 2 = 3 in 4-bit mode.
    two, four : In(1)
        The word holds two 4-bit or four 2-bit fields; both low, one 8-bit field. Never both high.
    product : Out(signed(8 + factor_bits))
        The sum less `carry`.
    carry : Out(1)
        Meant for the carry input of the adder behind, where it costs nothing.
    """

    word: Signal
    factors: data.View
    two: Signal
    four: Signal
    product: Signal
    carry: Signal

    def __init__(self, factor_bits: int):
        if factor_bits not in (8, 16):
            raise ValueError(f"Factors must have 8 or 16 bits, not {factor_bits!r}")
        self.factor_bits = factor_bits

        super().__init__({
            "word": In(8),
            "factors": In(data.ArrayLayout(signed(factor_bits), 4)),
            "two": In(1),
            "four": In(1),
            "product": Out(signed(8 + factor_bits)),
            "carry": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        packed = Signal()
        m.d.comb += packed.eq(self.two | self.four)

        # A quarter times its factor is `part + carry`. Parts are added where the fields put them.
        # A part that moves up by n bits is filled with n carries, which moves its carry up too.
        parts, carries = zip(*(self._quarter(m, k, packed) for k in range(4)), strict=True)
        halves = []
        for k in range(2):
            low, high = parts[2 * k : 2 * k + 2]
            carry = carries[2 * k + 1]
            moved = Mux(self.four, high, Cat(carry.replicate(2), high).as_signed())
            half = Signal(signed(self.factor_bits + 4), name=f"half_{k}")
            m.d.comb += half.eq(_add(low, moved, carry))
            halves.append(half)
        low, high = halves
        moved = Mux(packed, high, Cat(carries[2].replicate(4), high).as_signed())
        m.d.comb += self.product.eq(_add(low, moved, carries[2]))
        m.d.comb += self.carry.eq(carries[0])
        return m

    def _quarter(self, m, k, packed):
        """Return the one row of the Booth digit of quarter `k` (-2 to 2), and its carry.

        Booth's digit borrows from the quarter above, which a field's top quarter has not: its
        top bit is a sign.
        """
        bits = self.factor_bits
        factor = self.factors[k]
        low, high = self.word[2 * k : 2 * k + 2]
        starts_field = (Const(1), self.four, packed, self.four)[k]
        below = self.word[2 * k - 1] if k else Const(0)
        repaid = Signal(name=f"repaid_{k}")
        single = Signal(name=f"single_{k}")
        double = Signal(name=f"double_{k}")
        multiple = Signal(signed(bits + 1), name=f"multiple_{k}")
        row = Signal(signed(bits + 1), name=f"row_{k}")
        m.d.comb += [
            repaid.eq(below & ~starts_field),
            single.eq(low ^ repaid),
            double.eq(Mux(high, ~(low | repaid), low & repaid)),
            multiple.eq(Mux(single, factor, 0) | Mux(double, factor << 1, 0)),
            row.eq(multiple ^ high.replicate(bits + 1)),
        ]
        return row, high
