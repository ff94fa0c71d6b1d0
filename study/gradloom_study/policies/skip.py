"""Which samples get a gradient: one small class a policy, all with the same interface.

`Threshold`, `Margin`, `ErrorBudget` and `Importance` are what the machine's loss unit does: they
take the rules from `gradloom_golden` and are held to it by a test. The others need a host that
chooses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradloom_golden.budget import Budget
from gradloom_golden.confidence import NEVER, fraction, threshold_from_probability
from gradloom_golden.importance import DRAW_BITS, error_shift, field, is_drawn

from ..loss import Judged
from .make import complete, make

__all__ = [
    "SKIPS", "Dbpd", "ErrorBudget", "Everything", "Importance", "InfoBatch", "Margin", "Random",
    "Schedule", "Skip", "Threshold", "complete_skip", "make_skip",
]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a policy may know of the run.

    Parameters
    ----------
    epochs, samples : int
        Of the whole run; samples of an epoch.
    rates : tuple of float, optional
        Share of samples that another run skipped, by epoch, for policies that follow one.
    """

    epochs: int
    samples: int
    rates: tuple[float, ...] = ()


class Skip:
    """The interface; as it is, it keeps all.

    Parameters
    ----------
    schedule : Schedule
    rng : numpy Generator
    """

    def __init__(self, schedule: Schedule, rng: np.random.Generator):
        self.schedule, self.rng = schedule, rng
        self.epoch = 0

    def start(self, epoch: int) -> np.ndarray | None:
        """Begin an epoch, counted from 0; return the samples to visit, or None for all."""
        self.epoch = epoch
        return None

    def keep(self, judged: Judged, samples: np.ndarray) -> np.ndarray:
        """Return whether each sample of a batch gets a gradient.

        Parameters
        ----------
        judged : Judged
            What their logits say.
        samples : int array (B,)
            Their numbers in the training set.
        """
        return np.ones(len(samples), bool)

    def weights(self, samples: np.ndarray) -> np.ndarray | None:
        """Return by what the errors of samples are multiplied; None leaves them."""
        return None

    def shifts(self, judged: Judged) -> np.ndarray:
        """Return by how many bits the error of each sample of a batch is shifted left."""
        return np.zeros(len(judged.own), np.int64)

    def boost(self, kept: int, batch: int) -> int:
        """Return by how many halvings less the learning rate of a batch is divided."""
        return 0

    def finish(self) -> None:
        """End an epoch."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on after an epoch."""
        return {"rng": self.rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.rng.bit_generator.state = state["rng"]


class Everything(Skip):
    """Every sample gets a gradient; with fewer epochs this is the shorter run."""


class Threshold(Skip):
    """Skip samples whose label has a probability of at least `probability`.

    `SkipRule.PROBABILITY` of the machine.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    probability : float
    """

    def __init__(self, schedule, rng, *, probability: float):
        super().__init__(schedule, rng)
        _check_share("probability", probability)
        self.threshold = fraction(probability)

    def keep(self, judged, samples):
        """Return where the probability is below the threshold."""
        return judged.own < self.threshold


class Margin(Skip):
    """Skip samples by the margin of their logits, which needs no exponential.

    `SkipRule.MARGIN` of the machine: the margin at which the label's probability can first reach
    `probability`. It depends on the exponent of the logits.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    probability : float
        Above a half.
    """

    def __init__(self, schedule, rng, *, probability: float):
        super().__init__(schedule, rng)
        threshold_from_probability(probability, 0)          # refuse it early
        self._probability = probability

    def keep(self, judged, samples):
        """Return where the margin is below the threshold."""
        return judged.margin < threshold_from_probability(self._probability, judged.exponent)


class ErrorBudget(Skip):
    """Skip the surest samples, as many as held a share `error` of the last epoch's squared error.

    `SkipRule.BUDGET` of the machine: a histogram of the label's probability, and a threshold chosen
    from it at the end of each epoch. The first epoch skips nothing.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    error : float
        Above 0, below 1.
    """

    def __init__(self, schedule, rng, *, error: float):
        super().__init__(schedule, rng)
        _check_share("error", error)
        self.bound = fraction(error)
        self.budget = Budget()

    def keep(self, judged, samples):
        """Return where the probability is below the threshold of the last epoch."""
        self.budget.add(judged.own)
        threshold = self.budget.threshold
        return (judged.own < threshold) | (threshold == NEVER)

    def finish(self):
        """Choose the threshold of the next epoch."""
        self.budget.choose(self.bound)

    def state(self):
        """Return the threshold with the rest; between epochs the histogram is empty."""
        return {**super().state(), "threshold": self.budget.threshold}

    def restore(self, state):
        """Go on."""
        super().restore(state)
        self.budget.threshold = state["threshold"]


class Importance(Skip):
    """Keep samples by chance, the surer the rarer, and weight them so that the gradient stays.

    `SkipRule.IMPORTANCE` of the machine, see `gradloom_golden.importance`: a sample is kept with
    probability 2**-n, n = min(k, cap) + extra. Its error is shifted by the first, and the rate is
    raised by the second. With a cap of 0 this is random skipping that weights.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    cap : int
        From 0 to 7.
    extra : int or list of int
        Likewise; of a list, one for each of as many equal parts of the run: ``[1, 0]`` keeps half
        as many in the first half, where there are few sure samples.
    """

    def __init__(self, schedule, rng, *, cap: int = 4, extra: int | list[int] = 0):
        super().__init__(schedule, rng)
        self._extras = extra if isinstance(extra, list) else [extra]
        if not self._extras:
            raise ValueError("extra must be an integer or a list of at least one, not []")
        for one in self._extras:
            field(cap, one)                                 # refuse it early
        self._cap = cap

    @property
    def _extra(self) -> int:
        """That of the present epoch."""
        return self._extras[self.epoch * len(self._extras) // self.schedule.epochs]

    def keep(self, judged, samples):
        """Return where the draws say so."""
        draws = self.rng.integers(1 << DRAW_BITS, size=len(samples))
        return is_drawn(self.shifts(judged) + self._extra, draws)

    def shifts(self, judged):
        """Return min(k, cap)."""
        return error_shift(judged.own, self._cap)

    def boost(self, kept, batch):
        """Return the halvings that all samples have."""
        return self._extra


class Random(Skip):
    """Skip samples by chance: at a fixed rate, or at the rate of another policy's run, by epoch.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    rate : float, optional
        From 0 to below 1.
    follows : str, optional
        Name of the other policy; the runner hands its rates over.
    """

    def __init__(self, schedule, rng, *, rate: float | None = None, follows: str = ""):
        super().__init__(schedule, rng)
        if (rate is None) == (not follows):
            raise ValueError(
                f"random skipping takes either rate or follows, not {rate!r} and {follows!r}")
        if rate is not None and not 0 <= rate < 1:
            raise ValueError(f"rate must be from 0 to below 1, not {rate!r}")
        self._rates = schedule.rates if follows else (float(rate or 0),) * schedule.epochs

    def keep(self, judged, samples):
        """Return draws."""
        return self.rng.random(len(samples)) >= self._rates[self.epoch]


class Dbpd(Skip):
    """Difficulty-based progressive dropout (Sathiyanarayanan et al., NeurIPS 2025).

    From the paper's text: a sample gets a gradient while its label's probability is below
    `threshold`; in the last epochs, a share `revision` of all but at least one, every sample does.
    Reconstructed: the gradient is that of the mean over the samples kept. The machine divides by
    the whole batch, so the rate is raised by the power of two next to batch / kept, 8 at most, and
    to 1 at most.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    threshold, revision : float
    rescale : bool
        Raise the rate.
    """

    def __init__(self, schedule, rng, *, threshold: float = 0.3, revision: float = 0.0,
                 rescale: bool = True):
        super().__init__(schedule, rng)
        _check_share("threshold", threshold)
        if not 0 <= revision <= 1:
            raise ValueError(f"revision must be from 0 to 1, not {revision!r}")
        if type(rescale) is not bool:
            raise ValueError(f"rescale must be true or false, not {rescale!r}")
        self._threshold = fraction(threshold)
        self._first_full = schedule.epochs - max(1, round(revision * schedule.epochs))
        self._rescale = rescale

    def keep(self, judged, samples):
        """Return where the probability is below the threshold, or all in the revision."""
        if self.epoch >= self._first_full:
            return np.ones(len(samples), bool)
        return judged.own < self._threshold

    def boost(self, kept, batch):
        """Return the halvings from the batch to the samples kept."""
        return min(3, round(np.log2(batch / kept))) if self._rescale and kept else 0


class InfoBatch(Skip):
    """Unbiased dynamic pruning (Qin et al., ICLR 2024).

    From the paper's text: before an epoch a share `ratio` of the samples whose last loss is below
    the mean is left out by chance, forward pass included, and the gradients of those that stay are
    multiplied by 1 / (1 - ratio); in the last share `1 - anneal` of the epochs all samples come.
    Reconstructed: losses are those of the machine's integer softmax; samples not yet seen count
    as above the mean; the factor is applied to D by the host, one bit of D's range is given up
    for it, and `ratio` is at most a half.

    Parameters
    ----------
    schedule, rng
        As of `Skip`.
    ratio, anneal : float
    """

    def __init__(self, schedule, rng, *, ratio: float = 0.5, anneal: float = 0.875):
        super().__init__(schedule, rng)
        if not 0 < ratio <= 0.5:
            raise ValueError(f"ratio must be above 0 and at most 0.5, not {ratio!r}")
        if not 0 <= anneal <= 1:
            raise ValueError(f"anneal must be from 0 to 1, not {anneal!r}")
        self._ratio, self._last = ratio, int(anneal * schedule.epochs)
        self._losses = np.full(schedule.samples, np.inf)
        self._factors = np.ones(schedule.samples)

    def start(self, epoch):
        """Return the samples that stay."""
        self.epoch = epoch
        self._factors[:] = 1
        known = np.isfinite(self._losses)
        if epoch >= self._last or not known.any():
            return None
        easy = known & (self._losses < self._losses[known].mean())
        dropped = easy & (self.rng.random(len(easy)) < self._ratio)
        self._factors[easy] = 1 / (1 - self._ratio)
        return np.flatnonzero(~dropped)

    def keep(self, judged, samples):
        """Remember the losses; all that come get a gradient."""
        self._losses[samples] = judged.losses
        return np.ones(len(samples), bool)

    def weights(self, samples):
        """Return the factors, if there are any in this epoch."""
        return self._factors[samples] if (self._factors != 1).any() else None

    def state(self):
        """Return the losses with the rest."""
        return {**super().state(), "losses": torch.from_numpy(self._losses.copy())}

    def restore(self, state):
        """Go on."""
        super().restore(state)
        self._losses[:] = state["losses"].numpy()


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value!r}")


SKIPS: dict[str, Callable[..., Skip]] = {
    "none": Everything, "threshold": Threshold, "margin": Margin, "budget": ErrorBudget,
    "importance": Importance, "random": Random, "dbpd": Dbpd, "infobatch": InfoBatch,
}
"""By the name that a study's configuration uses."""


def complete_skip(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of the configuration with all defaults."""
    return complete("skip", SKIPS, options, "none")


def make_skip(options: Mapping[str, Any], schedule: Schedule, rng: np.random.Generator) -> Skip:
    """Return the policy that a table of the configuration describes: its `kind` and parameters.

    Raises
    ------
    ValueError
        If there is no such kind, or it has no such parameter.
    """
    return make("skip", SKIPS, options, "none", schedule, rng)
