"""Training on a device: the machine multiplies, skips, picks precisions and updates.

The host lays out data, computes the error of the logits (`gradloom_golden.loss`), and chooses the
power-of-two scales by `gradloom_golden.fixed.better_shift` from what the machine has written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradloom_golden import loss
from gradloom_golden.confidence import NEVER, threshold_from_probability
from gradloom_golden.config import ceil_log2
from gradloom_golden.fixed import better_shift, saturate
from gradloom_golden.lfsr import Bank, Lfsr, low_half
from gradloom_golden.optimizer import Rule, split
from gradloom_golden.precision import bound_from_degrees
from gradloom_golden.program import Descriptor, Region, Register, Schedule

from . import layout
from .device import Device
from .digits import Dataset
from .network import Layer, Network

__all__ = ["Epoch", "Settings", "Trainer"]

WEIGHT_EXPONENT = -7
"""The array's weights are in units of 2**-7: they reach from -1 to 1."""

LOGIT_EXPONENT = -4
"""Logits are in units of 2**-4 or coarser."""

VELOCITY_SHIFT = 4
"""With momentum the velocity keeps four more bits than the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to train.

    Parameters
    ----------
    hidden : tuple of int
        Features of the hidden layers.
    batch : int
        Samples a step; a gradient counts 1 / batch also where samples are skipped.
    epochs : int
    rate_log2 : int
        The learning rate is ``2**rate_log2``; it halves after half and after three quarters of
        the epochs.
    momentum : bool
        Keep 7/8 of the velocity.
    skip : float or None
        Leave out samples whose label may have at least this probability; None keeps all.
    lanes : int or None
        Activation bits of the weight gradient: 8, 4, 2, or None to measure and pick.
    angles : tuple of float
        With `lanes` None: the largest angle, in degrees, between the 8-bit weight gradient and the
        cut one, in the first and in the last epoch.
    schedule : Schedule
    seed : int
    """

    hidden: tuple[int, ...] = (96,)
    batch: int = 64
    epochs: int = 20
    rate_log2: int = 0
    momentum: bool = True
    skip: float | None = 0.95
    lanes: int | None = None
    angles: tuple[float, float] = (45.0, 20.0)
    schedule: Schedule = Schedule.INTERLEAVED
    seed: int = 1

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs!r}")
        if self.lanes not in (None, 2, 4, 8):
            raise ValueError(f"lanes must be auto, 2, 4 or 8, not {self.lanes!r}")


@dataclass(kw_only=True, slots=True)
class Epoch:
    """What one pass over the training set gave."""

    number: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    skipped: float
    bits: list[int]
    counters: dict[str, int]
    useful_macs: dict[str, int] = field(default_factory=dict)


class Trainer:
    """A network in training on a device.

    Parameters
    ----------
    device : Device
    data : Dataset
    settings : Settings

    Raises
    ------
    ValueError
        If the network does not fit the device, or a setting does not suit it.
    """

    def __init__(self, device: Device, data: Dataset, settings: Settings):
        config = device.config
        if settings.lanes in (2, 4) and not config.lanes:
            raise ValueError(
                f"lanes {settings.lanes} need a machine that packs them: use --set lanes=true")
        if config.operand_bits != 8:
            raise ValueError(
                f"training takes 8-bit operands, the machine has {config.operand_bits}: use --set "
                "operand_bits=8")
        self.device = device
        self.data = data
        self.settings = settings
        self.network = Network(
            config, (data.features, *settings.hidden, data.classes), settings.batch)
        if settings.skip is not None:
            threshold_from_probability(settings.skip, LOGIT_EXPONENT)      # refuse it early
        self._random = np.random.default_rng(settings.seed)
        self._error_bits = Lfsr(Bank.ERROR, 1, settings.seed)
        layers = self.network.layers
        adaptive = settings.lanes is None and config.lanes
        self.bits = [8 if adaptive else settings.lanes or 8] * len(layers)
        self._adaptive = adaptive
        self._forward_shifts = [8] * len(layers)
        self._gradient_shifts = [8] * len(layers)
        self._macs: dict[str, int] = dict.fromkeys(("forward", "backward"), 0)
        device.seed(settings.seed)
        # Where rows and columns differ, tensors end in lanes that nothing writes.
        for region in (Region.ACTIVATION, Region.GRADIENT):
            device.clear(region)
        for layer in layers:
            self._load_initial(layer)
        self._calibrate()

    def train(self, progress: Callable[[float], None] = lambda done: None) -> list[Epoch]:
        """Run all epochs; `progress` is told the share of steps done."""
        settings, count = self.settings, len(self.data.train_images)
        steps = -(-count // settings.batch)
        epochs = []
        for number in range(settings.epochs):
            self.device.clear_counters()
            self._macs = dict.fromkeys(("forward", "backward"), 0)
            order = self._random.permutation(count)
            losses, right, skipped = 0.0, 0, 0
            for step in range(steps):
                chosen = order[step * settings.batch:(step + 1) * settings.batch]
                images, labels = self.data.train_images[chosen], self.data.train_labels[chosen]
                logits, kept = self._step(images, labels, number, first=step == 0)
                losses += loss.cross_entropy(logits, labels, self.logit_exponent) * len(chosen)
                right += int((logits.argmax(axis=1) == labels).sum())
                skipped += len(chosen) - kept
                progress((number * steps + step + 1) / (settings.epochs * steps))
            counters, macs = self.device.counters, dict(self._macs)
            self.device.compare_counters(f"epoch {number + 1}")
            epochs.append(Epoch(
                number=number + 1, loss=losses / count, train_accuracy=right / count,
                test_accuracy=self.test_accuracy(), skipped=skipped / count,
                bits=list(self.bits), counters=counters, useful_macs=macs))
        return epochs

    def test_accuracy(self) -> float:
        """Return the share of test images whose largest logit is their label's."""
        images, labels = self.data.test_images, self.data.test_labels
        right = 0
        for first in range(0, len(images), self.settings.batch):
            part = slice(first, first + self.settings.batch)
            logits = self._forward(images[part])
            right += int((logits.argmax(axis=1) == labels[part]).sum())
        return right / len(images)

    # Scales.

    def _x_exponent(self, index: int) -> int:
        """Return the exponent of the input of layer `index`; of the logits for the last but one."""
        exponent = self.data.exponent
        for shift in self._forward_shifts[:index]:
            exponent += WEIGHT_EXPONENT + shift
        return exponent

    @property
    def logit_exponent(self) -> int:
        """Logits are in units of two to this power."""
        return self._x_exponent(len(self.network.layers))

    def _d_exponent(self, index: int) -> int:
        """Return the exponent of the gradient of the output of layer `index`."""
        exponent = -(self.device.config.gradient_bits - 1)
        for shift in self._gradient_shifts[index + 1:]:
            exponent += WEIGHT_EXPONENT + shift
        return exponent

    def _rule(self, layer: Layer, epoch: int) -> Rule:
        """Return the shifts that make the step ``rate / batch * dW`` in master-weight units."""
        settings, epochs = self.settings, self.settings.epochs
        rate_log2 = settings.rate_log2 - (4 * epoch >= 2 * epochs) - (4 * epoch >= 3 * epochs)
        master_exponent = WEIGHT_EXPONENT - self.device.config.residue_bits
        gradient_exponent = self._x_exponent(layer.index) + self._d_exponent(layer.index)
        shift = (master_exponent - gradient_exponent - rate_log2
                 + ceil_log2(self.settings.batch))
        if not settings.momentum:
            return Rule(gradient_shift=min(max(shift, 0), 31))
        # The velocity sums to eight times its input.
        shift += 3
        rate_shift = min(VELOCITY_SHIFT, max(shift, 0))
        return Rule(gradient_shift=min(max(shift - rate_shift, 0), 31), momentum=True,
                    decay_shift=3, rate_shift=rate_shift)

    # A step.

    def _step(self, images, labels, epoch: int, *, first: bool) -> tuple[np.ndarray, int]:
        """Train on a batch; return its logits and the number of samples kept."""
        device, network, settings = self.device, self.network, self.settings
        steps = len(images)
        device.write(Region.LABEL, 0, labels)
        threshold = NEVER
        if settings.skip is not None:
            threshold = threshold_from_probability(settings.skip, self.logit_exponent)
        logits = self._forward(images, [network.confidence(steps, threshold)])
        kept = device.register(Register.KEPT)
        device.compare(Region.KEEP, 0, kept, "keep list")
        for layer in network.layers:
            self._macs["forward"] += steps * layer.inputs * layer.outputs
        if kept:
            keep = device.read(Region.KEEP, 0, kept).astype(np.int64)
            self._write_error(logits[keep], labels[keep])
            self._backward(kept, steps, epoch, measure=first and self._adaptive)
        if first:
            # Of this step everything was computed with the old scales.
            for layer in network.layers:
                self._adjust_forward(layer, steps)
        return logits, kept

    def _forward(self, images, after: Sequence[Descriptor] = ()) -> np.ndarray:
        """Run all layers, and descriptors `after` them; return the logits."""
        device, network = self.device, self.network
        steps = len(images)
        device.write(Region.ACTIVATION, network.layers[0].x_base, layout.matrix_words(
            device.config, Region.ACTIVATION, images, device.config.rows))
        device.run([*(self._forward_descriptor(layer, steps) for layer in network.layers), *after])
        for layer in network.layers:
            words = steps * layout.blocks_of(
                layer.outputs, device.config.columns, device.config.lane_count)
            device.compare(Region.ACTIVATION, layer.y_base, words,
                           f"layer {layer.index + 1} forward")
        last = network.layers[-1]
        return self._read_outputs(last, steps)

    def _forward_descriptor(self, layer: Layer, steps: int) -> Descriptor:
        return self.network.forward(
            layer, steps, shift=self._forward_shifts[layer.index], x_unsigned=True)

    def _write_error(self, logits, labels) -> None:
        """Write the error of the kept samples where the last layer's D is read."""
        device, last = self.device, self.network.layers[-1]
        random = low_half(self._error_bits.draw(logits.size)).reshape(logits.shape)
        error = loss.error(logits, labels, self.logit_exponent,
                           bits=device.config.gradient_bits, random=random)
        device.write(Region.GRADIENT, last.d_base, layout.matrix_words(
            device.config, Region.GRADIENT, error, device.config.columns))

    def _backward(self, kept: int, steps: int, epoch: int, *, measure: bool) -> None:
        """Run all layers from the last to the first, updates included."""
        device, network, config = self.device, self.network, self.device.config
        order = network.layers[::-1]
        program: list[Descriptor] = []
        for layer in order:
            if measure:
                # The layer after it has to leave D of this batch first.
                device.run(program)
                program = []
                self._pick_bits(layer, kept, steps, epoch)
            program.append(network.backward(
                layer, kept, steps, shift=self._gradient_shifts[layer.index], x_unsigned=True,
                bits=self.bits[layer.index], rule=self._rule(layer, epoch),
                schedule=self.settings.schedule))
        device.run(program)
        for layer in order:
            name = f"layer {layer.index + 1} backward"
            if layer.index:
                words = kept * layout.blocks_of(layer.inputs, config.rows, config.lane_count)
                device.compare(Region.GRADIENT, layer.dx_base, words, f"{name}, input gradient")
            for region in (Region.WEIGHT, Region.STATE):
                device.compare(region, layer.w_base, layer.w_rows, f"{name}, update")
            products = kept * layer.inputs * layer.outputs
            self._macs["backward"] += products * (2 if layer.index else 1)
        for layer in network.layers[1:]:
            self._adjust_gradient(layer, kept)

    def _pick_bits(self, layer: Layer, kept: int, steps: int, epoch: int) -> None:
        """Let the machine measure the angles of this batch and pick the layer's width."""
        start, end = self.settings.angles
        share = epoch / max(1, self.settings.epochs - 1)
        bound = bound_from_degrees(start + (end - start) * share)
        self.device.run(self.network.angles(layer, kept, steps, x_unsigned=True, bound=bound))
        self.bits[layer.index] = self.device.register(Register.BITS)
        self.device.compare_register(Register.BITS, f"layer {layer.index + 1} precision")

    def _read_outputs(self, layer: Layer, steps: int) -> np.ndarray:
        config = self.device.config
        words = steps * layout.blocks_of(layer.outputs, config.columns, config.lane_count)
        return layout.words_matrix(
            config, Region.ACTIVATION, self.device.read(Region.ACTIVATION, layer.y_base, words),
            steps, layer.outputs, signed=layer is self.network.layers[-1])

    def _adjust_forward(self, layer: Layer, steps: int) -> None:
        logits = layer is self.network.layers[-1]
        shift = better_shift(self._forward_shifts[layer.index], self._read_outputs(layer, steps), 8,
                             signed=logits)
        if logits:
            shift = max(shift, LOGIT_EXPONENT - WEIGHT_EXPONENT - self._x_exponent(layer.index))
        self._forward_shifts[layer.index] = min(max(shift, 0), 31)

    def _adjust_gradient(self, layer: Layer, kept: int) -> None:
        config = self.device.config
        words = kept * layout.blocks_of(layer.inputs, config.rows, config.lane_count)
        dx = layout.words_matrix(
            config, Region.GRADIENT, self.device.read(Region.GRADIENT, layer.dx_base, words),
            kept, layer.inputs)
        shift = better_shift(self._gradient_shifts[layer.index], dx, config.gradient_bits)
        self._gradient_shifts[layer.index] = min(max(shift, 0), 31)

    def _calibrate(self) -> None:
        """Find forward scales that fill the activations of the first images."""
        images = self.data.train_images[:self.settings.batch]
        for _ in range(64):
            before = list(self._forward_shifts)
            self._forward(images)
            for layer in self.network.layers:
                self._adjust_forward(layer, len(images))
                if self._forward_shifts != before:
                    break                                  # later layers see other inputs now
            if self._forward_shifts == before:
                return

    def _load_initial(self, layer: Layer) -> None:
        """Write random weights (He, 2015) and a velocity of zero."""
        config = self.device.config
        spread = np.sqrt(2.0 / layer.inputs) * 2.0 ** (config.residue_bits - WEIGHT_EXPONENT)
        drawn = self._random.normal(0.0, spread, (layer.inputs, layer.outputs))
        middle = 1 << config.residue_bits - 1
        master = saturate(np.rint(drawn) + middle, config.master_bits)
        weight, residue = split(layout.tile(config, master), config.residue_bits)
        for region, rows in ((Region.WEIGHT, weight), (Region.STATE, residue)):
            self.device.write(region, layer.w_base, layout.to_words(config, region, rows))
