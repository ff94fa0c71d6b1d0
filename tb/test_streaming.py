"""Networks that pass through small buffers train as they do in large ones, and on the RTL."""

import re
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from gradloom_golden.config import PRESETS, Config
from gradloom_golden.program import Opcode, Region, Schedule, memory_shape
from gradloom_host.cnn import ImageData, ImageTrainer, memory_needed, plan_network
from gradloom_host.device import Mismatch
from gradloom_host.graph import Add, AveragePool, Conv, Graph, Linear, MaxPool, Shape
from gradloom_host.pieces import Step
from gradloom_host.resident import Resident
from gradloom_host.streaming import Streamed
from gradloom_host.system import System
from gradloom_host.tensors import CompileError, Policy
from random_networks import random_graph
from rtl_bench import seed
from test_random_networks import USUAL, generate_once  # noqa: F401 - used by its name

CONFIG = PRESETS["tiny"].with_changes(
    activation_depth=8192, gradient_depth=8192, weight_depth=4096, image_depth=4096,
    bias_depth=64, steps_depth=256, gradient_bits=16)
BATCH, SAMPLES, TESTED = 8, 16, 8
LOGITS = Linear(features=3, relu=False)
GRAPHS = {
    "convolutions": Graph(Shape(2, 7, 6), [
        Conv(channels=6, padding=1), Conv(channels=5), LOGITS]),
    "pools": Graph(Shape(2, 8, 8), [
        Conv(channels=6, padding=1), MaxPool(), Conv(channels=9, stride=2, padding=1),
        AveragePool(), LOGITS]),
    "residual": Graph(Shape(1, 6, 6), [
        Conv(channels=6, padding=1), Conv(channels=6, padding=1, relu=False), Add(of=0),
        Conv(channels=6, padding=1, relu=False), Add(of=2), Linear(features=7), LOGITS]),
    "added twice": Graph(Shape(1, 6, 6), [
        Conv(channels=6, padding=1), Conv(channels=6, padding=1, relu=False),
        Add(of=0, relu=False), Conv(channels=6, padding=1, relu=False), Add(of=0),
        MaxPool(size=3), LOGITS]),
    "grouped": Graph(Shape(1, 6, 6), [
        Conv(channels=8, padding=1), Conv(channels=8, padding=1, groups=2), LOGITS]),
    "fully connected": Graph(Shape(2, 5, 5), [Linear(features=9), Linear(features=6), LOGITS]),
    "wide": Graph(Shape(1, 4, 4), [
        Conv(channels=12, padding=1), Conv(channels=24, kernel=2), Conv(channels=8, kernel=2),
        LOGITS]),
}
SMALL = {
    "whole": {},
    "windows": {"activation_depth": 1024, "gradient_depth": 1024, "image_depth": 512},
    "small windows": {"activation_depth": 512, "gradient_depth": 512, "image_depth": 256},
    "short sums": {"activation_depth": 1024, "gradient_depth": 1024, "image_depth": 512,
                   "steps_depth": 64},
    "weights": {"weight_depth": 512},
    "both": {"activation_depth": 512, "gradient_depth": 512, "image_depth": 256,
             "weight_depth": 512},
}
SPLIT = ("added twice", "wide")
"""Those whose layers fit half of 512 rows in groups."""

# Nothing that depends on the order in which random numbers are drawn.
POLICY = Policy(fused=False, stochastic=False, threshold=30000, rate=3)


def data_of(graph: Graph, rng: np.random.Generator) -> ImageData:
    size = graph.input.height, graph.input.width, graph.input.channels
    classes = graph.layers[-1].features
    return ImageData(
        train_images=rng.integers(0, 256, (SAMPLES, *size)),
        train_labels=rng.integers(0, classes, SAMPLES),
        test_images=rng.integers(0, 256, (TESTED, *size)),
        test_labels=rng.integers(0, classes, TESTED))


def train(plan, policy=POLICY, *, config: Config = CONFIG, backend="golden", **options):
    """Train an epoch; return what was learned and measured, by name."""
    data = data_of(plan.network.graph, np.random.default_rng([seed(), 1]))
    system = System(config, backend, memory_bytes=memory_needed(data, plan), **options)
    try:
        trainer = ImageTrainer(system, plan, data, policy, calibrations=2)
        [epoch] = trainer.epochs(1)
        rows, columns = plan.network.weight_rows, config.columns
        found = {name: system.read(region, 0, memory_shape(config, region)[0])
                 for name, region in (("exponents", Region.SCALE), ("kept", Region.KEEP))}
        found["biases"] = system.read(Region.BIAS, 0, 2 * config.bias_depth)
        if plan.resident_weights:
            found["weights"] = system.read(Region.WEIGHT, 0, rows).view(np.uint8)
        else:
            found["weights"] = system.memory[trainer.weights:trainer.weights + rows * columns]
        return found | {"epoch": epoch}
    finally:
        system.close()


@pytest.mark.parametrize(("name", "changes"), [
    (name, changes) for name in GRAPHS for changes, fields in SMALL.items()
    if "weight_depth" not in fields or name in SPLIT])
def test_trains_as_if_the_buffers_were_large(name, changes):
    graph = GRAPHS[name]
    expected = train(Resident(CONFIG, graph, BATCH))
    found = train(Streamed(CONFIG.with_changes(**SMALL[changes]), graph, BATCH))
    for what in ("weights", "biases", "exponents"):
        np.testing.assert_array_equal(found[what], expected[what])
    for what in ("loss", "train_accuracy", "test_accuracy", "skipped"):
        assert getattr(found["epoch"], what) == getattr(expected["epoch"], what)
    assert found["epoch"].counters["load_words"] > expected["epoch"].counters["load_words"]


def test_windows_are_taken_where_the_batch_does_not_fit():
    def windows(changes):
        plan = Streamed(CONFIG.with_changes(**SMALL[changes]), GRAPHS["residual"], BATCH)
        updates = [d for d in plan.descriptors([Step(batch=0, policy=POLICY)])
                   if d.opcode == Opcode.UPDATE]
        assert len(updates) == 5                           # one for each layer with weights
        return sum(d.opcode == Opcode.FORWARD
                   for d in plan.descriptors([Step(batch=0, policy=POLICY, evaluate=True)]))

    whole, some, many = (windows(name) for name in ("whole", "windows", "small windows"))
    assert whole < some < many


def test_weights_are_taken_in_groups_where_a_layer_does_not_fit():
    plan = Streamed(CONFIG.with_changes(weight_depth=512), GRAPHS["wide"], BATCH)
    assert not plan.resident_weights
    assert len(plan._operations.groups(1, backward=False)) > 1
    assert len(plan._operations.groups(1, backward=True)) > 1


@pytest.mark.parametrize("lanes", [2, 4])
def test_activations_are_kept_as_narrow_as_lanes_read_them(lanes):
    graph = Graph(Shape(1, 8, 8), [
        Conv(channels=4, padding=1), Conv(channels=4, padding=1), Conv(channels=4, padding=1),
        LOGITS])
    wide, narrow = (Streamed(CONFIG, graph, BATCH, lanes=(q,)) for q in (1, lanes))
    pixels = BATCH * 64
    masks = 3 * pixels * 4 // 8
    assert wide.kept_bytes == 3 * pixels * 4 + masks
    assert narrow.kept_bytes == 3 * pixels * 4 // lanes + masks
    found = train(narrow, replace(POLICY, lanes=(lanes,), stochastic=True))
    assert 0 < found["epoch"].loss < 10


def test_what_is_cut_is_what_lanes_would_have_read():
    """Without rounding at random it does not matter where the low bits are lost."""
    graph = GRAPHS["convolutions"]
    policy = replace(POLICY, lanes=(1, 4, 2), threshold=65535)
    plan = Streamed(CONFIG, graph, BATCH, lanes=policy.lanes)
    steps = plan.descriptors([Step(batch=0, policy=policy)])
    cut = [d for d in steps if d.tested_bits]
    assert {(d.opcode, d.tested_bits, d.x_shift) for d in cut} == {
        (opcode, bits, 8 - bits) for opcode in (Opcode.SAVE, Opcode.LOAD) for bits in (2, 4)}


def test_an_evaluation_saves_nothing_that_it_does_not_load():
    for name, saves in (("residual", 4), ("pools", 0)):
        plan = Streamed(CONFIG, GRAPHS[name], BATCH)
        free = count(0, 1 << 16)
        plan.reserve(lambda size, free=free: next(free))
        places = {opcode: {(d.memory_high, d.memory_low) for d in plan.descriptors(
            [Step(batch=0, policy=POLICY, evaluate=True)]) if d.opcode == opcode}
            for opcode in (Opcode.LOAD, Opcode.SAVE)}
        assert places[Opcode.SAVE] <= places[Opcode.LOAD]
        # Only what a residual addition reads again, two blocks each.
        assert len(places[Opcode.SAVE]) == saves


def test_lanes_are_those_it_was_laid_out_for():
    plan = Streamed(CONFIG, GRAPHS["convolutions"], BATCH, (4,))
    message = "the network was laid out for lanes (4,), not (1,): construct another"
    with pytest.raises(ValueError, match=re.escape(message)):
        plan.descriptors([Step(batch=0, policy=POLICY)])


def test_the_smallest_way_that_fits_is_chosen():
    graph = GRAPHS["convolutions"]
    assert isinstance(plan_network(CONFIG, graph, BATCH), Resident)
    small = CONFIG.with_changes(**SMALL["windows"])
    assert isinstance(plan_network(small, graph, BATCH), Streamed)
    assert isinstance(plan_network(CONFIG, graph, BATCH, streamed=True), Streamed)
    with pytest.raises(CompileError, match=r"^activations of 8 samples take "):
        plan_network(small, graph, BATCH, streamed=False)


@pytest.mark.parametrize(("changes", "message"), [
    ({"activation_depth": 128},
     "layer 0 needs 84 words of the activation buffer for one image, more than half of it: raise "
     "activation_depth 128"),
    ({"gradient_depth": 128},
     "the gradient of layer 1 needs 126 words of the gradient buffer for one image, more than "
     "half of it: raise gradient_depth 128"),
    ({"weight_depth": 128},
     "the weights of layer 1 exceed half the weight buffer: raise weight_depth 128"),
])
def test_what_does_not_fit_even_so_is_named(changes, message):
    with pytest.raises(CompileError, match=f"^{re.escape(message)}$"):
        Streamed(CONFIG.with_changes(**changes), GRAPHS["convolutions"], BATCH)


def streamed_on_the_rtl(number: int) -> None:
    """Train a random network through small windows on the RTL and the golden machine."""
    machine = USUAL["tiny"]
    rng = np.random.default_rng([seed(), 3, number])
    while True:
        lanes = tuple(int(q) for q in rng.choice([1, 2, 4], 1))
        small = machine.with_changes(
            activation_depth=int(rng.choice([256, 512, 1024])), gradient_depth=512,
            weight_depth=int(rng.choice([256, 512, 1024])), image_depth=256)
        try:
            plan = Streamed(small, random_graph(rng, machine.rows), BATCH, lanes)
            plan.descriptors([Step(batch=0, policy=replace(POLICY, lanes=lanes))])
        except CompileError:
            continue
        break
    policy = Policy(
        rate=4, lanes=lanes, threshold=int(rng.choice([65535, 30000, 12000])),
        schedule=Schedule(int(rng.choice([Schedule.INTERLEAVED, Schedule.SEQUENTIAL]))),
        fused=bool(rng.random() < 0.5))
    told = f"network {number}: {plan.network.graph}, {small}, {policy}"
    try:
        found = train(plan, policy, config=machine, backend="rtl", check=True,
                      stall=float(rng.choice([0, 0.2])), seed=number)
    except Exception as error:
        raise AssertionError(f"{told}: {error}") from error
    assert found["epoch"].cycles > 1000, told


def test_a_check_compares_what_was_learned():
    machine = USUAL["tiny"]
    plan = plan_network(machine, GRAPHS["convolutions"], BATCH)
    data = data_of(GRAPHS["convolutions"], np.random.default_rng(1))
    system = System(machine, "rtl", memory_bytes=memory_needed(data, plan), check=True)
    try:
        trainer = ImageTrainer(system, plan, data, POLICY, calibrations=2)
        # The lowest bit of a master weight: what the array sees of it stays the same for long.
        system._golden.memory[Region.STATE][0, 0] ^= 1
        with pytest.raises(Mismatch, match=r"^memory at 0x"):
            list(trainer.epochs(1))
    finally:
        system.close()


def test_streamed_networks_equal_the_golden_machine():
    for number in range(6):
        streamed_on_the_rtl(number)


@pytest.mark.slow
def test_many_streamed_networks_equal_the_golden_machine():
    for number in range(6, 60):
        streamed_on_the_rtl(number)
