"""Every pass of the cost model against a walk over tiles, slots, rows and elements.

`model_reference` walks; layers are small and random, and so is every option.
"""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import model_reference as reference
from gradloom_golden.config import preset
from gradloom_golden.cycles import counts as golden_counts
from gradloom_golden.program import Descriptor, Opcode
from gradloom_golden.program import Schedule as GoldenSchedule
from gradloom_model import passes
from gradloom_model.assumptions import CHOICES, Assumptions
from gradloom_model.counts import COUNTS
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.timing import pass_cycles
from gradloom_model.work import Products
from model_strategies import ASSUMPTIONS, FOLDS, layers

EXAMPLES = 100


def modelled(work, counts):
    """Return what the model says of a layer, by name."""
    return {name: int(np.sum(work.by_layer(counts[name]))) if name in counts else 0
            for name in COUNTS if name not in ("products", "macs")}


def held(work, counts, units, walk, *args, **options):
    """Hold a pass to its walk."""
    found = reference.reference(units, walk, *args, **options)
    expected = {name: found[name] for name in COUNTS if name not in ("products", "macs")}
    assert modelled(work, counts) == expected


def still_and_moving(layer, a):
    """Return both products of the model and their references."""
    products = Products(geometry(Network("one", [layer])), a)
    batch = np.asarray(a.batch)
    return (products, (products.still(batch), [reference.still(layer, a, a.batch)]),
            (products.moving(batch), reference.moving(layer, a, a.batch)))


CASES = (layers(), ASSUMPTIONS, st.sampled_from(FOLDS))


@settings(max_examples=EXAMPLES)
@given(*CASES)
def test_forward_with_weights_at_rest(layer, a, folds):
    products, (work, units), _ = still_and_moving(layer, a)
    counts = passes.ws_forward(work, a, folds, patches=products.patches)
    held(work, counts, units, reference.ws_forward, folds)


@settings(max_examples=EXAMPLES)
@given(*CASES)
def test_forward_with_outputs_at_rest(layer, a, folds):
    _, (work, units), _ = still_and_moving(layer, a)
    held(work, passes.os_forward(work, a, folds), units, reference.os_forward, folds)


@settings(max_examples=EXAMPLES)
@given(*CASES)
def test_input_gradient_with_weights_at_rest(layer, a, folds):
    _, _, (work, units) = still_and_moving(layer, a)
    assume(units)
    held(work, passes.ws_input_gradient(work, a, folds), units, reference.backward,
         folds, kind="dx")


@settings(max_examples=EXAMPLES)
@given(*CASES)
def test_input_gradient_at_rest(layer, a, folds):
    _, _, (work, units) = still_and_moving(layer, a)
    assume(units)
    held(work, passes.os_input_gradient(work, a, folds), units,
         reference.os_input_gradient, folds)


@settings(max_examples=EXAMPLES)
@given(*CASES, st.sampled_from(["x", "d"]))
def test_weight_gradient_with_an_operand_at_rest(layer, a, folds, holds):
    _, (work, units), _ = still_and_moving(layer, a)
    held(work, passes.ws_weight_gradient(work, a, folds, holds=holds), units,
         reference.ws_weight_gradient, folds, holds=holds)


@settings(max_examples=EXAMPLES)
@given(*CASES, st.fixed_dictionaries({
    "lanes": st.sampled_from([1, 2, 4]), "loads": st.booleans(), "fused": st.booleans(),
    "limited": st.booleans()}))
def test_weight_gradient_at_rest(layer, a, folds, options):
    products, (work, units), _ = still_and_moving(layer, a)
    counts = passes.os_weight_gradient(work, a, folds, patches=products.patches, **options)
    held(work, counts, units, reference.os_weight_gradient, folds, **options)


@settings(max_examples=EXAMPLES)
@given(*CASES, st.sampled_from(["tile", "interleaved"]), st.sampled_from([1, 2, 4]), st.booleans())
def test_both_gradients(layer, a, folds, kind, lanes, fused):
    _, _, (work, units) = still_and_moving(layer, a)
    assume(units)
    counts = passes.both_gradients(work, a, folds, interleaved=kind == "interleaved", lanes=lanes,
                                   fused=fused)
    held(work, counts, units, reference.backward, folds, kind=kind, lanes=lanes,
         fused=fused)


@settings(max_examples=EXAMPLES)
@given(*CASES)
def test_update(layer, a, folds):
    _, (work, units), _ = still_and_moving(layer, a)
    held(work, passes.update(work, a), units, reference.update)


@given(st.sampled_from(FOLDS), st.tuples(*[st.integers(1, 9)] * 4), st.tuples(*[st.booleans()] * 3))
def test_cycles_are_those_of_the_events(folds, sizes, switches):
    rows, columns, tiles, slots = sizes
    loads, drains, os_drain = switches
    assume(loads or drains)
    options = {"loads": loads, "drains": drains, "os_drain": os_drain}
    assert pass_cycles(folds, rows, columns, tiles, slots, **options) == reference.walk(
        folds, rows, columns, [slots] * tiles, **options)


def test_golden_counts_of_input_gradients_are_the_models():
    config = preset("tiny").with_changes(rows=4, columns=8)
    for overlap, k_tiles, n_tiles, steps, mask in product(
            (False, True), (1, 2), (1, 3), (1, 5, 16), (0, 1)):
        machine = config.with_changes(overlap=overlap)
        d = Descriptor(opcode=Opcode.BACKWARD, schedule=GoldenSchedule.INPUT_GRADIENT, steps=steps,
                       x_stride=steps, k_tiles=k_tiles, n_tiles=n_tiles, mask=mask)
        layer = Layer(name="fc", kind="linear", inputs=4 * k_tiles, outputs=8 * n_tiles,
                      size=(steps, 1))
        a = Assumptions.of(machine, batch=1, lookup=0, masks=bool(mask))
        work = Products(geometry(Network("one", [layer])), a).moving(np.asarray(1))
        found = modelled(work, passes.ws_input_gradient(work, a, a.folds))
        expected = golden_counts(machine, d)
        assert found["cycles"] == expected["backward_cycles"]
        assert found["slots"] == expected["slots"]
        for name, width, theirs in (
                ("d_reads", 8, "d_reads"), ("w_reads", 8, "weight_reads"),
                ("dx_writes", 4, "dx_writes"), ("mask_reads", 4, "mask_reads"),
                ("sum_reads", 4, "sum_reads"), ("sum_writes", 4, "sum_writes")):
            assert found[name] == width * expected[theirs], name


@pytest.mark.parametrize("padding", CHOICES["padding"])
def test_nothing_streams_without_samples(padding):
    layer = Layer(name="conv", outputs=3, inputs=2, kernel=(3, 3), size=(4, 4))
    a = Assumptions(padding=padding, folds="chained", taps="always")
    products = Products(geometry(Network("one", [layer])), a)
    none, patches = np.asarray(0), products.patches
    work, moved = products.still(none), products.moving(none)
    for counts in (
            passes.ws_forward(work, a, a.folds, patches=patches),
            passes.os_forward(work, a, a.folds),
            passes.ws_input_gradient(moved, a, a.folds),
            passes.os_input_gradient(moved, a, a.folds),
            *(passes.ws_weight_gradient(work, a, a.folds, holds=holds) for holds in ("x", "d")),
            passes.os_weight_gradient(work, a, a.folds, loads=True, limited=True, patches=patches),
            passes.both_gradients(moved, a, a.folds, interleaved=True, lanes=4)):
        assert all(np.all(value == 0) for value in counts.values()), counts


def test_each_port_takes_the_word_of_its_own_operand():
    # A word of X or D at rest's other side takes 4 or 16 bytes, one of sums a byte.
    a = Assumptions(rows=4, columns=1, batch=9, gradient_bits=32, sum_bits=8, lookup=0)
    layer = Layer(name="fc", kind="linear", outputs=3, inputs=5)
    work = Products(geometry(Network("one", [layer])), a).still(np.asarray(9))
    for holds, stretch in (("d", 1), ("x", 4)):
        narrow = passes.ws_weight_gradient(work, a.with_changes(port=4), "serial", holds=holds)
        wide = passes.ws_weight_gradient(work, a, "serial", holds=holds)
        assert narrow["cycles"] - wide["cycles"] == (stretch - 1) * wide["slots"]


def test_a_first_product_of_activations_reads_no_patches():
    layer = Layer(name="scores", kind="matmul", outputs=2, inputs=2, input_gradient=False)
    for taps, reads in (("first", False), ("never", False), ("always", True)):
        found = Products(geometry(Network("one", [layer])), Assumptions(taps=taps))
        assert found.patches.tolist() == [reads]


@pytest.mark.parametrize("folds", FOLDS)
def test_a_kernel_that_never_meets_the_image_takes_no_tile(folds):
    layer = Layer(name="conv", outputs=1, inputs=1, stride=(3, 3), padding=(1, 1, 2, 2))
    a = Assumptions(batch=2, lookup=0)
    work = Products(geometry(Network("one", [layer])), a).moving(np.asarray(2))
    found = passes.ws_input_gradient(work, a, folds)
    assert {name: int(found[name].sum()) for name in ("cycles", "slots", "macs")} == {
        "cycles": 0, "slots": 0, "macs": 0}
