"""Training steps on a device equal the functional step, and stand for those of real numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradloom_golden.confidence import NEVER, keep_list, threshold_from_probability
from gradloom_golden.config import PRESETS
from gradloom_golden.fixed import better_shift, sign_extend
from gradloom_golden.lanes import quantize
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.optimizer import Rule, join
from gradloom_golden.precision import angle_within, bound_from_degrees, dot_products
from gradloom_golden.program import Opcode, Region, Register, Schedule
from gradloom_golden.training import Layer, fit, lfsr_banks, pad_weights, train_step
from gradloom_host import layout
from gradloom_host.device import Device
from gradloom_host.digits import Dataset
from gradloom_host.trainer import Settings, Trainer

CONFIG = PRESETS["tiny"].with_changes(
    activation_depth=1024, gradient_depth=512, weight_depth=512)
FEATURES, CLASSES, SAMPLES = 10, 3, 52
SETTINGS = Settings(hidden=(7,), batch=16, epochs=2, lanes=8, rate_log2=-1, seed=11)
WEIGHT_UNIT = 2.0**-7
MASTER_UNIT = WEIGHT_UNIT / (1 << CONFIG.residue_bits)


@pytest.fixture(scope="module")
def data():
    """Return noisy copies of three patterns."""
    rng = np.random.default_rng(3)
    centres = rng.choice([0, 220], (CLASSES, FEATURES))
    labels = rng.permutation(np.arange(SAMPLES) % CLASSES)
    images = np.clip(centres[labels] + rng.integers(-40, 41, (SAMPLES, FEATURES)), 0, 255)
    return Dataset(name="patterns", exponent=-8, train_images=images[:40],
                   train_labels=labels[:40], test_images=images[40:], test_labels=labels[40:])


class Recorder(Device):
    """A golden device that keeps, of each step, the state before it and what it ran."""

    def __init__(self, config=CONFIG):
        super().__init__(config, "golden")
        self.programs = []

    def run(self, descriptors):
        self.programs.append(list(descriptors))
        return super().run(descriptors)

    def ran(self, opcode):
        return [d for program in self.programs for d in program if d.opcode == opcode]


def state_of(device, layer):
    """Return master weights and velocities of a layer, without padding."""
    config, shape = device.config, (layer.inputs, layer.outputs)
    parts = []
    for region in (Region.WEIGHT, Region.STATE):
        words = device.read(region, layer.w_base, layer.w_rows)
        parts.append(layout.untile(config, layout.from_words(config, region, words), shape))
    weight, state = parts
    residue = state & (1 << config.residue_bits) - 1
    return (join(weight, residue, config.residue_bits),
            sign_extend(state >> config.residue_bits, 16))


def states(trainer):
    return [state_of(trainer.device, layer) for layer in trainer.network.layers]


def padded(config, state):
    weights = pad_weights(config, state[0])
    weights.velocity[:state[1].shape[0], :state[1].shape[1]] = state[1]
    return weights


def error_draw(lfsr, count) -> Any:
    """Return the random bits of the error of `count` samples."""
    return low_half(lfsr.draw(count * CLASSES)).reshape(count, CLASSES)


def measure(config, x, d, banks, degrees):
    picked = 8
    x = fit(x, -(-x.shape[1] // config.rows) * config.rows)
    for bits in (4, 2):
        random = np.concatenate([
            low_half(banks[Bank.PACK].draw(len(x))) for _ in range(x.shape[1] // config.rows)
        ], axis=1)
        cut = quantize(x, bits, 8 - bits, unsigned=True, random=random) << 8 - bits
        if angle_within(*dot_products(x.T @ d, cut.T @ d), bound_from_degrees(degrees)):
            picked = bits
    return picked


@pytest.mark.parametrize("schedule", [Schedule.INTERLEAVED, Schedule.SEQUENTIAL])
@pytest.mark.parametrize("lanes", [8, 4, 2])
@pytest.mark.parametrize("skip", [None, 0.51])
@pytest.mark.parametrize("hidden", [(), (7,), (9, 5)], ids=str)
def test_steps_equal_the_functional_step(data, hidden, skip, lanes, schedule):
    device = Recorder()
    settings = replace(SETTINGS, hidden=hidden, skip=skip, lanes=lanes, schedule=schedule)
    trainer = Trainer(device, data, settings)
    banks = lfsr_banks(CONFIG, settings.seed)
    errors = Lfsr(Bank.ERROR, 1, settings.seed)
    count, skipped = len(hidden) + 1, 0
    for number in range(4):
        chosen = np.arange(number, number + 13)
        images, labels = data.train_images[chosen], data.train_labels[chosen]
        weights = [padded(CONFIG, state) for state in states(trainer)]
        exponent = trainer.logit_exponent
        threshold = threshold_from_probability(skip, exponent) if skip else NEVER
        device.programs.clear()
        logits, kept = trainer._step(images, labels, 0, first=number == 0)
        forwards = device.ran(Opcode.FORWARD)[:count]
        backwards = device.ran(Opcode.BACKWARD)[::-1]
        layers = [
            Layer(out_shift=forward.out_shift, input_gradient_shift=backward.out_shift,
                  lanes=8 // lanes, x_shift=8 - lanes,
                  rule=Rule(gradient_shift=backward.gradient_shift, momentum=True,
                            decay_shift=backward.decay_shift, rate_shift=backward.rate_shift))
            for forward, backward in zip(forwards, backwards or forwards, strict=True)]
        keep = keep_list(logits, labels, threshold)
        step = train_step(
            CONFIG, layers, weights, images, labels, classes=CLASSES, threshold=threshold,
            exponent=exponent, banks=banks, x_unsigned=True,
            error_random=error_draw(errors, len(keep)))
        banks = step.banks
        np.testing.assert_array_equal(logits, step.logits)
        assert kept == len(step.keep)
        np.testing.assert_array_equal(device.read(Region.KEEP, 0, kept), step.keep)
        for (master, velocity), layer in zip(states(trainer), step.layers, strict=True):
            place = tuple(slice(size) for size in master.shape)
            np.testing.assert_array_equal(master, layer.weights.master[place])
            np.testing.assert_array_equal(velocity, layer.weights.velocity[place])
        skipped += len(images) - kept
    assert (skipped > 0) == (skip is not None)


@pytest.mark.parametrize("degrees", [0.0, 3.0, 6.0, 12.0, 24.0])
def test_automatic_lanes_are_those_that_this_batch_allows(data, degrees):
    device = Recorder()
    settings = replace(SETTINGS, lanes=None, skip=None, angles=(degrees, degrees))
    trainer = Trainer(device, data, settings)
    banks = lfsr_banks(CONFIG, settings.seed)
    images, labels = data.train_images[:16], data.train_labels[:16]
    weights = [padded(CONFIG, state) for state in states(trainer)]
    exponent, errors = trainer.logit_exponent, Lfsr(Bank.ERROR, 1, settings.seed)
    forward_shifts = [d.out_shift for d in device.ran(Opcode.FORWARD)[-2:]]
    trainer._step(images, labels, 0, first=True)
    updates = [d for d in device.ran(Opcode.BACKWARD) if d.drain == 0]

    # A step at eight bits has the same D in every layer: what to measure on.
    layers = [Layer(out_shift=shift, input_gradient_shift=update.out_shift,
                    rule=Rule(gradient_shift=update.gradient_shift))
              for shift, update in zip(forward_shifts, updates[::-1], strict=True)]
    step = train_step(
        CONFIG, layers, weights, images, labels, classes=CLASSES, threshold=NEVER,
        exponent=exponent, banks=banks, x_unsigned=True,
        error_random=error_draw(errors, len(images)))
    expected = []
    for layer, update in zip(step.layers[::-1], updates, strict=True):
        expected.append(measure(CONFIG, layer.x, layer.d, banks, degrees))
        if update.lanes_log2:
            banks[Bank.PACK].draw(len(images) * update.k_tiles)
    assert trainer.bits == expected[::-1]
    assert [8 >> d.lanes_log2 for d in updates] == expected
    if degrees in (0, 24):                                # the ends: all widths and no width
        assert set(expected) == {8 if degrees == 0 else 2}


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("hidden", [(), (7,)], ids=str)
def test_updates_are_gradient_steps_of_real_numbers(data, hidden, momentum):
    device = Recorder()
    settings = replace(SETTINGS, hidden=hidden, skip=None, momentum=momentum, rate_log2=0)
    trainer = Trainer(device, data, settings)
    images, labels = data.train_images[:16], data.train_labels[:16]
    # Scales settle before the step that is looked at.
    trainer._step(images, labels, 0, first=False)
    for layer in trainer.network.layers:
        zeros = np.zeros(layer.w_rows * CONFIG.columns, np.uint32)
        device.write(Region.STATE, layer.w_base, zeros)
    before = [master for master, _ in states(trainer)]
    trainer._step(images, labels, 0, first=False)
    after = [master for master, _ in states(trainer)]

    weights = [(master >> CONFIG.residue_bits) * WEIGHT_UNIT for master in before]
    inputs = [images * 2.0**data.exponent]
    for weight in weights[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weight, 0))
    logits = inputs[-1] @ weights[-1]
    gap = np.exp(logits - logits.max(axis=1, keepdims=True))
    gap /= gap.sum(axis=1, keepdims=True)
    gap[np.arange(len(labels)), labels] -= 1
    rate = 2.0**settings.rate_log2 / settings.batch / (8 if momentum else 1)
    for index in reversed(range(len(weights))):
        wanted = -rate * inputs[index].T @ gap
        found = (after[index] - before[index]) * MASTER_UNIT
        cosine = (wanted * found).sum() / np.linalg.norm(wanted) / np.linalg.norm(found)
        assert cosine > 0.98
        assert 0.9 < np.linalg.norm(found) / np.linalg.norm(wanted) < 1.1
        gap = gap @ weights[index].T * (inputs[index] > 0)


def test_logits_are_in_the_units_that_the_trainer_says(data):
    trainer = Trainer(Recorder(), data, SETTINGS)
    images = data.train_images[:16]
    found = trainer._forward(images) * 2.0**trainer.logit_exponent
    value = images * 2.0**data.exponent
    masters = [master for master, _ in states(trainer)]
    for index, master in enumerate(masters):
        value = value @ ((master >> CONFIG.residue_bits) * WEIGHT_UNIT)
        value = value if index == len(masters) - 1 else np.maximum(value, 0)
    np.testing.assert_allclose(found, value, atol=4 * 2.0**trainer.logit_exponent)


def test_scales_are_where_better_shift_leaves_them(data):
    device = Recorder()
    trainer = Trainer(device, data, replace(SETTINGS, hidden=(9,)))
    images = data.train_images[:SETTINGS.batch]
    trainer._forward(images)
    first, last = trainer.network.layers
    used = [d.out_shift for d in device.ran(Opcode.FORWARD)[-2:]]
    hidden = trainer._read_outputs(first, len(images))
    assert better_shift(used[0], hidden, 8, signed=False) == used[0]
    assert hidden.max() > 127                              # eight bits are made use of
    logits = trainer._read_outputs(last, len(images))
    assert better_shift(used[1], logits, 8) <= used[1]
    assert trainer.logit_exponent >= -4

    trainer._step(images, data.train_labels[:SETTINGS.batch], 0, first=False)
    before = device.ran(Opcode.BACKWARD)[-2].out_shift
    dx = layout.words_matrix(
        CONFIG, Region.GRADIENT,
        device.read(Region.GRADIENT, last.dx_base, SETTINGS.batch * layout.blocks_of(
            last.inputs, CONFIG.rows, CONFIG.lane_count)), SETTINGS.batch, last.inputs)
    expected = better_shift(before, dx[:device.register(Register.KEPT)], 8)
    device.programs.clear()
    trainer._step(images, data.train_labels[:SETTINGS.batch], 0, first=False)
    assert device.ran(Opcode.BACKWARD)[0].out_shift == expected


@pytest.mark.parametrize("skip", [None, 0.9])
def test_loss_falls_and_accuracy_rises(data, skip):
    settings = replace(SETTINGS, hidden=(12,), epochs=8, skip=skip, lanes=None,
                       rate_log2=1)
    told = []
    epochs = Trainer(Recorder(), data, settings).train(told.append)
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < epochs[0].loss / 2
    assert epochs[-1].test_accuracy >= 11 / 12
    assert told == sorted(told)
    assert told[-1] == 1
    last = epochs[-1].counters
    assert last["skipped_samples"] + last["kept_samples"] == len(data.train_images)
    assert epochs[-1].skipped == last["skipped_samples"] / len(data.train_images)
    assert (epochs[-1].skipped > 0) == (skip is not None)
    products = FEATURES * 12 + 12 * CLASSES
    assert epochs[0].useful_macs["forward"] == len(data.train_images) * products
    backward = epochs[0].counters["kept_samples"] * (products + 12 * CLASSES)
    assert epochs[0].useful_macs["backward"] == backward


@pytest.mark.parametrize("lanes", [8, 2, None])
def test_both_schedules_learn_the_same_weights(data, lanes):
    found = []
    for schedule in (Schedule.INTERLEAVED, Schedule.SEQUENTIAL):
        settings = replace(SETTINGS, lanes=lanes, schedule=schedule)
        trainer = Trainer(Recorder(), data, settings)
        epochs = trainer.train()
        found.append((states(trainer), epochs))
    (ours, interleaved), (theirs, sequential) = found
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right)
    assert [epoch.loss for epoch in interleaved] == [epoch.loss for epoch in sequential]
    assert (interleaved[0].counters["backward_cycles"]
            <= sequential[0].counters["backward_cycles"])
    assert interleaved[0].counters["d_reads"] < sequential[0].counters["d_reads"]


def test_one_seed_gives_one_run(data):
    runs = [Trainer(Recorder(), data, replace(SETTINGS, seed=seed)).train()
            for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_batch_that_teaches_nothing_changes_nothing(data):
    trainer = Trainer(Recorder(), data, replace(SETTINGS, skip=0.51, epochs=40))
    trainer.train()
    before = states(trainer)
    trainer.device.programs.clear()
    # Labelled as the network itself labels them, and only those that it is sure of.
    logits = trainer._forward(data.train_images[:16])
    ordered = np.sort(logits, axis=1)
    threshold = threshold_from_probability(0.51, trainer.logit_exponent)
    sure = np.flatnonzero(ordered[:, -1] - ordered[:, -2] >= threshold)
    assert len(sure) > 1
    _, kept = trainer._step(data.train_images[sure], logits[sure].argmax(axis=1), 0, first=True)
    assert kept == 0
    assert not trainer.device.ran(Opcode.BACKWARD)
    for left, right in zip(before, states(trainer), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("changes", "config", "words"), [
    ({"epochs": 0}, {}, "epochs must be at least 1, not 0"),
    ({"lanes": 3}, {}, "lanes must be auto, 2, 4 or 8, not 3"),
    ({"lanes": 4}, {"lanes": False}, "lanes 4 need a machine that packs them: use --set lanes"),
    ({}, {"operand_bits": 4, "lanes": False, "master_bits": 12},
     "training takes 8-bit operands, the machine has 4: use --set operand_bits=8"),
    ({"skip": 0.4}, {}, "a skip probability lies between 0.5 and 1, not 0.4"),
    ({"batch": 33}, {}, "batch 33 must be from 1 to the machine's steps_depth 32"),
])
def test_bad_settings_are_named(data, changes, config, words):
    with pytest.raises(ValueError, match=words):
        Trainer(Device(CONFIG.with_changes(**config), "golden"), data, replace(SETTINGS, **changes))
