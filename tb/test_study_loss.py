"""The loss on tensors is the golden one, and D what the golden loss unit writes."""

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_golden.config import PRESETS  # noqa: E402
from gradloom_golden.lfsr import Bank, Lfsr, low_half  # noqa: E402
from gradloom_golden.loss import LossUnit, cross_entropy  # noqa: E402
from gradloom_golden.program import Descriptor, Opcode, SkipRule  # noqa: E402
from gradloom_study import loss  # noqa: E402
from gradloom_study.draws import Replayed  # noqa: E402
from gradloom_study.step import Integers  # noqa: E402


def logits_of(values, exponent):
    return Integers(torch.from_numpy(values).float()[:, None, None], exponent)


@pytest.mark.parametrize("stochastic", [0, 1])
@pytest.mark.parametrize("exponent", [-6, -4, 0])
def test_error_is_what_the_loss_unit_writes(exponent, stochastic):
    rng = np.random.default_rng(5)
    values, labels = rng.integers(-128, 128, (20, 7)), rng.integers(0, 7, 20)
    unit = LossUnit(PRESETS["tiny"])
    d = Descriptor(opcode=Opcode.LOSS, steps=20, classes=7, first=1, threshold=40000,
                   function=SkipRule.PROBABILITY, stochastic=stochastic)
    outcome = unit.run(d, values, labels, exponent)
    judged = loss.judge(logits_of(values, exponent), labels)
    keep = np.flatnonzero(judged.own < 40000)
    np.testing.assert_array_equal(keep, outcome.keep)
    random = low_half(Lfsr(Bank.ERROR, 1).draw(len(keep) * 7)).reshape(-1, 7)
    draws = Replayed({Bank.ERROR: [torch.from_numpy(random)]}) if stochastic else None
    error = loss.error(judged, keep, draws)
    assert error.exponent == -7
    np.testing.assert_array_equal(error.values[:, 0, 0].numpy(), outcome.error)
    assert np.count_nonzero(judged.margin > 0) == outcome.correct
    assert judged.losses.mean() == pytest.approx(cross_entropy(values, labels, exponent))


def test_of_equal_logits_the_first_is_the_answer():
    values = np.array([[3, 5, 5], [3, 5, 5], [7, 7, 1], [0, 1, 2]])
    judged = loss.judge(logits_of(values, -4), np.array([1, 2, 0, 2]))
    assert judged.margin.tolist() == [0, 0, 0, 1]
    assert judged.correct == 3


def test_weights_multiply_errors():
    rng = np.random.default_rng(6)
    values, labels = rng.integers(-30, 30, (9, 4)), rng.integers(0, 4, 9)
    judged = loss.judge(logits_of(values, -4), labels)
    every = np.arange(9)
    plain = loss.error(judged, every, None)
    weighted = loss.error(judged, every, None, np.where(every % 2, 2.0, 1.0))
    assert weighted.exponent == plain.exponent + 1
    ratio = torch.from_numpy(np.where(every % 2, 2.0, 1.0))[:, None, None, None]
    apart = weighted.values * 2 - plain.values * ratio
    assert float(apart.abs().max()) <= 2
    shifted = loss.error(judged, every, None, np.ones(9), shift=every % 2)
    assert torch.equal(shifted.values, weighted.values)
