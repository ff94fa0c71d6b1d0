"""From skip rates to cycles: the sums are those of a model asked layer by layer, and the bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_host.graph import Shape  # noqa: E402
from gradloom_study.cycles import (  # noqa: E402
    Cost,
    SlotModel,
    bound,
    gain,
    layers_of,
    training_cost,
)
from gradloom_study.networks import mlp, resnet  # noqa: E402


def test_the_bound_of_the_papers_rate():
    assert bound(0.7583, 4) == pytest.approx(2.30, abs=0.005)
    assert bound(0, 1) == 1
    assert bound(1, 1) == 3


def test_resnet20_has_its_layers():
    layers = layers_of(resnet(Shape(3, 32, 32), 10))
    assert len(layers) == 20
    assert sum(layer.macs for layer in layers) == 40_551_040
    assert [layer.is_first for layer in layers].count(True) == 1


@given(skipped=st.floats(0, 1), bits=st.sampled_from([8, 4, 2]), hidden=st.integers(1, 50))
def test_slots_reach_the_bound_less_the_first_layer(skipped, bits, hidden):
    # All layers but the first reach it exactly; the first has one gradient, without lanes.
    layers = layers_of(mlp(Shape(1, 2, 2), 3, hidden=(hidden, 7)))[1:]
    model, widths = SlotModel(), {layer.index: bits for layer in layers}
    own = training_cost(model, layers, 16, [skipped], [widths], samples=160)
    base = training_cost(model, layers, 16, [0.0], [dict.fromkeys(widths, 8)], samples=160,
                         interleaved=False)
    assert base.cycles / own.cycles == pytest.approx(bound(skipped, 8 / bits))


def test_a_run_is_added_up_epoch_by_epoch():
    class Told:
        def forward(self, layer, batch):
            return Cost(cycles=batch, accesses=1)

        def backward(self, layer, kept, bits, *, interleaved):
            return Cost(cycles=10 * kept, energy=bits * (1 if interleaved else 100))

    layers = layers_of(mlp(Shape(1, 2, 2), 3, hidden=()))
    run = {"records": [
        {"kept": 64, "full": 64, "samples": 64, "bits": {"0": 8}},
        {"kept": 16, "full": 64, "samples": 32, "bits": {"0": 2}}]}
    own, base = gain(Told(), layers, run, 16, 3)
    assert own == Cost(cycles=4 * (16 + 160) + 2 * (16 + 80), accesses=4 + 2,
                       energy=4 * 8 + 2 * 2)
    assert base == Cost(cycles=3 * 4 * (16 + 160), accesses=12, energy=3 * 4 * 800)


def test_every_epoch_has_bits():
    layers = layers_of(mlp(Shape(1, 2, 2), 3))
    with pytest.raises(ValueError, match="shorter"):
        training_cost(SlotModel(), layers, 16, [0.0, 0.0], [{0: 8, 1: 8}], samples=16)


def test_a_first_layer_has_one_gradient_and_lanes_save_it_nothing():
    first, other = layers_of(mlp(Shape(1, 2, 2), 3, hidden=(4,)))
    model = SlotModel(cells=2)
    assert model.backward(first, 10, 2, interleaved=True).cycles == 10 * 16 / 2
    assert model.backward(other, 10, 2, interleaved=True).cycles == 10 * 12 * 1.25 / 2
    assert model.backward(other, 10, 8, interleaved=False).cycles == 10 * 12 * 2 / 2
