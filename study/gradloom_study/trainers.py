"""How a network learns from a batch: in the machine's integers or in float32, by one interface."""

from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from . import loss
from .config import Cell
from .data import Images
from .draws import Generated
from .floating import FloatNetwork
from .layers import Weighted
from .loss import Judged
from .measure import dots, measure
from .networks import Network, Norm, Spec, build
from .policies.precision import Measured, Precision, degrees, make_precision
from .policies.skip import Skip
from .products import check_device
from .step import OPERAND_BITS, Step

__all__ = ["FloatTrainer", "IntegerTrainer", "Trainer"]

CALIBRATIONS = 30
CALIBRATION_SAMPLES = 32


class Trainer(Protocol):
    """The interface."""

    @property
    def network(self) -> Network | FloatNetwork:
        """What learns."""
        ...

    def start(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        ...

    def learn(self, images: np.ndarray, labels: np.ndarray, samples: np.ndarray, *, rate: int,
              place: float) -> tuple[Judged, int]:
        """Train on a batch; return what its logits say, and how many samples got a gradient.

        Parameters
        ----------
        images : uint8 array (B, height, width, channels)
        labels : int64 array (B,)
        samples : int array (B,)
            Their numbers in the training set.
        rate : int
            -log2 of the learning rate.
        place : float
            Share of the epoch that is done.
        """
        ...

    def finish(self) -> dict[str, Any]:
        """End an epoch; return "bits" and "angles" of its layers, as far as there are any."""
        ...

    def judge(self, images: np.ndarray, labels: np.ndarray) -> Judged:
        """Return what the logits of images say that nothing is learned from."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on after an epoch."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


class FloatTrainer:
    """Float32, by PyTorch.

    Parameters
    ----------
    cell : Cell
    spec : Spec
    skip : Skip
    device : device
    """

    def __init__(self, cell: Cell, spec: Spec, skip: Skip, device: torch.device):
        # In convolutions on GPUs PyTorch would keep ten of the 23 bits of fractions.
        torch.backends.cudnn.allow_tf32 = False
        self.study, self.skip, self.device = cell.study, skip, device
        self.network = FloatNetwork(spec, cell.seed).to(device)

    def start(self, epoch):
        """Nothing is to be done."""

    def learn(self, images, labels, samples, *, rate, place):
        """Train on a batch."""
        self.network.train()
        logits = self.network(torch.from_numpy(images).to(self.device))
        target = torch.from_numpy(labels).to(self.device)
        losses = functional.cross_entropy(logits, target, reduction="none")
        judged = _judged(logits.detach(), losses.detach(), labels)
        keep = self.skip.keep(judged, samples)
        weights = self.skip.weights(samples)
        factor = keep * 2.0 ** self.skip.shifts(judged) * (1.0 if weights is None else weights)
        if keep.any():
            self.network.learn(
                losses * torch.from_numpy(np.asarray(factor, np.float32)).to(self.device),
                batch=self.study.batch, momentum=self.study.momentum or None,
                rate=max(0, rate - self.skip.boost(int(keep.sum()), self.study.batch)))
        return judged, int(keep.sum())

    def finish(self):
        """Layers have no bits."""
        return {"bits": {}, "angles": {}}

    @torch.no_grad()
    def judge(self, images, labels):
        """Judge with running means."""
        self.network.eval()
        logits = self.network(torch.from_numpy(images).to(self.device))
        return _judged(logits, logits[:, 0], labels)

    def state(self):
        """Return weights, means and velocities."""
        return {"network": self.network.state_dict(), "velocities": self.network.velocities()}

    def restore(self, state):
        """Go on."""
        self.network.load_state_dict(state["network"])
        for name, value in self.network.velocities().items():
            value.copy_(state["velocities"][name])


def _judged(logits: torch.Tensor, losses: torch.Tensor, labels: np.ndarray) -> Judged:
    """Return float logits as the policies take them: 16 bits of probability, 8 of margin."""
    exponent = -8
    values = (logits * 2.0 ** -exponent).round().long().cpu().numpy()
    rows = np.arange(len(labels))
    own = (logits.softmax(1) * 65536).round().long().cpu().numpy()[rows, labels]
    others = values.copy()
    others[rows, labels] = np.iinfo(np.int64).min
    return Judged(
        logits=values, labels=labels, exponent=exponent, own=own,
        margin=values[rows, labels] - others.max(1), losses=losses.double().cpu().numpy())


class IntegerTrainer:
    """The machine's integers, with the bits that a precision policy gives.

    Parameters
    ----------
    cell, spec, skip, device
        As of `FloatTrainer`.
    epochs : int
        Of the run.
    data : Images
        On the first of which exponents settle, before anything is learned.
    """

    def __init__(self, cell: Cell, spec: Spec, skip: Skip, device: torch.device, *, epochs: int,
                 data: Images):
        check_device(device)
        self.study, self.skip, self.device = cell.study, skip, device
        self.network = build(spec, cell.seed).to(device)
        self.draws = Generated(cell.seed, device)
        self.precision = make_precision(cell.policy.precision, epochs)
        self._rescales_weights = any(isinstance(layer, Norm) for layer in spec.layers)
        self._watch = _Watch(self.precision, 0)
        self._calibrate(data)

    @torch.no_grad()
    def _calibrate(self, data: Images) -> None:
        images = torch.from_numpy(data.train_images[:CALIBRATION_SAMPLES]).to(self.device)
        labels = data.train_labels[:CALIBRATION_SAMPLES]
        for _ in range(CALIBRATIONS):
            judged = loss.judge(self.network(images, train=True), labels)
            self._backward(judged, np.arange(len(labels)), None, Step(
                batch=self.study.batch, draws=self.draws, update=False))

    def start(self, epoch):
        """Set the bits that need no measurement."""
        self._watch = _Watch(self.precision, epoch)
        bits = self.precision.bits(epoch)
        if bits is not None:
            self._set_bits(dict.fromkeys(self.network.weighted, bits))

    @torch.no_grad()
    def learn(self, images, labels, samples, *, rate, place):
        """Train on a batch; measure angles on the first of an epoch, and on one in the middle."""
        batch = self.study.batch
        judged = loss.judge(self.network(torch.from_numpy(images).to(self.device), train=True),
                            labels)
        keep = np.flatnonzero(self.skip.keep(judged, samples))
        everything = len(keep) == len(labels)
        step = Step(
            batch=batch, draws=self.draws, momentum=self.study.momentum or None,
            keep=None if everything else torch.from_numpy(keep).to(self.device),
            rate=max(0, rate - self.skip.boost(len(keep), batch)))
        if self.precision.measures or self.study.angles:
            self._watch.attach(self.network, step, place)
        self._backward(judged, keep, self.skip.weights(samples[keep]), step)
        self._watch.detach(self.network)
        return judged, len(keep)

    def _backward(self, judged: Judged, keep: np.ndarray, weights: np.ndarray | None,
                  step: Step) -> None:
        error = loss.error(judged, keep, self.draws, weights, self.skip.shifts(judged)[keep])
        self.network.backward(
            loss.Integers(error.values.to(self.device), error.exponent), step)
        self.network.rescale()

    def finish(self):
        """Let the host move the exponents of weights that a normalization follows."""
        if self._rescales_weights:
            for member in self.network.weighted.values():
                member.adapt_weights()
        bits = {str(index): OPERAND_BITS // member.lanes
                for index, member in self.network.weighted.items()}
        return {"bits": bits, "angles": self._watch.angles}

    @torch.no_grad()
    def judge(self, images, labels):
        """Judge with running means."""
        return loss.judge(self.network(torch.from_numpy(images).to(self.device)), labels)

    def state(self):
        """Return weights, exponents, lanes and random numbers."""
        return {"network": self.network.state_dict(), "draws": self.draws.state_dict(),
                "bits": {index: OPERAND_BITS // member.lanes
                         for index, member in self.network.weighted.items()}}

    def restore(self, state):
        """Go on."""
        self.network.load_state_dict(state["network"])
        self.draws.load_state_dict(state["draws"])
        self._set_bits(state["bits"])

    def _set_bits(self, bits: dict[int, int]) -> None:
        for index, width in bits.items():
            self.network.weighted[index].lanes = OPERAND_BITS // width


class _Watch:
    """Measures the layers of an epoch before they learn, and sets or checks their bits.

    Parameters
    ----------
    precision : Precision
    epoch : int

    Attributes
    ----------
    angles : dict
        By layer: what was measured, degrees.
    """

    def __init__(self, precision: Precision, epoch: int):
        self.angles: dict[int, dict[str, float]] = {}
        self._precision, self._epoch = precision, epoch
        self._checked = False

    def attach(self, network: Network, step: Step, place: float) -> None:
        """Have a step watched if it is the first of its epoch, or of the epoch's second half.

        A step without gradients is watched in vain, and then the next one is.
        """
        if not self.angles:
            action = self._choose
        elif place >= 0.5 and not self._checked:
            action = self._check
        else:
            return
        for index, member in network.weighted.items():
            def watcher(layer: Weighted, x, d, largest: int, index=index):
                action(index, layer, x, d, largest, step)

            member.watcher = watcher

    def detach(self, network: Network) -> None:
        """Watch no longer."""
        for member in network.weighted.values():
            member.watcher = None

    def _choose(self, index: int, layer: Weighted, x, d, largest: int, step: Step) -> None:
        measured = measure(layer, x, d, largest, step)
        if self._precision.bits(self._epoch) is None:
            layer.lanes = OPERAND_BITS // self._precision.choose(self._epoch, measured)
        self.angles[index] = self._found(measured, OPERAND_BITS // layer.lanes)

    def _found(self, measured: Measured, bits: int) -> dict[str, float]:
        # Of a gradient that is zero there is no angle.
        known = [width for width, some in measured.dots.items() if some[0]]
        found = {f"measured{width}": degrees(*measured.dots[width]) for width in known}
        found |= {f"predicted{width}": measured.predicted(width) for width in known}
        return found | {"bound": self._precision.bound(self._epoch), "bits": bits,
                        "chosen": found.get(f"measured{bits}", 0.0)}

    def _check(self, index: int, layer: Weighted, x, d, largest: int, step: Step) -> None:
        self._checked = True
        if layer.lanes > 1:
            some = dots(layer, x, d, largest, OPERAND_BITS // layer.lanes, step)
            if some[0]:
                self.angles.setdefault(index, {})["later"] = degrees(*some)
