"""A run learns, records what it did, and goes on after a stop as if there had been none."""

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.loss import error  # noqa: E402
from gradloom_study import layers, trainers  # noqa: E402
from gradloom_study.config import PolicySpec  # noqa: E402
from gradloom_study.draws import Generated  # noqa: E402
from gradloom_study.networks import Network  # noqa: E402
from gradloom_study.policies.precision import make_precision  # noqa: E402
from gradloom_study.run import Run  # noqa: E402
from gradloom_study.step import Step  # noqa: E402
from study_cells import easy_images, small_study  # noqa: E402

torch.set_num_threads(1)

NETWORKS = {
    "mlp": {"kind": "mlp", "norm": "none", "hidden": [12]},
    "resnet": {"kind": "resnet8", "width": 4},
    "fixup": {"kind": "resnet8", "width": 4, "norm": "none"},
    "vgg": {"kind": "vgg", "width": 4},
}
DATA = easy_images()
RATES = (0.0, 0.75, 0.25)


def cells(**changes):
    return {cell.policy.name: cell for cell in small_study(**changes).cells}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("policy", ["int8", "float"])
def test_networks_learn(name, policy):
    # Without normalization a deeper network takes its time.
    epochs = 8 if name in ("mlp", "resnet", "vgg") else 20
    cell = cells(networks={"net": NETWORKS[name]}, epochs=epochs, test_every=epochs)[policy]
    records = list(Run(cell, DATA).run())
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert records[-1]["test_accuracy"] > 0.8, records


@pytest.mark.parametrize("policy", [policy.name for policy in small_study().policies])
def test_a_stopped_run_goes_on_as_if_it_had_not(policy):
    cell = cells(flip=True, shift=1, angles=True)[policy]
    whole, stopped = Run(cell, DATA, rates=RATES), Run(cell, DATA, rates=RATES)
    expected = list(whole.run())
    next(stopped.run())
    resumed = Run(cell, DATA, rates=RATES)
    resumed.restore(stopped.state())
    assert len(list(resumed.run())) == len(expected) - 1
    for ours, theirs in zip(resumed.records, expected):
        for name in theirs.keys() - {"seconds"}:
            assert ours[name] == theirs[name], name
    for ours, theirs in zip(resumed.trainer.network.state_dict().values(),
                            whole.trainer.network.state_dict().values()):
        assert ours == theirs if isinstance(ours, dict) else torch.equal(ours, theirs)


def test_runs_with_a_norm_go_on_too():
    cell = cells(networks={"net": NETWORKS["resnet"]}, epochs=2)["angle"]
    whole, stopped = Run(cell, DATA), Run(cell, DATA)
    *_, expected = whole.run()
    next(stopped.run())
    resumed = Run(cell, DATA)
    resumed.restore(stopped.state())
    [found] = resumed.run()
    assert (found["loss"], found["bits"]) == (expected["loss"], expected["bits"])


def test_records_count_what_was_done():
    every = cells()
    run = Run(every["budget"], DATA)
    first, second, third = run.run()
    assert (first["kept"], first["samples"], first["full"]) == (128, 128, 128)
    assert all(record["kept"] < 128 for record in (second, third))
    pruned = list(Run(every["infobatch"], DATA).run())
    assert pruned[1]["samples"] == pruned[1]["kept"] < 128
    follower = list(Run(every["random"], DATA, rates=RATES).run())
    assert follower[0]["kept"] == 128
    assert follower[1]["kept"] < follower[2]["kept"] < 128


def test_an_epoch_of_less_than_a_batch_counts_what_it_saw():
    cell = cells(train_samples=32, batch=32, epochs=3)["infobatch"]
    records = list(Run(cell, DATA).run())
    assert records[1]["samples"] == records[1]["kept"] < records[1]["full"] == 32
    assert records[1]["train_accuracy"] * records[1]["samples"] % 1 == pytest.approx(0)


def test_a_shorter_run_has_the_same_backward_budget():
    run = Run(cells()["shorter"], DATA, rates=RATES)
    assert run.epochs == 2
    assert len(list(run.run())) == 2


def test_chosen_angles_are_recorded_within_their_bounds():
    records = list(Run(cells()["angle"], DATA).run())
    for record in records:
        for index, angle in record["angles"].items():
            assert record["bits"][str(index)] == angle["bits"]
            assert angle["chosen"] <= angle["bound"]
    assert any(width < 8 for record in records for width in record["bits"].values())
    assert any("later" in angle for record in records for angle in record["angles"].values())


def test_bits_are_chosen_on_the_first_batch_that_has_a_gradient(monkeypatch):
    run = Run(cells()["angle"], DATA)
    given = []

    def keep(judged, samples):
        given.append(len(given))
        return np.full(len(samples), len(given) > 1)

    monkeypatch.setattr(run.skip, "keep", keep)
    record = next(run.run())
    assert record["kept"] == record["full"] - 16
    assert record["angles"].keys() == {0, 1}
    assert all("chosen" in angle for angle in record["angles"].values())


def one_batch(arithmetic):
    """Return a trainer that samples by importance, what it keeps, and a batch with sure ones."""
    policy = PolicySpec(name="one", arithmetic=arithmetic, skip={
        "kind": "importance", "cap": 2, "extra": 1})
    run = Run(cells(policies=(policy,))["one"], DATA)
    next(run.run())
    samples = np.arange(64)
    return run, DATA.train_images[:64], DATA.train_labels[:64], samples


def test_errors_of_kept_samples_are_shifted(monkeypatch):
    run, images, labels, samples = one_batch("integer")
    handed = []
    monkeypatch.setattr(run.trainer.network, "backward", lambda *given: handed.append(given))
    monkeypatch.setattr(run.skip, "keep", lambda judged, samples: np.ones(64, bool))
    judged, _ = run.trainer.learn(images, labels, samples, rate=3, place=0.0)
    shifts = run.skip.shifts(judged)
    assert len(set(shifts.tolist())) > 1
    plain = error(judged.logits, labels, judged.exponent, bits=16) / 256
    [(d, step)] = handed
    assert step.rate == 3 - 1
    assert np.abs(d.values[:, 0, 0].numpy() - plain * 2 ** shifts[:, None]).max() <= 1


def test_losses_of_kept_samples_are_multiplied(monkeypatch):
    run, images, labels, samples = one_batch("float")
    handed = []
    monkeypatch.setattr(
        run.trainer.network, "learn",
        lambda losses, rate, **_: handed.append((losses.detach().numpy(), rate)))
    judged, kept = run.trainer.learn(images, labels, samples, rate=3, place=0.0)
    shifts = run.skip.shifts(judged)
    assert len(set(shifts.tolist())) > 1
    [(losses, rate)] = handed
    assert rate == 3 - 1
    assert np.count_nonzero(losses) == kept < 64
    there = losses != 0
    np.testing.assert_allclose(
        losses[there], (judged.losses * 2.0 ** shifts)[there], rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 9.0])
def test_a_gradient_of_zero_has_no_angle_later(size):
    watch = trainers._Watch(make_precision({"kind": "angle"}, 3), 0)
    layer = layers.Linear(8, 3, exponent=-7)
    layer.lanes = 4
    rng = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (20, 1, 1, 8), generator=rng).float()
    d = torch.full((20, 1, 1, 3), size)
    watch._check(4, layer, x, d, 255, Step(batch=32, draws=Generated(1)))
    assert [0 < angle["later"] < 30 for angle in watch.angles.values()] == [True] * (size > 0)


def test_tests_come_when_asked_for():
    found = [record["test_accuracy"] is None for record in Run(
        cells(test_every=2)["int8"], DATA).run()]
    assert found == [True, False, False]


def test_arithmetics_begin_with_the_same_weights():
    every = cells()
    integer, floating = (Run(every[name], DATA).trainer.network for name in ("int8", "float"))
    assert isinstance(integer, Network)
    for index, member in integer.weighted.items():
        theirs = floating.get_parameter(f"members.{index}.weight")
        weights = (member.master - 128) * 2.0 ** (member.exponent - 8)
        torch.testing.assert_close(
            weights.float(), theirs, atol=2.0 ** -15, rtol=0)


def test_float_runs_have_all_bits_of_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Run(cells()["float"], DATA)
    assert not torch.backends.cudnn.allow_tf32


def test_too_few_samples_are_named():
    with pytest.raises(ValueError, match="8 training samples make no batch of 16: lower batch"):
        Run(cells(train_samples=8)["int8"], DATA)


def test_margins_of_float_logits_are_judged_like_integer_ones():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.5]])
    labels = np.array([0, 2])
    judged = trainers._judged(logits, torch.zeros(2), labels)
    assert judged.margin.tolist() == [2 * 256, round(-2.5 * 256)]
    assert judged.own.tolist() == [round(float(p) * 65536) for p in
                                   logits.softmax(1)[[0, 1], labels]]
    assert judged.correct == 1
