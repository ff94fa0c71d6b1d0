"""A convolutional network learns from images: on the golden machine, through lists in memory."""

from dataclasses import replace

import numpy as np
import pytest

from gradloom_golden.confidence import NEVER
from gradloom_golden.config import PRESETS
from gradloom_golden.importance import field
from gradloom_golden.program import Region, Register, SkipRule
from gradloom_host.cnn import ImageData, ImageTrainer, memory_needed
from gradloom_host.graph import Conv, Graph, Linear, Shape
from gradloom_host.image_command import attribution
from gradloom_host.resident import Resident
from gradloom_host.streaming import Streamed
from gradloom_host.system import System
from gradloom_host.tensors import Policy

CONFIG = PRESETS["tiny"].with_changes(
    activation_depth=2048, gradient_depth=2048, weight_depth=512, image_depth=1024,
    bias_depth=16, steps_depth=256)
GRAPH = Graph(Shape(1, 6, 6), [
    Conv(channels=8, stride=2, padding=1), Linear(features=2, relu=False)])
BATCH = 8
POLICY = Policy(rate=2)


@pytest.fixture(scope="module")
def data():
    """Images whose left or right half is bright."""
    rng = np.random.default_rng(4)

    def draw(count):
        labels = rng.integers(0, 2, count)
        images = rng.integers(0, 100, (count, 6, 6, 1))
        for image, label in zip(images, labels):
            image[:, 3 * label:3 * label + 3] += 120
        return images, labels

    (train, train_labels), (test, test_labels) = draw(160), draw(64)
    return ImageData(train_images=train, train_labels=train_labels, test_images=test,
                     test_labels=test_labels)


@pytest.fixture
def make(data):
    def trainer(plan, policy=POLICY, given=data, **options):
        system = System(CONFIG, "golden", memory_bytes=memory_needed(given, plan))
        return ImageTrainer(system, plan, given, policy, calibrations=5, **options)

    return trainer


@pytest.mark.parametrize("kind", [Resident, Streamed])
def test_learns_what_is_easy(make, kind):
    first, *_, last = make(kind(CONFIG, GRAPH, BATCH)).epochs(4)
    assert first.loss > 2 * last.loss
    assert last.test_accuracy > 0.95


def test_lists_of_a_few_steps_train_as_one_of_all(make):
    one, few = (next(make(Resident(CONFIG, GRAPH, BATCH)).epochs(1, steps_a_list=steps))
                for steps in (None, 3))
    assert (one.loss, one.test_accuracy) == (few.loss, few.test_accuracy)


def test_the_seed_decides(make):
    losses = [next(make(Resident(CONFIG, GRAPH, BATCH), seed=seed).epochs(1)).loss
              for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_a_budget_skips_from_the_second_epoch_on(make, data):
    policy = replace(POLICY, skip_rule=SkipRule.BUDGET, budget=4000)
    # A fifth of the labels are wrong: nobody becomes sure of those.
    wrong = np.arange(len(data.train_labels)) % 5 == 0
    given = replace(data, train_labels=data.train_labels ^ wrong)
    trainer = make(Resident(CONFIG, GRAPH, BATCH), policy, given)
    epochs = trainer.epochs(3)
    assert next(epochs).skipped == 0
    [threshold] = trainer.system.read(Region.CONTROL, Register.THRESHOLD)
    assert 0 < threshold < NEVER
    assert 0 < next(epochs).skipped < 1


def test_importance_needs_its_own_field():
    with pytest.raises(ValueError, match=r"threshold is importance.field\(cap, extra\), not 65535"):
        Policy(skip_rule=SkipRule.IMPORTANCE)


def test_importance_trains_on_fewer_samples_the_longer_it_runs(make):
    policy = replace(POLICY, skip_rule=SkipRule.IMPORTANCE, threshold=field(3))
    first, *_, last = make(Resident(CONFIG, GRAPH, BATCH), policy).epochs(4)
    assert 0 < first.skipped < last.skipped < 1
    assert last.test_accuracy > 0.95


def test_every_cycle_goes_to_one_cause():
    counters = {"forward_cycles": 50, "backward_cycles": 70, "loss_cycles": 5, "vector_cycles": 6,
                "update_cycles": 7, "wait_cycles": 8}
    found = attribution(counters, 150, 100)
    assert sum(found.values()) == 150
    assert found["load, drain and skew of tiles"] == 20
    assert found["descriptors and start"] == 4
