"""Every schedule against walks of its passes: which run, on what rows, and what is fused."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import model_reference as reference
from gradloom_model.assumptions import CHOICES, Assumptions
from gradloom_model.counts import COUNTS
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.schedules import SCHEDULES, cost
from gradloom_model.work import Products
from model_strategies import ASSUMPTIONS, FOLDS, layers

FORWARD = {"ws": reference.ws_forward, "os": reference.os_forward}


def walked(layer, a, schedule):
    """Return the counts of each pass, from walks."""
    folds = schedule.folds or a.folds
    if folds == "exposed":
        folds = "serial" if a.folds == "serial" else "chained"
    kept = a.batch - round(a.skip * a.batch) if schedule.skips else a.batch
    lanes = a.lanes if schedule.lanes else 1

    def still(count, samples=kept, **options):
        return reference.reference([reference.still(layer, a, samples)], count, folds, **options)

    def moving(count, **options):
        return reference.reference(reference.moving(layer, a, kept), count, folds, **options)

    found = {"forward": still(FORWARD[schedule.forward], a.batch)}
    whole = False
    if schedule.backward in ("tile", "interleaved"):
        units = reference.moving(layer, a, kept) if layer.input_gradient else [
            reference.still(layer, a, kept)]
        whole = schedule.fused and layer.kind != "matmul" and all(
            len(unit.chunks(a.steps)) <= 1 for unit in units)
        if layer.input_gradient:
            found["both gradients"] = moving(
                reference.backward, kind=schedule.backward, lanes=lanes, fused=whole)
        else:
            found["weight gradient"] = still(reference.os_weight_gradient, lanes=lanes, loads=True,
                                             fused=whole, limited=True)
    else:
        if layer.input_gradient and schedule.backward == "os":
            found["input gradient"] = moving(reference.os_input_gradient)
        elif layer.input_gradient:
            found["input gradient"] = moving(reference.backward, kind="dx")
        if schedule.backward == "ws":
            held = {holds: still(reference.ws_weight_gradient, holds=holds)
                    for holds in (("x", "d") if a.stationary == "best" else (a.stationary,))}
            found["weight gradient"] = min(held.values(), key=lambda counts: counts["cycles"])
        else:
            # The cycle that patches take is this machine's, not a baseline's.
            found["weight gradient"] = still(reference.os_weight_gradient, patch_cycle=False)
    if a.update and layer.kind != "matmul" and not whole:
        found["update"] = reference.reference([reference.still(layer, a, kept)], reference.update)
    return found


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=60)
@given(data=st.data())
def test_schedules_cost_what_their_passes_cost(name, data):
    layer = data.draw(layers())
    halves = st.sampled_from([(1, 0.0), (3, 0.0), (2, 0.5), (4, 0.25)])
    batch, skip = data.draw(halves)
    a = data.draw(ASSUMPTIONS).with_changes(
        batch=batch, skip=skip, lanes=data.draw(st.sampled_from([1, 2, 4])),
        folds=data.draw(st.sampled_from(FOLDS)), update=data.draw(st.booleans()),
        stationary=data.draw(st.sampled_from(CHOICES["stationary"])))
    assume(reference.moving(layer, a, 1))
    found = cost(Products(geometry(Network("one", [layer])), a), SCHEDULES[name])
    expected = walked(layer, a, SCHEDULES[name])
    for one in {*found, *expected}:
        counts, walk = found.get(one, {}), expected.get(one, {})
        assert {key: float(np.sum(counts.get(key, 0))) for key in COUNTS
                if key not in ("macs", "products")} == {
            key: walk.get(key, 0) for key in COUNTS if key not in ("macs", "products")}, one


def test_weights_are_updated_apart_if_a_phase_takes_several_passes():
    # Phases of 4, 2, 2 and 1 pixels.
    layer = Layer(name="conv", outputs=2, inputs=2, kernel=(2, 2), stride=(2, 2), size=(3, 3),
                  padding=(0, 0, 1, 1))
    shape = geometry(Network("one", [layer]))
    for steps, fused in ((4, True), (3, False), (1, False)):
        found = cost(Products(shape, Assumptions(batch=1, steps=steps)), SCHEDULES["fused"])
        assert (found["both gradients"]["w_writes"].sum() > 0) == fused
        assert (found["update"]["cycles"].sum() > 0) != fused
