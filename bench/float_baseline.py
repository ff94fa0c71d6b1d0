"""Accuracy of the Fashion-MNIST network in float32, trained by PyTorch as the machine trains it.

What to hold `gradloom train fashion-mnist` against: the same network, first weights, order of
samples, batches, learning rate and momentum; only the arithmetic is another.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from common import emit
from rich.console import Console
from rich.progress import Progress

from gradloom_host.cnn import HALVINGS
from gradloom_host.graph import Conv, Linear
from gradloom_host.idx import IdxImages, load_idx
from gradloom_host.image_command import BATCH, MOMENTUM, NETWORK, RATE, SAMPLES
from gradloom_host.missing import require

NOTE = (
    "Fashion-MNIST in float32 with PyTorch {torch}: batches of {batch}, learning rate 2^-{rate} "
    "for the mean over a batch, halved after 1/2, 3/4 and 7/8 of the training, velocity keeps "
    "{kept}; biases take {bias} times the step, without velocity, as on the machine. First "
    "weights and order of samples are those of `gradloom train fashion-mnist --seed`. One "
    "training each; not tuned for float32.")


class Model:
    """The network as tensors, and the machine's rule for them.

    Parameters
    ----------
    torch : module
    rng : numpy Generator
        Draws the weights layer by layer, as `ImageTrainer` does.
    """

    def __init__(self, torch: Any, rng: np.random.Generator):
        self._torch = torch
        self._layers: list[tuple[Conv | Linear, Any, Any]] = []
        given = NETWORK.input
        for layer, shape in zip(NETWORK.layers, NETWORK.shapes()):
            assert isinstance(layer, Conv | Linear)
            taps = layer.taps if isinstance(layer, Conv) else (given.height, given.width)
            bound = math.sqrt((6 if layer.relu else 3 / 4) / (math.prod(taps) * given.channels))
            dense = rng.uniform(-bound, bound, (*taps, given.channels, shape.channels))
            weights = torch.tensor(dense.transpose(3, 2, 0, 1), dtype=torch.float32)
            if isinstance(layer, Linear):
                weights = weights.flatten(1)
            biases = torch.zeros(shape.channels) if layer.bias else None
            self._layers.append((layer, weights, biases))
            given = shape
        self._velocities = [torch.zeros_like(weights) for _, weights, _ in self._layers]
        for tensor in self._tensors():
            tensor.requires_grad_()

    def logits(self, images: Any) -> Any:
        """Return (N, 10) from images (N, 1, 28, 28)."""
        functional = self._torch.nn.functional
        x = images
        for layer, weights, biases in self._layers:
            if isinstance(layer, Conv):
                x = functional.conv2d(x, weights, biases, layer.stride, layer.padding)
            else:
                x = functional.linear(x.flatten(1), weights, biases)
            if layer.relu:
                x = x.relu()
        return x

    def step(self, images: Any, labels: Any, rate: int) -> None:
        """Train on a batch, with a learning rate of 2**-`rate`.

        The velocity holds steps, not gradients: what an earlier rate put there keeps its size.
        """
        loss = self._torch.nn.functional.cross_entropy(self.logits(images), labels)
        loss.backward()
        with self._torch.no_grad():
            for (_, weights, biases), velocity in zip(self._layers, self._velocities):
                velocity.mul_(1 - 2.0**-MOMENTUM).add_(weights.grad, alpha=2.0**-rate)
                weights.sub_(velocity)
                if biases is not None:
                    biases.sub_(biases.grad, alpha=2.0**(MOMENTUM - rate))
            for tensor in self._tensors():
                tensor.grad = None

    def _tensors(self):
        for _, weights, biases in self._layers:
            yield weights
            if biases is not None:
                yield biases


def accuracy(torch: Any, raw: IdxImages, seed: int, samples: int, epochs: int, progress) -> float:
    """Return the accuracy on the test set after training."""
    rng = np.random.default_rng(seed)
    model = Model(torch, rng)
    images, test_images = (torch.tensor(part[:, None] / np.float32(256))
                           for part in (raw.train_images, raw.test_images))
    labels, test_labels = (torch.tensor(part.astype(np.int64))
                           for part in (raw.train_labels, raw.test_labels))
    batches = samples // BATCH
    for epoch in range(epochs):
        order = rng.permutation(len(labels))[:samples]
        for batch in range(batches):
            done = (epoch + batch / batches) / epochs
            picked = order[batch * BATCH:(batch + 1) * BATCH]
            model.step(images[picked], labels[picked],
                       RATE + sum(done >= share for share in HALVINGS))
            progress(1 / (batches * epochs))
    with torch.no_grad():
        right = (model.logits(test_images).argmax(1) == test_labels).sum()
    return int(right) / len(test_labels)


def main() -> None:
    """Print the table, and write it as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the four IDX files")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    torch = require("torch", "torch")
    # Batches are too small to share among threads; one also makes sums reproducible.
    torch.set_num_threads(1)
    raw = load_idx(options.data)
    rows = []
    with Progress(transient=True, console=Console(stderr=True)) as shown:
        task = shown.add_task("training", total=len(options.seeds))
        for seed in options.seeds:
            found = accuracy(torch, raw, seed, options.samples, options.epochs,
                             lambda share: shown.advance(task, share))
            rows.append({"seed": str(seed), "samples": options.samples, "epochs": options.epochs,
                         "test %": f"{100 * found:.2f}"})
    note = NOTE.format(torch=torch.__version__, batch=BATCH, rate=RATE, bias=1 << MOMENTUM,
                       kept=f"{(1 << MOMENTUM) - 1}/{1 << MOMENTUM}")
    emit("float baseline", note, {}, rows, options.json)


if __name__ == "__main__":
    main()
