"""Rounding and saturation on tensors equal the golden routines, up to the ends of what is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.fixed import HALF, round_shift, saturate  # noqa: E402
from gradloom_study.draws import centred  # noqa: E402
from gradloom_study.fixed import BLOCK, EXACT, narrow_  # noqa: E402

LIMITS = {torch.float32: 24, torch.float64: 37}


@pytest.mark.parametrize(("dtype", "bits", "signed"), [
    (torch.float32, 8, True), (torch.float32, 8, False), (torch.float32, 4, False),
    (torch.float32, 2, True), (torch.float64, 8, True), (torch.float64, 16, True),
])
@given(data=st.data())
def test_narrow_equals_golden(dtype, bits, signed, data):
    limit = 1 << LIMITS[dtype]
    shift = data.draw(st.integers(0, 31))
    near = st.integers(-3, 3)
    # Around halves, ends of the range and ends of what is exact, and anywhere.
    anchors = st.sampled_from([0, 1 << max(shift - 1, 0), 127 << shift, 128 << shift, 255 << shift,
                               -128 << shift, limit - 3, 3 - limit])
    values = data.draw(st.lists(st.one_of(
        st.integers(-limit, limit),
        st.tuples(anchors, near).map(lambda pair: max(-limit, min(limit, sum(pair))))),
        min_size=1, max_size=20))
    rounds = data.draw(st.booleans())
    random = np.array(data.draw(st.lists(
        st.integers(0, 65535), min_size=len(values), max_size=len(values))))
    expected = saturate(
        round_shift(values, shift, random if rounds else HALF), bits, signed=signed)
    draws = centred(torch.from_numpy(random)) if rounds else None
    found = narrow_(torch.tensor(values, dtype=dtype), shift, bits, signed=signed, draws=draws)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_blocks_join():
    values = torch.arange(-BLOCK, BLOCK + 77, dtype=torch.float32)
    draws = torch.arange(len(values)).mul(7919).remainder(65536)
    found = narrow_(values.clone(), 10, 8, draws=centred(draws))
    expected = saturate(round_shift(values.numpy().astype(np.int64), 10, draws.numpy()), 8)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_exact_says_where_types_stop_counting():
    for dtype, limit in EXACT.items():
        end = torch.tensor(float(limit), dtype=dtype)
        assert end - 1 != end
        assert end + 1 == end
