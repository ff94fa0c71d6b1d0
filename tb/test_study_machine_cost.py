"""What a training run costs on the machine: the cost model, layer by layer, sample by sample."""

import pytest

from gradloom_golden.config import preset
from gradloom_model.assumptions import Assumptions
from gradloom_model.counts import ACCESSES
from gradloom_model.energy import load
from gradloom_model.estimate import estimate
from gradloom_model.readers.csv_reader import load as load_network

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_host.graph import Shape  # noqa: E402
from gradloom_study.cycles import layers_of  # noqa: E402
from gradloom_study.machine_cost import MachineModel  # noqa: E402
from gradloom_study.networks import resnet  # noqa: E402

CONFIG, TABLE, BATCH = preset("base"), load("aladdin65"), 64
LAYERS = layers_of(resnet(Shape(3, 32, 32), 10))


@pytest.mark.parametrize(("schedule", "bits", "interleaved"), [
    ("lanes", 2, True), ("skip", 8, True), ("sequential", 8, False)])
def test_resnet20_costs_what_the_estimate_says(schedule, bits, interleaved):
    model = MachineModel(CONFIG, BATCH, TABLE)
    kept = BATCH if schedule == "sequential" else 16.25
    a = Assumptions.of(CONFIG, batch=BATCH, skip=1 - kept / BATCH, lanes=8 // bits)
    step = estimate(load_network("resnet20_cifar"), a, [schedule]).steps[schedule]
    forward = step.passes["forward"]
    for index, layer in enumerate(LAYERS):
        cost = model.backward(layer, kept, bits, interleaved=interleaved)
        assert cost.energy > 0
        assert cost.cycles == pytest.approx(step.compute_cycles[index] - forward["cycles"][index])
        read = sum(forward[name][index] for name in ACCESSES if name in forward)
        assert cost.accesses == pytest.approx(step.accesses[index] - read)
        if interleaved:
            assert model.forward(layer, BATCH).cycles == forward["cycles"][index]


def test_fewer_samples_cost_less_and_none_cost_nothing():
    model, layer = MachineModel(CONFIG, BATCH, TABLE), LAYERS[3]
    costs = [model.backward(layer, kept, 8, interleaved=True) for kept in (0, 0.5, 1, 40, BATCH)]
    assert costs[0].cycles == 0
    assert costs[1].cycles == pytest.approx(costs[2].cycles / 2)
    assert costs[2].energy < costs[3].energy < costs[4].energy


def test_batches_of_another_size_are_refused():
    with pytest.raises(ValueError, match="the model is of batches of 64, not 32"):
        MachineModel(CONFIG, BATCH, TABLE).forward(LAYERS[0], 32)
