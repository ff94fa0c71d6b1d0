"""Serial folds against cycles that SCALE-Sim 3.0.0 printed; `bench/scalesim.py` runs it anew.

SCALE-Sim prints the index of the last cycle, one less than the cycles of a layer; its
output-stationary results never leave the array, and it rounds the sizes of outputs up.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradloom_model.assumptions import Assumptions
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.schedules import SCHEDULES, cost
from gradloom_model.work import Products

PRINTED = {                                                # M, N, K: WS, OS on 32x32
    (256, 128, 256): (11_199, 10_175),
    (512, 64, 288): (10_907, 11_199),
    (784, 64, 147): (8_779, 10_449),
}
# Convolutions of AlexNet as SCALE-Sim's topology has them: input, kernel, channels, filters,
# stride. WS on 32x32, the sum of what it printed for five layers.
ALEXNET = ((224, 11, 3, 96, 4), (27, 5, 96, 256, 1), (13, 3, 256, 384, 1), (13, 3, 384, 384, 1),
           (13, 3, 384, 256, 1))
ALEXNET_PRINTED = 1_136_239


def machine(rows=32, columns=32):
    return Assumptions(rows=rows, columns=columns, batch=1, folds="serial", os_drain=False,
                       taps="always", steps=None, lookup=0)


def forward(a, layers, schedule):
    """Return the cycles of each layer's forward pass."""
    found = cost(Products(geometry(Network("some", layers)), a), SCHEDULES[schedule])
    return [int(cycles) for cycles in found["forward"]["cycles"]]


def product(m, n, k):
    return Layer(name="product", kind="linear", outputs=n, inputs=k, size=(m, 1))


@pytest.mark.parametrize("mnk", PRINTED)
def test_products_cost_what_scalesim_printed_and_one(mnk):
    for schedule, printed in zip(("ws", "os"), PRINTED[mnk]):
        assert forward(machine(), [product(*mnk)], schedule) == [printed + 1]


def test_alexnet_costs_what_scalesim_printed_and_one_a_layer():
    layers = []
    for size, kernel, channels, filters, stride in ALEXNET:
        beyond = -(size - kernel) % stride                 # what rounding up adds to the image
        layers.append(Layer(
            name="conv", outputs=filters, inputs=channels, kernel=(kernel, kernel),
            stride=(stride, stride), padding=(0, 0, beyond, beyond), size=(size, size)))
    assert sum(forward(machine(), layers, "ws")) == ALEXNET_PRINTED + len(layers)


@given(st.tuples(*[st.integers(1, 400)] * 3), st.tuples(*[st.integers(1, 80)] * 2))
def test_folds_follow_scalesims_formula(mnk, array):
    m, n, k = mnk
    rows, columns = array
    a = machine(rows, columns)
    folds = -(-k // rows) * -(-n // columns)
    assert forward(a, [product(*mnk)], "ws") == [folds * (2 * rows + columns + m - 2)]
    folds = -(-m // rows) * -(-n // columns)
    assert forward(a, [product(*mnk)], "os") == [folds * (rows + columns + k - 2)]
