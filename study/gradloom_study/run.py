"""One run of a study: a network trained by a policy, epoch after epoch, to be stopped anywhere."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from . import loss
from .config import Cell
from .data import Images, augment
from .draws import Generated
from .floating import FloatNetwork
from .layers import Weighted
from .measure import dots, measure
from .networks import NETWORKS, Norm, build
from .policies.precision import Measured, degrees, make_precision
from .policies.skip import Schedule, make_skip
from .products import check_device
from .step import OPERAND_BITS, Step

__all__ = ["Run"]

CALIBRATIONS = 30
CALIBRATION_SAMPLES = 32
TEST_BATCH = 256

Progress = Callable[[float], None]


class Run:
    """A network in training.

    Parameters
    ----------
    cell : Cell
    data : Images
    device : str or device
    rates : tuple of float
        Shares skipped by the run that this one follows, by epoch.
    """

    def __init__(self, cell: Cell, data: Images, device: torch.device | str = "cpu",
                 rates: tuple[float, ...] = ()):
        study, policy = cell.study, cell.policy
        self.cell, self.device = cell, torch.device(device)
        self.data = data.first(study.train_samples or None, study.test_samples or None)
        self.samples = len(self.data.train_labels)
        if self.samples < study.batch:
            raise ValueError(
                f"{self.samples} training samples make no batch of {study.batch}: lower batch")
        self.epochs = policy.epochs or study.epochs
        if policy.like:
            work = sum(1 - rate for rate in rates)
            self.epochs = max(1, round(work))
            rates = ()
        self.records: list[dict[str, Any]] = []
        options = dict(study.networks[cell.network])
        self.spec = NETWORKS[options.pop("kind")](self.data.shape, self.data.classes, **options)
        schedule = Schedule(epochs=self.epochs, samples=self.samples, rates=rates)
        self.skip = make_skip(policy.skip, schedule, np.random.default_rng([cell.seed, 1 << 20]))
        self.precision = make_precision(policy.precision, self.epochs)
        self.draws = Generated(cell.seed, self.device)
        self._measured: dict[int, Measured] = {}
        self._angles: dict[int, dict[str, float]] = {}
        if policy.arithmetic == "float":
            self.network = FloatNetwork(self.spec, cell.seed).to(self.device)
        else:
            check_device(self.device)
            self.network = build(self.spec, cell.seed).to(self.device)
            self._calibrate()

    # State.

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on after the last finished epoch."""
        found = {"network": self.network.state_dict(), "skip": self.skip.state(),
                 "draws": self.draws.state_dict(), "records": self.records}
        if isinstance(self.network, FloatNetwork):
            found["velocities"] = self.network.velocities()
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.network.load_state_dict(state["network"])
        self.skip.restore(state["skip"])
        self.draws.load_state_dict(state["draws"])
        self.records = state["records"]
        if isinstance(self.network, FloatNetwork):
            for name, value in self.network.velocities().items():
                value.copy_(state["velocities"][name])
        elif self.records:
            for index, bits in self.records[-1]["bits"].items():
                self.network.weighted[int(index)].lanes = OPERAND_BITS // bits

    # Training.

    def run(self, progress: Progress = lambda done: None) -> Iterator[dict[str, Any]]:
        """Run the epochs that are left; yield the record of each."""
        while len(self.records) < self.epochs:
            started = time.monotonic()
            record = self._epoch(len(self.records), progress)
            record["seconds"] = time.monotonic() - started
            self.records.append(record)
            yield record

    def _epoch(self, number: int, progress: Progress) -> dict[str, Any]:
        study = self.cell.study
        rng = np.random.default_rng([self.cell.seed, number])
        visited = self.skip.start(number)
        order = rng.permutation(self.samples if visited is None else visited)
        steps = max(1, len(order) // study.batch)
        self._measured, self._angles = {}, {}
        losses = correct = kept = 0
        self._set_bits(number)
        for step in range(steps):
            chosen = order[step * study.batch:(step + 1) * study.batch]
            images, labels = self.data.train_images[chosen], self.data.train_labels[chosen]
            if study.shift or study.flip:
                images = augment(images, rng, shift=study.shift, flip=study.flip)
            done = (number + step / steps) / self.epochs
            rate = study.rate + sum(done >= share for share in study.halvings)
            take = self._float_step if isinstance(self.network, FloatNetwork) else self._step
            judged, keeps = take(torch.from_numpy(images).to(self.device), labels, chosen, rate,
                                 number, watch=self._watch(step, steps))
            losses += float(judged.losses.sum())
            correct += judged.correct
            kept += keeps
            progress((number + (step + 1) / steps) / self.epochs)
        self.skip.finish()
        seen = steps * study.batch
        if not isinstance(self.network, FloatNetwork) and self._has_norm():
            for member in self.network.weighted.values():
                member.adapt_weights()
        tests = (number + 1) % study.test_every == 0 or number + 1 == self.epochs
        return {
            "epoch": number + 1, "loss": losses / seen, "train_accuracy": correct / seen,
            "test_accuracy": self.test_accuracy() if tests else None, "samples": seen,
            "kept": kept, "full": self.samples // study.batch * study.batch,
            "bits": self._bits(), "angles": self._angles}

    def _has_norm(self) -> bool:
        return any(isinstance(layer, Norm) for layer in self.spec.layers)

    def _bits(self) -> dict[str, int]:
        if isinstance(self.network, FloatNetwork):
            return {}
        return {str(index): OPERAND_BITS // member.lanes
                for index, member in self.network.weighted.items()}

    def _set_bits(self, epoch: int) -> None:
        bits = self.precision.bits(epoch)
        if bits is not None and not isinstance(self.network, FloatNetwork):
            for member in self.network.weighted.values():
                member.lanes = OPERAND_BITS // bits

    def _watch(self, step: int, steps: int) -> str:
        """Return what a step measures: "choose" on the first, "check" in the middle."""
        if isinstance(self.network, FloatNetwork):
            return ""
        if not (self.precision.measures or self.cell.study.angles):
            return ""
        return {0: "choose", steps // 2: "check"}.get(step, "")

    @torch.no_grad()
    def _step(self, images, labels, samples, rate: int, epoch: int, *, watch: str = "",
              ) -> tuple[loss.Judged, int]:
        """Train on a batch; return what its logits say, and the samples kept."""
        assert not isinstance(self.network, FloatNetwork)
        study = self.cell.study
        judged = loss.judge(self.network(images, train=True), labels)
        keep = np.flatnonzero(self.skip.keep(judged, samples))
        weights = self.skip.weights(samples[keep])
        error = loss.error(judged, keep, self.draws, weights)
        every = len(keep) == len(labels)
        step = Step(
            batch=study.batch, draws=self.draws, momentum=study.momentum or None,
            keep=None if every else torch.from_numpy(keep).to(self.device),
            rate=max(0, rate - self.skip.boost(len(keep), study.batch)))
        if watch:
            self._attach(watch, step, epoch)
        error = loss.Integers(error.values.to(self.device), error.exponent)
        self.network.backward(error, step)
        if watch:
            for member in self.network.weighted.values():
                member.watcher = None
        self.network.rescale()
        return judged, len(keep)

    def _attach(self, watch: str, step: Step, epoch: int) -> None:
        """Let every layer be measured, and its bits be chosen or checked, before it learns."""
        assert not isinstance(self.network, FloatNetwork)
        for index, member in self.network.weighted.items():
            def watcher(layer: Weighted, x, d, largest, index=index):
                if watch == "choose":
                    self._choose(index, layer, measure(layer, x, d, largest, step), epoch)
                elif layer.lanes > 1:
                    bits = OPERAND_BITS // layer.lanes
                    self._angles.setdefault(index, {})["later"] = degrees(
                        *dots(layer, x, d, largest, bits, step))

            member.watcher = watcher

    def _choose(self, index: int, layer: Weighted, measured: Measured, epoch: int) -> None:
        if self.precision.bits(epoch) is None:
            layer.lanes = OPERAND_BITS // self.precision.choose(epoch, measured)
        bits = OPERAND_BITS // layer.lanes
        # Of a gradient that is zero there is no angle.
        known = [width for width, dots in measured.dots.items() if dots[0]]
        found = {f"measured{width}": degrees(*measured.dots[width]) for width in known}
        found |= {f"predicted{width}": measured.predicted(width) for width in known}
        found |= {"bound": self.precision.bound(epoch), "bits": bits,
                  "chosen": found.get(f"measured{bits}", 0.0)}
        self._angles[index] = found

    def _float_step(self, images, labels, samples, rate: int, epoch: int, *, watch: str = "",
                    ) -> tuple[loss.Judged, int]:
        assert isinstance(self.network, FloatNetwork)
        study = self.cell.study
        self.network.train()
        logits = self.network(images)
        target = torch.from_numpy(labels).to(self.device)
        losses = functional.cross_entropy(logits, target, reduction="none")
        judged = self._judged(logits.detach(), losses.detach(), labels)
        keep = self.skip.keep(judged, samples)
        weights = self.skip.weights(samples)
        factor = keep * (1.0 if weights is None else weights)
        if keep.any():
            self.network.learn(
                losses * torch.from_numpy(np.asarray(factor, np.float32)).to(self.device),
                batch=study.batch, momentum=study.momentum or None,
                rate=max(0, rate - self.skip.boost(int(keep.sum()), study.batch)))
        return judged, int(keep.sum())

    @staticmethod
    def _judged(logits, losses, labels) -> loss.Judged:
        """Return float logits as the policies take them: 16 bits of probability, 8 of margin."""
        exponent = -8
        values = (logits * 2.0 ** -exponent).round().long().cpu().numpy()
        rows = np.arange(len(labels))
        own = (logits.softmax(1) * 65536).round().long().cpu().numpy()[rows, labels]
        others = values.copy()
        others[rows, labels] = np.iinfo(np.int64).min
        return loss.Judged(
            logits=values, labels=labels, exponent=exponent, own=own,
            margin=values[rows, labels] - others.max(1), losses=losses.double().cpu().numpy())

    @torch.no_grad()
    def test_accuracy(self) -> float:
        """Return the share of test images whose label has the largest logit, alone."""
        right = 0
        self.network.eval()
        for first in range(0, len(self.data.test_labels), TEST_BATCH):
            part = slice(first, first + TEST_BATCH)
            images = torch.from_numpy(self.data.test_images[part]).to(self.device)
            labels = self.data.test_labels[part]
            if isinstance(self.network, FloatNetwork):
                logits = self.network(images)
                right += self._judged(logits, logits[:, 0], labels).correct
            else:
                right += loss.judge(self.network(images), labels).correct
        return right / len(self.data.test_labels)

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Let exponents settle on a few samples, before anything is learned."""
        assert not isinstance(self.network, FloatNetwork)
        some = min(CALIBRATION_SAMPLES, self.samples)
        images = torch.from_numpy(self.data.train_images[:some]).to(self.device)
        labels = self.data.train_labels[:some]
        for _ in range(CALIBRATIONS):
            judged = loss.judge(self.network(images, train=True), labels)
            error = loss.error(judged, np.arange(some), self.draws)
            error = loss.Integers(error.values.to(self.device), error.exponent)
            self.network.backward(error, Step(
                batch=self.cell.study.batch, draws=self.draws, update=False))
            self.network.rescale()
