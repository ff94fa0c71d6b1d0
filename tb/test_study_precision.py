"""How many bits: the angle is the golden unit's, the predictor is near it, schedules are kept."""

import math

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.precision import angle_within, bound_from_degrees  # noqa: E402
from gradloom_study import layers  # noqa: E402
from gradloom_study.draws import Generated  # noqa: E402
from gradloom_study.measure import dots, measure  # noqa: E402
from gradloom_study.policies.precision import (  # noqa: E402
    PRECISIONS,
    Measured,
    degrees,
    make_precision,
)
from gradloom_study.products import Geometry  # noqa: E402
from gradloom_study.step import Step  # noqa: E402


def layer_and_batch(seed=1, count=64):
    rng = np.random.default_rng(seed)
    layer = layers.Conv(4, 6, (3, 3), Geometry(1, 1), exponent=-7)
    x = torch.from_numpy(np.maximum(rng.normal(0, 60, (count, 6, 6, 4)), 0).round().clip(0, 255))
    d = torch.from_numpy(rng.normal(0, 20, (count, 6, 6, 6)).round().clip(-128, 127))
    return layer, x.float(), d.float(), Step(batch=64, draws=Generated(seed))


def test_dots_are_exact_and_degrees_follow():
    layer, x, d, step = layer_and_batch()
    gg, gh, hh = dots(layer, x, d, 255, 2, step)
    gradient = layer.gradient(x, d, 255).numpy().astype(np.int64).ravel().astype(object)
    assert gg == int(gradient @ gradient)
    angle = degrees(gg, gh, hh)
    assert angle_within(gg, gh, hh, bound_from_degrees(angle + 0.1))
    assert not angle_within(gg, gh, hh, bound_from_degrees(angle - 0.1))
    assert degrees(0, 0, 5) == 90
    assert degrees(9, 9, 9) == 0
    assert degrees(1, -1, 1) == 180


@pytest.mark.parametrize("geometry", [Geometry(1, 1), Geometry(2, 1)])
def test_the_predictor_is_near_the_angle(geometry):
    layer, x, d, step = layer_and_batch(1, 256)
    layer.geometry = geometry
    d = d[:, :geometry.size(6, 3), :geometry.size(6, 3)]
    found = measure(layer, x, d, 255, step)
    for bits in (4, 2):
        angle = degrees(*found.dots[bits])
        assert found.predicted(bits) == pytest.approx(angle, rel=0.08), bits
    assert found.noise[2] > 10 * found.noise[4]


def test_pixels_that_agree_turn_the_gradient_less():
    """Noise does not add up over pixels as gradients do: each activation has its own.

    What saturates would, so nothing does here.
    """
    layer, x, d, step = layer_and_batch(2, 256)
    x = x.clamp(max=192)
    found = measure(layer, x, d, 255, step)
    alike = measure(layer, x, d[:, :1, :1].expand(d.shape).contiguous(), 255, step)
    angle = degrees(*alike.dots[2])
    assert angle < degrees(*found.dots[2]) / 2
    assert alike.predicted(2) == pytest.approx(angle, rel=0.2)


def test_diversity_of_one_product_many_times_is_one_over_their_number():
    layer, _, _, step = layer_and_batch()
    layer.geometry = Geometry(1, 0)
    x, d = torch.full((40, 3, 3, 4), 50.0), torch.full((40, 1, 1, 6), -20.0)
    assert measure(layer, x, d, 255, step).diversity == pytest.approx(1 / 40)
    assert measure(layer, x[:1], d[:1], 255, step).diversity == pytest.approx(1)
    nothing = measure(layer, x * 0, d, 255, step)
    assert (nothing.diversity, nothing.noise) == (0, {4: 0, 2: 0})
    rows = layers.Linear(8, 3, exponent=-7)
    x, d = torch.arange(16.0).view(2, 1, 1, 8), torch.tensor([[3.0, 1, 2], [0, -5, 1]])
    gradient = d.T @ x.flatten(1)
    squares = x.flatten(1).square().sum(1) @ d.square().sum(1)
    assert measure(rows, x, d.view(2, 1, 1, 3), 255, step).diversity == pytest.approx(
        float(squares / gradient.square().sum()))


def measured(angle4, angle2, noise=None, diversity=1.0):
    def of(angle):
        size = 1 << 20
        return size, round(size * math.cos(math.radians(angle))), size

    return Measured(dots={4: of(angle4), 2: of(angle2)}, noise=noise or {4: 0.01, 2: 0.2},
                    diversity=diversity)


@pytest.mark.parametrize(("angles", "bits"), [((5, 10), 2), ((5, 30), 4), ((30, 40), 8)])
def test_the_angle_picks_the_fewest_bits_within_the_bound(angles, bits):
    policy = make_precision({"kind": "angle", "first": 20.0, "last": 20.0, "reserve": 0.0}, 3)
    assert policy.bits(1) is None
    assert policy.choose(1, measured(*angles)) == bits


@pytest.mark.parametrize("kind", ["angle", "predictor"])
def test_a_reserve_narrows_what_is_chosen_and_not_the_bound(kind):
    policy = make_precision({"kind": kind, "first": 40.0, "last": 40.0, "reserve": 0.25}, 3)
    assert policy.bound(1) == 40
    for angle, bits in ((29, 2), (31, 4)):
        noise = {4: 0.0, 2: math.tan(math.radians(angle)) ** 2}
        assert policy.choose(1, measured(0, angle, noise=noise)) == bits


def test_bounds_lie_on_a_line():
    policy = make_precision({"kind": "angle", "first": 45.0, "last": 15.0}, 4)
    assert [policy.bound(epoch) for epoch in range(4)] == [45, 35, 25, 15]
    assert make_precision({"kind": "angle"}, 1).bound(0) == 45


def test_the_predictor_picks_by_noise_and_diversity():
    policy = make_precision({"kind": "predictor", "first": 20.0, "last": 20.0, "reserve": 0.0}, 3)
    wrong = measured(80, 85)                                # what it must not look at
    assert policy.choose(0, wrong) == 4                     # atan(0.1) = 5.7, atan(0.447) = 24.1
    narrow = measured(80, 85, diversity=0.1)
    assert policy.choose(0, narrow) == 2
    assert policy.choose(0, measured(1, 2, diversity=100.0)) == 8


@pytest.mark.parametrize("kind", ["angle", "predictor"])
def test_without_a_gradient_no_bits_are_cut(kind):
    nothing = Measured(dots={4: (0, 0, 0), 2: (0, 0, 0)}, noise={4: 0.0, 2: 0.0}, diversity=0.0)
    assert make_precision({"kind": kind}, 3).choose(0, nothing) == 8


def test_early_low_turns_once():
    policy = make_precision({"kind": "early-low", "bits": 2, "later": 8, "share": 0.6}, 5)
    assert [policy.bits(epoch) for epoch in range(5)] == [2, 2, 2, 8, 8]
    assert [make_precision({"bits": 4}, 3).bits(epoch) for epoch in range(3)] == [4, 4, 4]


@pytest.mark.parametrize(("options", "message"), [
    ({"kind": "wish"}, "unknown precision 'wish'; choose from fixed, early-low, angle, predictor"),
    ({"bits": 3}, "bits must be 8, 4 or 2, not 3"),
    ({"kind": "early-low", "later": 5}, "later must be 8, 4 or 2, not 5"),
    ({"kind": "angle", "first": 91.0}, "an angle bound lies between 0 and 90 degrees, not 91.0"),
    ({"kind": "angle", "reserve": 1.0}, "reserve must be from 0 to below 1, not 1.0"),
    ({"kind": "fixed", "wide": 1}, "precision 'fixed' has no 'wide'; it takes bits"),
    ({"kind": "early-low", "share": math.nan}, "share must be from 0 to 1, not nan"),
    ({"bits": 4.0}, "bits must be 8, 4 or 2, not 4.0"),
    ("angle", "precision must be a table like { kind = 'fixed' }, not 'angle'"),
])
def test_what_makes_no_policy_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_precision(options, 2)


def test_policies_that_measure_say_so():
    assert {kind for kind in PRECISIONS if make_precision({"kind": kind}, 2).measures} == {
        "angle", "predictor"}
