"""One run of a study: a network trained by a policy, epoch after epoch, to be stopped anywhere."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from .config import Cell
from .data import Images, augment
from .networks import NETWORKS
from .policies.skip import Schedule, make_skip
from .trainers import FloatTrainer, IntegerTrainer, Trainer

__all__ = ["Run"]

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
            self.epochs = max(1, round(sum(1 - rate for rate in rates)))
            rates = ()
        self.records: list[dict[str, Any]] = []
        options = dict(study.networks[cell.network])
        self.spec = NETWORKS[options.pop("kind")](data.shape, data.classes, **options)
        schedule = Schedule(epochs=self.epochs, samples=self.samples, rates=rates)
        self.skip = make_skip(policy.skip, schedule, np.random.default_rng([cell.seed, 1 << 20]))
        self.trainer = self._trainer()

    def _trainer(self) -> Trainer:
        if self.cell.policy.arithmetic == "float":
            return FloatTrainer(self.cell, self.spec, self.skip, self.device)
        return IntegerTrainer(self.cell, self.spec, self.skip, self.device, epochs=self.epochs,
                              data=self.data)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on after the last finished epoch."""
        return {"trainer": self.trainer.state(), "skip": self.skip.state(),
                "records": self.records}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.trainer.restore(state["trainer"])
        self.skip.restore(state["skip"])
        self.records = state["records"]

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
        losses = correct = kept = seen = 0
        self.trainer.start(number)
        for step in range(steps):
            chosen = order[step * study.batch:(step + 1) * study.batch]
            images = self.data.train_images[chosen]
            if study.shift or study.flip:
                images = augment(images, rng, shift=study.shift, flip=study.flip)
            done = (number + step / steps) / self.epochs
            judged, keeps = self.trainer.learn(
                images, self.data.train_labels[chosen], chosen, place=step / steps,
                rate=study.rate + sum(done >= share for share in study.halvings))
            losses += float(judged.losses.sum())
            correct += judged.correct
            kept += keeps
            seen += len(chosen)
            progress((number + (step + 1) / steps) / self.epochs)
        self.skip.finish()
        found = self.trainer.finish()
        tests = (number + 1) % study.test_every == 0 or number + 1 == self.epochs
        return {
            "epoch": number + 1, "loss": losses / seen, "train_accuracy": correct / seen,
            "test_accuracy": self.test_accuracy() if tests else None, "samples": seen,
            "kept": kept, "full": self.samples // study.batch * study.batch, **found}

    def test_accuracy(self) -> float:
        """Return the share of test images that are judged correctly."""
        right = 0
        for first in range(0, len(self.data.test_labels), TEST_BATCH):
            part = slice(first, first + TEST_BATCH)
            right += self.trainer.judge(
                self.data.test_images[part], self.data.test_labels[part]).correct
        return right / len(self.data.test_labels)
