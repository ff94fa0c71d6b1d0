"""Lane multiplier: one 8-bit word of one, two or four activations times one factor a field."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
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
    factor : In(signed(factor_bits))
        Of an 8-bit word.
    steps : In(signed(factor_bits)), four times
        Of the fields of a packed word, newest first: field f of n goes with step
        ``n - 1 - bit_reverse(f)``.
    two, four : In(1)
        The word holds two 4-bit or four 2-bit fields; both low, one 8-bit field. Never both high.
    product : Out(signed(8 + factor_bits))
        The sum less `carry`.
    carry : Out(1)
        Meant for the carry input of the adder behind, where it costs nothing.
    """

    word: Signal
    factor: Signal
    steps: list[Signal]
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
            "factor": In(signed(factor_bits)),
            "steps": In(signed(factor_bits)).array(4),
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
        factors = self._choose(m, packed)

        # A quarter times its factor is `part + carry`. Parts are added where the fields put them.
        # A part that moves up by n bits is filled with n carries, which moves its carry up too.
        bits = self.factor_bits
        carries = [self.word[2 * k + 1] for k in range(4)]
        parts = [self._part(m, k, factors[k], singles[2 * k], doubles[2 * k]) for k in range(4)]
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

    def _choose(self, m, packed):
        """Return the factor of each quarter.

        They are as wide as a half, and so is what they are chosen from: a sign is extended once,
        ahead of all its copies and of all their uses.
        """
        wide = signed(self.factor_bits + 4)
        factors = [Signal(wide, name=f"factor_{k}") for k in range(4)]
        alone = Signal(wide)
        m.d.comb += [
            alone.eq(self.factor),
            factors[3].eq(Mux(packed, self.steps[0], alone)),
            factors[2].eq(Mux(self.four, self.steps[2], factors[3])),
            factors[1].eq(Mux(packed, self.steps[1], factors[3])),
            factors[0].eq(Mux(self.four, self.steps[3], factors[1])),
        ]
        return [factor.as_unsigned() for factor in factors]

    def _part(self, m, k, factor, single, double):
        """Return the row of quarter `k`, less its carry.

        Masks, not choices: digits are as good as random, and a simulator that branches on them
        guesses wrong.
        """
        bits = len(factor)
        multiple = Signal(bits, name=f"multiple_{k}")
        part = Signal(bits, name=f"part_{k}")
        m.d.comb += [
            multiple.eq(single.replicate(bits) & factor
                        | double.replicate(bits) & Cat(Const(0, 1), factor[:-1])),
            part.eq(multiple ^ self.word[2 * k + 1].replicate(bits)),
        ]
        return part
