"""Rounding and saturation in gates; the same names as `gradloom_golden.fixed`."""

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned

from gradloom_golden.fixed import HALF

__all__ = ["HALF", "round_shift", "saturate"]


def round_shift(m: Module, value: Value, shift: Value, random: Value, *, name: str) -> Signal:
    """Return ``value / 2**shift``, rounded by 16 random bits at the cut.

    `HALF` as `random` rounds to nearest. One barrel shifter and one adder.
    """
    width = value.shape().width
    scaled = Signal(signed(width + 16), name=f"{name}_scaled")
    rounded = Signal(signed(width + 17), name=f"{name}_rounded")
    m.d.comb += [
        scaled.eq(Cat(Const(0, 16), value).as_signed() >> shift),
        rounded.eq(scaled + random),
    ]
    result = Signal(signed(width + 1), name=f"{name}_quotient")
    m.d.comb += result.eq(rounded[16:].as_signed())
    return result


def saturate(m: Module, value: Value, bits: int, *, name: str, unsigned_range: Value | None = None,
             ) -> Signal:
    """Return `value` clipped to `bits` signed bits, or unsigned ones where `unsigned_range` is 1.

    The result has `bits` bits without a sign: the caller knows which range it chose.
    """
    result = Signal(unsigned(bits), name=f"{name}_saturated")
    negative = value[-1]
    low = Const(1 << bits - 1, bits)
    high = Const((1 << bits - 1) - 1, bits)
    over = Signal(name=f"{name}_over")
    if unsigned_range is None:
        m.d.comb += over.eq(value[bits - 1:-1] != negative.replicate(len(value) - bits))
    else:
        low = Mux(unsigned_range, 0, low)
        high = Mux(unsigned_range, (1 << bits) - 1, high)
        outside = value[bits:-1] != negative.replicate(len(value) - bits - 1)
        m.d.comb += over.eq(Mux(unsigned_range, negative | outside,
                                outside | (value[bits - 1] != negative)))
    m.d.comb += result.eq(Mux(over, Mux(negative, low, high), value[:bits]))
    return result
