"""Lane multiplier: one 8-bit word of one, two or four activations times one factor a field."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LaneMultiplier"]


def _add(m, low, high, carry, name):
    """Return ``low + high + carry``, as wide as `low`.

    One adder with a carry input instead of two. Its lowest bit is sliced off, not shifted out,
    which a simulator would do with a sign.
    """
    bits = len(low)
    total = Signal(bits + 2, name=f"{name}_and_carry")
    m.d.comb += total.eq(Cat(Const(1), low) + Cat(carry, high))
    return total[1 : bits + 1].as_signed()


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
        singles, doubles = self._recode(m, packed)

        # A quarter times its factor is `part + carry`. Parts are added where the fields put them.
        # A part that moves up by n bits is filled with n carries, which moves its carry up too.
        bits = self.factor_bits
        carries = [self.word[2 * k + 1] for k in range(4)]
        parts = [self._part(m, k, singles[2 * k], doubles[2 * k]) for k in range(4)]
        halves = []
        for k in range(2):
            low, high = parts[2 * k : 2 * k + 2]
            carry = carries[2 * k + 1]
            moved = Signal(bits + 4, name=f"moved_{k}")
            m.d.comb += moved.eq(Mux(self.four, high, Cat(carry.replicate(2), high[:-2])))
            halves.append(_add(m, low, moved, carry, f"half_{k}"))
        low = Signal(signed(bits + 8))
        high = Signal(signed(bits + 8))
        m.d.comb += [
            low.eq(halves[0]),
            high.eq(Mux(packed, halves[1], Cat(carries[2].replicate(4), halves[1]).as_signed())),
            self.product.eq(_add(m, low, high, carries[2], "product")),
            self.carry.eq(carries[0]),
        ]
        return m

    def _recode(self, m, packed):
        """Return which quarters take their factor once, and which twice, in their lower bits.

        A Booth digit (-2 to 2) borrows from the quarter above, which a field's top quarter has
        not: its top bit is a sign. All digits are recoded at once.
        """
        borrows = Signal(8)
        repaid = Signal(8)
        singles = Signal(8)
        doubles = Signal(8)
        m.d.comb += [
            borrows.eq(Mux(self.four, 0, Mux(packed, 0b01000100, 0b01010100))),
            repaid.eq(Cat(Const(0, 1), self.word[:-1]) & borrows),
            singles.eq(self.word ^ repaid),
            doubles.eq(~singles & (self.word[1:] ^ repaid)),
        ]
        return singles, doubles

    def _part(self, m, k, single, double):
        """Return the row of quarter `k`, less its carry.

        It is as wide as a half from the start: a sign is extended once, ahead of all its copies.
        """
        bits = self.factor_bits + 4
        factor = Signal(signed(bits), name=f"factor_{k}")
        multiple = Signal(bits, name=f"multiple_{k}")
        part = Signal(bits, name=f"part_{k}")
        m.d.comb += [
            factor.eq(self.factors[k]),
            multiple.eq(Mux(single, factor.as_unsigned(), 0)
                        | Mux(double, Cat(Const(0, 1), factor[:-1]), 0)),
            part.eq(multiple ^ self.word[2 * k + 1].replicate(bits)),
        ]
        return part
