"""Small random layers and assumptions, for Hypothesis."""

from hypothesis import assume
from hypothesis import strategies as st

from gradloom_model.assumptions import CHOICES, Assumptions
from gradloom_model.layers import Layer

__all__ = ["ASSUMPTIONS", "FOLDS", "layers"]

FOLDS = CHOICES["folds"]


@st.composite
def layers(draw):
    """Draw a layer of a few elements."""
    kind = draw(st.sampled_from(["conv", "conv", "conv", "linear", "matmul"]))
    first = draw(st.booleans())
    if kind != "conv":
        return Layer(
            name=kind, kind=kind, outputs=draw(st.integers(1, 5)), inputs=draw(st.integers(1, 5)),
            size=(draw(st.integers(1, 4)), 1), input_gradient=not first,
            copies=draw(st.integers(1, 3)) if kind == "matmul" else 1)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(*[st.integers(0, 1)] * 4))
    assume(all(size[i] + padding[i] + padding[i + 2] > dilation[i] * (kernel[i] - 1)
               for i in range(2)))
    return Layer(
        name="conv", outputs=groups * draw(st.integers(1, 3)),
        inputs=groups * draw(st.integers(1, 3)), kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        dilation=dilation, padding=padding, size=size, groups=groups, input_gradient=not first)


ASSUMPTIONS = st.builds(
    Assumptions, rows=st.integers(1, 4), columns=st.integers(1, 4), batch=st.integers(1, 3),
    steps=st.sampled_from([None, 1, 3, 5, 12, 40]), lookup=st.integers(0, 9),
    os_drain=st.booleans(), masks=st.booleans(), update_cycles=st.integers(0, 3),
    gradient_bits=st.sampled_from([8, 16, 32]), sum_bits=st.sampled_from([8, 24, 32]),
    port=st.sampled_from([None, 1, 3, 8]),
    **{name: st.sampled_from(CHOICES[name])
       for name in ("taps", "groups", "partial_sums", "padding", "optimizer")})
