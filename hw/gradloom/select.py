"""Choosing one of several equal parts of a word."""

from amaranth import Cat, Const, Module, Signal, Value

__all__ = ["select"]

ROW_BITS = 4
"""Of the index: more parts than such a number can tell apart are chosen among in two steps."""


def select(m: Module, word: Value, index: Value, width: int, *, name: str) -> Value:
    """Return part `index` of `width` bits of `word`, zero past its end.

    ``word.word_select(index, width)`` would say the same, but becomes a shift of the whole word,
    which linters report as cut off.

    Of many parts first a row of them is chosen and then one of the row: else every part would be
    compared with the index.
    """
    count = len(word) // width
    if count == 1:
        return word
    if count > 1 << ROW_BITS:
        word = Cat(word, Const(0, -count % (1 << ROW_BITS) * width))
        row = select(m, word, index[ROW_BITS:], width << ROW_BITS, name=f"{name}_row")
        return select(m, row, index[:ROW_BITS], width, name=name)
    part = Signal(width, name=name)
    with m.Switch(index):
        for place in range(count):
            with m.Case(place):
                m.d.comb += part.eq(word[place * width:(place + 1) * width])
    return part
