"""What must be true of any network on any machine: products, skipping, the best, sweeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import model_reference as reference
from gradloom_model.assumptions import CHOICES, Assumptions
from gradloom_model.counts import total
from gradloom_model.estimate import BEST, estimate, step_cost
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.memory import traffic
from gradloom_model.schedules import SCHEDULES, cost
from gradloom_model.sweep import Point, sweep
from gradloom_model.work import Products
from model_strategies import ASSUMPTIONS, FOLDS, layers

MANY = st.lists(layers(), min_size=1, max_size=4).map(lambda found: Network("some", found))
WHOLE = st.builds(
    Assumptions.with_changes, ASSUMPTIONS, folds=st.sampled_from(FOLDS),
    skip=st.floats(0, 1), lanes=st.sampled_from([1, 2, 4]), batch=st.integers(1, 9),
    stationary=st.sampled_from(CHOICES["stationary"]), update=st.booleans(),
    bandwidth=st.sampled_from([None, 0.5, 2, 16]), activation_kb=st.sampled_from([0.01, 0.05, 256]),
    gradient_kb=st.sampled_from([0.01, 0.05, 256]), weight_kb=st.sampled_from([0.01, 0.05, 256]))


def existing(layer):
    """Return the products of a sample whose operands exist, one at a time."""
    there = reference.still(layer, Assumptions(), 1).there
    return sum(1 for _ in there) * layer.outputs * (layer.inputs // layer.groups) * layer.copies


@settings(max_examples=40)
@given(MANY, WHOLE)
def test_both_gradients_multiply_twice_what_forward_does(network, a):
    a = a.with_changes(skip=0)
    for name, schedule in SCHEDULES.items():
        found = cost(Products(geometry(network), a), schedule)
        for index, layer in enumerate(network.layers):
            total = sum(int(np.broadcast_to(counts["macs"], len(network.layers))[index])
                        for counts in found.values() if "macs" in counts)
            assert total == (3 if layer.input_gradient else 2) * a.batch * existing(layer), name


@given(MANY, WHOLE, st.booleans())
def test_products_are_macs_over_lanes_at_least(network, a, skips):
    schedule = replace(SCHEDULES["lanes"], skips=skips)
    counts = total(cost(Products(geometry(network), a.with_changes(skip=0)), schedule).values())
    forward = np.array([a.batch * existing(layer) for layer in network.layers])
    others = np.array([layer.input_gradient for layer in network.layers]) * forward
    assert np.all(counts["products"] >= forward + others + forward // a.lanes)
    assert np.all(counts["products"] <= counts["macs"])


@settings(max_examples=40)
@given(MANY, WHOLE)
def test_cells_multiply_no_more_than_there_are_cycles(network, a):
    for name, one in estimate(network, a).steps.items():
        room = one.compute_cycles * a.rows * a.columns
        assert np.all(one.counts["products"] <= room + 1e-6), name


@settings(max_examples=40)
@given(MANY, WHOLE)
def test_skipping_nothing_is_not_skipping(network, a):
    a = a.with_changes(skip=0)
    products = Products(geometry(network), a)
    for name in ("ws", "os", "fused"):
        schedule = SCHEDULES[name]
        same = cost(products, replace(schedule, skips=True))
        for one, counts in cost(products, schedule).items():
            assert {key: value.tolist() for key, value in counts.items()} == {
                key: value.tolist() for key, value in same[one].items()}


@settings(max_examples=60)
@given(MANY, WHOLE, st.sampled_from(["ws", "os", "skip", "lanes"]), st.integers(0, 8),
       st.floats(0.05, 0.95))
def test_skipping_lies_between_whole_samples(network, a, name, fewer, share):
    assume(fewer < a.batch)
    schedule = replace(SCHEDULES[name], skips=True)

    def kept(samples):
        """Return the costs where so many samples are kept."""
        skip = min(max(1 - samples / a.batch, 0), 1)
        found = cost(Products(geometry(network), a.with_changes(skip=skip)), schedule)
        del found["forward"]
        return total(found.values())

    below, between, above = kept(fewer), kept(fewer + share), kept(fewer + 1)
    # More rows may be too many for one pass, whose update is fused, and other counts may fall.
    assert np.all(below["cycles"] <= above["cycles"])
    assert np.all(below["macs"] <= above["macs"])
    for key, low in below.items():
        assert between[key] == pytest.approx(low + share * (above[key] - low)), key


@settings(max_examples=40)
@given(MANY, WHOLE)
def test_best_takes_no_longer_than_what_it_chooses_from(network, a):
    products = Products(geometry(network), a)
    best = step_cost(BEST, products)
    split = {True: [], False: []}
    for schedule in SCHEDULES.values():
        if schedule.folds == "exposed":
            continue                                       # "hidden" is there for these
        fused = schedule.backward in ("tile", "interleaved")
        most = replace(schedule, skips=True, fused=fused)
        costs, moved = cost(products, most), traffic(products.shape, a, most)
        alone = {one: counts["cycles"] + moved[one].stalls(counts["cycles"], a.bandwidth)
                 for one, counts in costs.items()}
        split[True].append(alone["forward"])
        # An update moves beside the gradients that it is for.
        late = [one for one in costs if one in ("both gradients", "weight gradient", "update")]
        bound = 0 if a.bandwidth is None else sum(moved[one].total for one in late) / a.bandwidth
        split[False].append(alone.get("input gradient", 0) + np.maximum(
            sum(costs[one]["cycles"] for one in late), bound))
    for forward, times in split.items():
        found = np.sum([counts["cycles"] + best.stalls[one] for one, counts in best.passes.items()
                        if (one == "forward") == forward], axis=0)
        assert np.all(found <= np.min(times, axis=0) + 1e-6)
        assert all(np.isclose(found[i], [time[i] for time in times]).any()
                   for i in range(len(found)))


def test_best_without_updates_moves_the_gradients_that_are_kept():
    layer = Layer(name="fc", kind="linear", outputs=1000, inputs=1000)
    a = Assumptions(update=False, skip=0, batch=4)
    steps = estimate(Network("one", [layer]), a).steps
    assert all("cycles" in counts for counts in steps[BEST].passes.values())
    assert "update" not in steps[BEST].passes
    for name in ("fused", BEST):
        assert steps[name].traffic["both gradients"].bytes["dw"].tolist() == [4_000_000]
    for step in steps.values():
        assert step.traffic.keys() == step.passes.keys()
        assert step.dram_bytes.shape == step.cycles.shape == (1,)


def test_updates_move_while_gradients_compute():
    network = Network("one", [Layer(name="fc", kind="linear", outputs=4096, inputs=4096)])
    a = Assumptions(batch=256, steps=None, skip=0, bandwidth=8)
    steps = estimate(network, a).steps
    for name in ("interleaved", "fused", "ws"):
        step = steps[name]
        late = [one for one in step.passes if one in (
            "both gradients", "weight gradient", "update")]
        cycles = sum(step.passes[one]["cycles"][0] for one in late)
        moved = sum(step.traffic[one].total[0] for one in late)
        assert sum(step.stalls[one][0] for one in late) == max(0, moved / 8 - cycles)
    assert steps["fused"].cycles[0] <= steps["interleaved"].cycles[0]


@given(layers())
def test_phases_share_out_the_image(layer):
    found = geometry(Network("one", [layer]))
    phases = reference.moving(layer, Assumptions(taps="never"), 1)
    assume(phases)
    assert sorted(zip(found.phase_pixels.tolist(), found.phase_taps.tolist())) == sorted(
        (len(unit.rows), len(unit.taps)) for unit in phases)
    rows = [row for unit in phases for row in unit.rows]
    assert len(set(rows)) == len(rows)
    assert {row[1:] for row in rows} >= {x for x, _ in phases[0].there}
    assert int(found.meetings[0]) == len(phases[0].there)


@settings(max_examples=25)
@given(st.lists(MANY, min_size=1, max_size=2), st.lists(WHOLE, min_size=1, max_size=3),
       st.sampled_from([*SCHEDULES, BEST]))
def test_a_sweep_is_its_points_one_by_one(networks, machines, schedule):
    # Some share their words and switches, and so a stack.
    machines += [one.with_changes(rows=3, skip=0.3, steps=7) for one in machines]
    machines += [one.with_changes(bandwidth=None if one.bandwidth else 3) for one in machines]
    points = [Point(network=network, assumptions=machine, schedule=schedule)
              for network in networks for machine in machines]
    for point, found in zip(points, sweep(points), strict=True):
        one = estimate(point.network, point.assumptions, [schedule]).steps[schedule]
        assert found.point == point
        for name in ("cycles", "stall_cycles", "accesses", "dram_bytes"):
            assert getattr(found, name) == pytest.approx(float(np.sum(getattr(one, name)))), name
        assert found.macs == pytest.approx(float(np.sum(one.counts["macs"])))
        assert found.utilization <= 1 or schedule in ("lanes", BEST)
