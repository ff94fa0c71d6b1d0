"""The matrix products of training against the lists that SCALE-Sim publishes for ResNet-50."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from gradloom_model.gemms import Gemm, gemms
from gradloom_model.layers import Layer, Network
from gradloom_model.readers.csv_reader import load

PEERS = Path(os.environ.get("GRADLOOM_PEERS") or Path(__file__).parents[2] / "shared" / "peers")
LISTS = {"input gradient": "scalesim_resnet50_input_grad.csv",
         "weight gradient": "scalesim_resnet50_weight_grad.csv"}


def published(path):
    """Return (M, N, K) of each line: a convolution of M x K by N filters of 1 x K.

    The header names eight columns, and lines follow it: name, M, K, 1, K, channels, N, stride.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *lines = csv.reader(file)
    assert [name.strip().lower() for name in header[:8]] == [
        "layer name", "ifmap height", "ifmap width", "filter height", "filter width", "channels",
        "num filters", "strides"]
    found = []
    for _, *cells in lines:
        m, k, height, width, channels, n, stride = map(int, cells[:7])
        assert (height, width, channels, stride) == (1, k, 1, 1)
        found.append((m, n, k))
    return found


@pytest.mark.parametrize("name", LISTS)
def test_resnet50_has_the_products_that_scalesim_publishes(name):
    path = PEERS / LISTS[name]
    if not path.is_file():
        pytest.skip(f"{path} is absent: set GRADLOOM_PEERS to the folder that holds it")
    expected = published(path)
    assert len(expected) == 54
    # Theirs: one sample, the strided convolution in the middle of a block, as in our table; and
    # the input gradient of the first layer, which no training needs, is in their list.
    found = [(one.m, one.n, one.k) for one in gemms(load("resnet50"))[name]]
    assert Counter(found) == Counter(expected)


def test_products_of_a_convolution():
    layer = Layer(name="conv", outputs=12, inputs=8, kernel=(3, 2), stride=(2, 1), groups=4,
                  padding=(1, 0, 1, 0), size=(9, 6))
    rows, patch = 5 * 5 * 3, 2 * 3 * 2
    assert gemms(Network("one", [layer]), batch=3) == {
        "forward": [Gemm(m=rows, n=3, k=patch, copies=4)],
        "input gradient": [Gemm(m=rows, n=patch, k=3, copies=4)],
        "weight gradient": [Gemm(m=patch, n=3, k=rows, copies=4)],
    }


def test_samples_of_products_of_activations_are_copies():
    layer = Layer(name="scores", kind="matmul", outputs=7, inputs=5, size=(4, 1), copies=6)
    assert gemms(Network("one", [layer]), batch=2)["forward"] == [Gemm(m=4, n=7, k=5, copies=12)]


@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenet_v1", "alexnet_2012"])
def test_every_pass_multiplies_as_often(name):
    found = load(name)
    for products in gemms(found, batch=5).values():
        assert [one.macs for one in products] == [5 * layer.macs for layer in found.layers]


def test_no_samples():
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        gemms(Network("one", [Layer(name="fc", kind="linear", outputs=1, inputs=1)]), batch=0)
