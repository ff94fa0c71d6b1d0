"""`select` chooses a part of a word."""

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradloom.select import select
from simulate import play


class Selection(wiring.Component):
    """Ports around `select`."""

    def __init__(self, parts, width):
        self._width = width
        super().__init__({"word": In(parts * width), "index": In(6), "part": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.part.eq(select(m, self.word, self.index, self._width, name="chosen"))
        return m


@pytest.mark.parametrize(("parts", "width"), [(2, 8), (4, 1), (5, 3), (8, 4), (16, 2), (17, 1),
                                             (30, 2), (60, 1)])
def test_gives_the_part_or_zero_past_the_end(parts, width, rng):
    words = rng.integers(1, 1 << parts * width, 40)
    indices = rng.integers(0, min(64, 2 * parts), 40)
    cycles = ({"word": word, "index": index} for word, index in zip(words, indices, strict=True))
    seen = play(Selection(parts, width), cycles, "part", clocked=False)["part"]
    np.testing.assert_array_equal(seen, np.where(
        indices < parts, words >> indices % parts * width & (1 << width) - 1, 0))


def test_a_word_of_one_part_is_that_part_whatever_the_index():
    cycles = [{"word": 0xA5, "index": index} for index in range(64)]
    seen = play(Selection(1, 8), cycles, "part", clocked=False)["part"]
    assert (seen == 0xA5).all()
