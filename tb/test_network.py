"""Networks fit their buffers without overlap, and their descriptors are ones a machine takes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gradloom_golden.config import PRESETS
from gradloom_golden.lanes import quantize
from gradloom_golden.lfsr import Bank, low_half
from gradloom_golden.optimizer import Rule
from gradloom_golden.precision import angle_within, bound_from_degrees, dot_products
from gradloom_golden.program import Drain, Error, Opcode, Region, Register, Schedule
from gradloom_golden.program_check import check
from gradloom_golden.training import lfsr_banks
from gradloom_host import layout
from gradloom_host.device import Device
from gradloom_host.network import Network, ScratchTooSmall

TINY = PRESETS["tiny"]
ROOMY = TINY.with_changes(activation_depth=2048, gradient_depth=2048, weight_depth=2048)
CONFIGS = (ROOMY, ROOMY.with_changes(rows=8), ROOMY.with_changes(columns=16),
           ROOMY.with_changes(rows=16), ROOMY.with_changes(lanes=False))
RULE = Rule(gradient_shift=5, momentum=True, decay_shift=3, rate_shift=2)

configs = st.sampled_from(CONFIGS)
networks = st.lists(st.integers(1, 40), min_size=2, max_size=4)
batches = st.integers(1, 32)


def disjoint(extents):
    """Return whether stretches of (first, size) share no word."""
    ends = sorted((first, first + size) for first, size in extents)
    return all(left[1] <= right[0] for left, right in pairwise(ends))


def words(config, features, edge, steps):
    return layout.blocks_of(features, edge, config.lane_count) * steps


@given(configs, networks, batches, st.sampled_from([64, 128, 256, 512]))
def test_tensors_share_no_word(config, sizes, batch, depth):
    try:
        network = Network(config.with_changes(activation_depth=depth), sizes, batch)
    except ValueError:
        network = Network(config, sizes, batch)
    config = network.config
    layers = network.layers
    assert [(layer.inputs, layer.outputs) for layer in layers] == list(pairwise(sizes))
    rows, columns = config.rows, config.columns
    # A tensor between layers is read in blocks of rows and written in blocks of columns.
    activations = [(layers[0].x_base, words(config, sizes[0], rows, batch))]
    gradients = []
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        spans = [words(config, layer.outputs, columns, batch)]
        if after:
            assert after.x_base == layer.y_base
            assert after.dx_base == layer.d_base
            spans.append(words(config, layer.outputs, rows, batch))
        activations.append((layer.y_base, max(spans)))
        gradients.append((layer.d_base, max(spans)))
    packed = max((words(config, layer.inputs, rows, -(-batch // 2))
                  for layer in layers if layer.n_tiles > 1), default=0)
    activations.append((network.packed_base, packed if config.lanes else 0))
    assert disjoint(activations)
    assert disjoint(gradients)
    assert disjoint([(layer.w_base, layer.w_rows) for layer in layers]
                    + [(network.scratch_base, 1)])
    for extents, words_there in ((activations, config.activation_depth),
                           (gradients, config.gradient_depth)):
        assert all(first + size <= words_there for first, size in extents)


@given(configs, networks, batches, st.data())
def test_every_descriptor_is_accepted(config, sizes, batch, data):
    assume(sizes[-1] > 1)
    network = Network(config, sizes, batch)
    kept = data.draw(st.integers(1, batch))
    program = [network.confidence(batch, 3)]
    for layer in network.layers:
        program.append(network.forward(layer, batch, shift=4, x_unsigned=True))
        for bits in (8, 4, 2) if config.lanes else (8,):
            for schedule in Schedule:
                program.append(network.backward(
                    layer, kept, batch, shift=4, x_unsigned=True, bits=bits, rule=RULE,
                    schedule=schedule))
        if config.lanes:
            program += network.angles(layer, kept, batch, x_unsigned=True, bound=9)
    assert {check(config, descriptor.encode()) for descriptor in program} == {Error.NONE}


def test_descriptors_say_what_their_layer_needs():
    network = Network(ROOMY, (9, 6, 3), 8)
    first, last = network.layers
    hidden = network.forward(first, 8, shift=5, x_unsigned=True)
    logits = network.forward(last, 8, shift=6, x_unsigned=True)
    assert (hidden.relu, hidden.y_unsigned, hidden.out_shift) == (1, 1, 5)
    assert (logits.relu, logits.y_unsigned, logits.out_shift) == (0, 0, 6)
    one, two = (
        network.backward(layer, 5, 8, shift=7, x_unsigned=True, bits=2, rule=RULE,
                         schedule=Schedule.SEQUENTIAL) for layer in network.layers)
    assert (one.schedule, one.mask) == (Schedule.WEIGHT_GRADIENT, 0)
    assert (two.schedule, two.mask) == (Schedule.SEQUENTIAL, 1)
    for descriptor in (one, two):
        assert (descriptor.steps, descriptor.x_stride, descriptor.gather) == (5, 8, 1)
        assert (descriptor.lanes_log2, descriptor.x_shift) == (2, 6)
        assert (descriptor.gradient_shift, descriptor.rate_shift) == (5, 2)
        assert (descriptor.momentum, descriptor.decay_shift) == (1, 3)
    asked = network.confidence(8, 40)
    assert (asked.classes, asked.x_base, asked.threshold) == (3, last.y_base, 40)


@pytest.mark.parametrize(("sizes", "name"), [
    ((200, 4), "activation_depth"), ((4, 20, 20, 4), "gradient_depth"), ((32, 32), "weight_depth"),
])
def test_what_is_too_small_is_named_with_a_size_that_suffices(sizes, name):
    config = ROOMY.with_changes(**{name: 128})
    with pytest.raises(ValueError, match=rf"{name} \d+, the machine has 128: use --set") as caught:
        Network(config, sizes, 32)
    assert f"the network {'-'.join(map(str, sizes))} with batch 32 needs" in str(caught.value)
    remedy = int(str(caught.value).partition(f"--set {name}=")[2].split()[0])
    Network(config.with_changes(**{name: remedy}), sizes, 32)
    with pytest.raises(ValueError, match=name):
        Network(config.with_changes(**{name: remedy // 2}), sizes, 32)


@pytest.mark.parametrize(("sizes", "batch", "words"), [
    ((4,), 4, r"a network needs an input and an output size, not \(4,\)"),
    ((4, 0, 3), 4, r"not \(4, 0, 3\)"),
    ((4, 3), 0, "batch 0 must be from 1 to the machine's steps_depth 32: use --set"),
    ((4, 3), 33, "batch 33 must be from 1 to the machine's steps_depth 32: use --set"),
])
def test_impossible_networks_are_named(sizes, batch, words):
    with pytest.raises(ValueError, match=words):
        Network(ROOMY, sizes, batch)


# Measuring angles.


@given(configs, st.integers(1, 60), st.integers(1, 20), st.sampled_from([64, 128, 256]))
@example(ROOMY.with_changes(columns=16), 56, 16, 128)
def test_angle_chunks_cover_each_row_tile_once(config, inputs, outputs, depth):
    assume(config.lanes)
    config = config.with_changes(weight_depth=depth)
    try:
        network = Network(config, (inputs, outputs), 8)
        program = network.angles(network.layers[0], 5, 8, x_unsigned=True, bound=9)
    except ValueError:
        assume(False)
        raise
    layer = network.layers[0]
    row_tile = layer.n_tiles * config.rows
    parts = config.lane_count // config.rows
    for bits in (4, 2):
        lanes_log2 = {4: 1, 2: 2}[bits]
        tested = [d for d in program if d.opcode == Opcode.BACKWARD and d.lanes_log2 == lanes_log2]
        angles = [d for d in program if d.opcode == Opcode.ANGLE and d.tested_bits == bits]
        covered = 0
        for gradient, angle in zip(tested, angles, strict=True):
            assert (gradient.drain, gradient.schedule) == (Drain.STORE, Schedule.WEIGHT_GRADIENT)
            assert covered % parts == 0
            assert gradient.x_base == layer.x_base + covered // parts * 8
            assert gradient.w_base == layer.w_base + covered * row_tile
            assert angle.rows == gradient.k_tiles * row_tile
            assert angle.packed_base == gradient.state_base
            assert angle.state_base >= network.scratch_base
            assert angle.packed_base >= angle.state_base + angle.rows
            assert angle.packed_base + angle.rows <= config.weight_depth
            assert angle.first == (covered == 0)
            covered += gradient.k_tiles
            assert angle.last == (covered == layer.k_tiles)
        assert covered == layer.k_tiles
    full = [d for d in program if d.opcode == Opcode.BACKWARD and d.lanes_log2 == 0]
    assert sum(d.k_tiles for d in full) == 2 * layer.k_tiles


@pytest.mark.parametrize("depth", [128, 256, 2048])
@pytest.mark.parametrize("shape", ["square", "wide"])
def test_the_picked_width_does_not_depend_on_chunks(rng, shape, depth):
    config = ROOMY.with_changes(weight_depth=depth)
    config = config.with_changes(columns=8) if shape == "wide" else config
    steps = 8
    x, d = rng.integers(0, 256, (steps, 48)), rng.integers(-128, 128, (steps, 5))
    device = Device(config, "golden")
    network = Network(config, (48, 5), steps)
    layer = network.layers[0]
    device.write(Region.ACTIVATION, layer.x_base, layout.matrix_words(
        config, Region.ACTIVATION, x, config.rows))
    device.write(Region.GRADIENT, layer.d_base, layout.matrix_words(
        config, Region.GRADIENT, d, config.columns))
    device.write(Region.KEEP, 0, np.arange(steps))
    exact, banks = x.T @ d, lfsr_banks(config, 0)
    for degrees in (1, 4, 8, 16, 40):
        bound, picked = bound_from_degrees(degrees), 8
        device.run(network.angles(layer, steps, steps, x_unsigned=True, bound=bound))
        for bits in (4, 2):
            random = np.concatenate([low_half(banks[Bank.PACK].draw(steps))
                                     for _ in range(layer.k_tiles)], axis=1)
            cut = quantize(x, bits, 8 - bits, unsigned=True, random=random) << 8 - bits
            if angle_within(*dot_products(exact, cut.T @ d), bound):
                picked = bits
        assert device.register(Register.BITS) == picked


def test_too_little_scratch_is_named():
    config = TINY.with_changes(activation_depth=1024, gradient_depth=1024)
    network = Network(config, (28, 16), 4)
    with pytest.raises(ScratchTooSmall, match="needs 32 free tile rows, 16 are left: use --set "
                                              "weight_depth=256 or fixed --lanes"):
        network.angles(network.layers[0], 4, 4, x_unsigned=True, bound=9)
