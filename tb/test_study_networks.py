"""Whole training steps of random networks: the emulation equals the golden machine, bit for bit."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.config import PRESETS  # noqa: E402
from gradloom_golden.importance import error_shift, field, parts  # noqa: E402
from gradloom_golden.program import SkipRule  # noqa: E402
from gradloom_host.graph import (  # noqa: E402
    Add,
    AveragePool,
    Conv,
    Graph,
    Linear,
    Shape,
)
from gradloom_host.tensors import CompileError, Policy  # noqa: E402
from gradloom_study import loss  # noqa: E402
from gradloom_study.draws import Replayed  # noqa: E402
from gradloom_study.networks import Network, Spec  # noqa: E402
from gradloom_study.scale import Scale  # noqa: E402
from gradloom_study.step import Step  # noqa: E402
from random_networks import random_graph  # noqa: E402
from recording_machine import MachineTraining  # noqa: E402

torch.set_num_threads(1)

CONFIG = PRESETS["tiny"].with_changes(
    activation_depth=8192, gradient_depth=8192, weight_depth=4096, image_depth=4096,
    bias_depth=64, steps_depth=256)
BATCH = 4
STEPS = 3
SKIPS = [*({"threshold": threshold} for threshold in (65535, 30000, 9000)),
         {"skip_rule": SkipRule.IMPORTANCE, "threshold": field(4)}]


def scales(network: Network, training: MachineTraining) -> Iterator[tuple[Scale, int]]:
    """Yield every scale of the emulation with its place in the machine's table."""
    placed = training.network
    for index, member in enumerate(network.members):
        if "y" in member.scales:
            yield member.scales["y"], placed.activations[index].scale
        if index and "dx" in member.scales:
            yield member.scales["dx"], placed.raw_scales[index - 1]
        if str(index) in network.meetings.scales:
            yield network.meetings.scales[str(index)], placed.gradients[index].scale


def emulated(training: MachineTraining) -> Network:
    """Return a network with the weights and exponents of the machine's."""
    graph, placed = training.graph, training.network
    network = Network(Spec(input=graph.input, layers=list(graph.layers)), width=4,
                      input_exponent=training.exponent(placed.scales["input"]))
    for scale, place in scales(network, training):
        scale.exponent = training.exponent(place)
    for index, member in network.weighted.items():
        member.exponent = training.exponent(placed.weights[index].scale)
        master, velocity, bias = (torch.from_numpy(np.array(part, np.float64))
                                  for part in training.learned(index))
        member.master, member.velocity, member.bias = master, velocity, bias
    return network


def is_emulated(graph: Graph) -> bool:
    """Return whether a machine writes every gradient, and nothing is grouped."""
    convs = [layer for layer in graph.layers if isinstance(layer, Conv)]
    return all(layer.groups == 1 and layer.stride <= min(layer.taps) for layer in convs)


@settings(max_examples=12, deadline=None,
          suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 20), flat=st.booleans(), data=st.data())
def test_steps_equal_the_golden_machine(seed, flat, data):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, CONFIG.rows, flat=flat)
    assume(is_emulated(graph))
    try:
        training = MachineTraining(CONFIG, graph, BATCH, rng)
    except CompileError:
        assume(False)
        raise
    count = len(training.network.weights)
    policy = Policy(
        rate=data.draw(st.integers(0, 7)), momentum=data.draw(st.sampled_from([None, 1, 3])),
        stochastic=data.draw(st.booleans()), **data.draw(st.sampled_from(SKIPS)),
        lanes=(1, *(data.draw(st.sampled_from([1, 2, 4])) for _ in range(count - 1))))
    network = emulated(training)
    for lanes, member in zip(policy.lanes, network.weighted.values()):
        member.lanes = lanes
    classes = training.network.activations[-1].shape.channels
    for _ in range(STEPS):
        shape = graph.input
        images = rng.integers(0, 256, (BATCH, shape.height, shape.width, shape.channels))
        labels = rng.integers(0, classes, BATCH)
        keep = training.step(images, labels, policy)
        draws = replayed(training)
        follow(network, images, labels, policy, keep, draws)
        draws.finish()
        training.rescale()
        network.rescale()
        compare(network, training)


def test_every_sum_raises_its_exponent():
    """All that a network writes starts with exponents below those of the sums."""
    rng = np.random.default_rng(5)
    graph = Graph(Shape(2, 8, 8), [
        Conv(channels=4), Conv(channels=4, kernel=(1, 1), relu=False), Add(of=0),
        AveragePool(size=2), Linear(features=3, relu=False)])
    training = MachineTraining(CONFIG, graph, BATCH, rng)
    policy = Policy(rate=3, lanes=(1, 1, 1))
    for _, place in scales(emulated(training), training):
        training.machine.scales.exponents[place] = -64
    network = emulated(training)
    images, labels = rng.integers(0, 256, (BATCH, 8, 8, 2)), rng.integers(0, 3, BATCH)
    keep = training.step(images, labels, policy)
    follow(network, images, labels, policy, keep, replayed(training))
    compare(network, training)
    assert all(scale.exponent > -64 for scale, _ in scales(network, training))


def replayed(training: MachineTraining) -> Replayed:
    """Return what the machine drew in its last step."""
    return Replayed({bank: [torch.from_numpy(np.array(part)) for part in some]
                     for bank, some in training.draws.items()})


def follow(network, images, labels, policy, keep, draws):
    """Take the step that the machine took."""
    judged = loss.judge(network(torch.from_numpy(images), train=True), labels)
    shift = np.zeros_like(judged.own)
    if policy.skip_rule == SkipRule.IMPORTANCE:
        # What is drawn is tested with the policies.
        shift = error_shift(judged.own, parts(policy.threshold)[0])
    else:
        kept = np.flatnonzero((judged.own < policy.threshold) | (policy.threshold == 65535))
        np.testing.assert_array_equal(kept, keep)
    error = loss.error(judged, keep, draws if policy.stochastic else None, shift=shift[keep])
    network.backward(error, Step(
        batch=BATCH, draws=draws, keep=torch.from_numpy(keep), rate=policy.rate,
        momentum=policy.momentum, stochastic=policy.stochastic))


def compare(network, training):
    for scale, place in scales(network, training):
        assert scale.exponent == training.exponent(place)
    for index, member in network.weighted.items():
        for ours, theirs in zip((member.master, member.velocity, member.bias),
                                training.learned(index)):
            np.testing.assert_array_equal(ours.numpy(), theirs)


def test_without_a_kept_sample_nothing_is_drawn_or_learned():
    shape = Graph(Shape(1, 4, 4), [Conv(channels=2), Linear(features=3, relu=False)])
    network = Network(Spec(input=shape.input, layers=shape.layers))
    before = {name: value.clone() for name, value in network.state_dict().items()
              if isinstance(value, torch.Tensor)}
    judged = loss.judge(network(torch.zeros(4, 4, 4, 1), train=True), np.zeros(4, np.int64))
    nothing = np.zeros(0, np.int64)
    draws = Replayed({})
    network.backward(loss.error(judged, nothing, None), Step(
        batch=4, draws=draws, keep=torch.from_numpy(nothing)))
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value)
