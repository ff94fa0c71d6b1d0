"""Train a small convolutional network in PyTorch, with its products on a GradLoom machine.

scikit-learn's handwritten digits, 8x8 pixels, stand in for MNIST. Run it with
``pip install 'gradloom[train,torch]'`` and ``python examples/pytorch_mnist_like.py --help``.
"""

import argparse

import torch
from torch import nn

from gradloom_golden.config import PRESETS
from gradloom_host import Device
from gradloom_host.device import BACKENDS
from gradloom_host.digits import digits
from gradloom_host.torch_bridge import Conv2d, Linear


def main() -> None:
    """Train, and print loss and accuracy after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="golden",
                        help="rtl: the generated Verilog, simulated; golden: its NumPy model")
    parser.add_argument("--preset", choices=PRESETS, default="base")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, help="train on so many of the 1,437 images")
    options = parser.parse_args()

    torch.manual_seed(0)
    data = digits()
    images, test_images = (
        torch.tensor(part / 256, dtype=torch.float32).reshape(-1, 1, 8, 8)[:options.samples]
        for part in (data.train_images, data.test_images))
    labels, test_labels = (torch.tensor(part)[:options.samples]
                           for part in (data.train_labels, data.test_labels))

    device = Device(PRESETS[options.preset], options.backend)
    model = nn.Sequential(
        Conv2d(1, 8, 3, padding=1, device=device), nn.ReLU(), nn.MaxPool2d(2),
        Conv2d(8, 16, 3, padding=1, device=device), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), Linear(64, 10, device=device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    for epoch in range(options.epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        with torch.no_grad():
            correct = (model(test_images).argmax(dim=1) == test_labels).float().mean()
        print(f"epoch {epoch + 1}: loss {total / len(images):.3f}, test accuracy {correct:.1%}")
    counters = device.counters
    print(f"the machine took {counters['cycles']:,} cycles for {counters['macs']:,} MACs")
    device.close()


if __name__ == "__main__":
    main()
