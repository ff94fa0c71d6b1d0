"""What emulating the machine's integers costs: a training step of each network beside float32."""

import argparse
import time
from pathlib import Path

import numpy as np
from common import emit
from rich.console import Console
from rich.progress import track

from gradloom_golden.config import preset
from gradloom_host.graph import Shape
from gradloom_host.missing import require

NETWORKS = {
    "resnet20": (Shape(3, 32, 32), {}),
    "resnet20, no norm": (Shape(3, 32, 32), {"norm": "none"}),
    "vgg": (Shape(3, 32, 32), {}),
    "mlp": (Shape(1, 28, 28), {}),
}
SKIPPED = 0.76
SETTLING = 20
"""Steps before the clock starts, in which exponents settle."""

NOTE = (
    "Milliseconds of a training step on {threads} CPU thread(s), batch {batch}, PyTorch {torch}: "
    "the median of {repeats}, integer and float32 steps in turn, so that other work on the host "
    "meets both. Random images. float: forward, backward and update by PyTorch, channels first. "
    "skip: with {skipped:.0%} of the samples without gradient. ratio: integer over float.")


def main() -> None:
    """Print the table, and write it as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args()
    torch = require("torch", "study")
    torch.set_num_threads(options.threads)
    rows = [measure(torch, name, options) for name in track(
        NETWORKS, "networks", transient=True, console=Console(stderr=True))]
    emit("emulation", NOTE.format(
        threads=options.threads, batch=options.batch, torch=torch.__version__,
        repeats=options.repeats, skipped=SKIPPED), {"base": preset("base")}, rows, options.json)


def measure(torch, name: str, options) -> dict[str, object]:
    """Return a row of the table."""
    from gradloom_study import loss, networks  # noqa: PLC0415 - needs PyTorch
    from gradloom_study.draws import Generated  # noqa: PLC0415
    from gradloom_study.floating import FloatNetwork  # noqa: PLC0415
    from gradloom_study.step import Step  # noqa: PLC0415

    shape, changes = NETWORKS[name]
    spec = networks.NETWORKS[name.partition(",")[0]](shape, 10, **changes)
    integer, floating = networks.build(spec, 1), FloatNetwork(spec, 1)
    rng, draws = np.random.default_rng(1), Generated(1)
    images = torch.from_numpy(rng.integers(
        0, 256, (options.batch, shape.height, shape.width, shape.channels), dtype=np.uint8))
    labels = rng.integers(0, 10, options.batch)
    target = torch.from_numpy(labels)

    @torch.no_grad()
    def take(kept: int, *, update: bool = True) -> None:
        judged = loss.judge(integer(images, train=True), labels)
        keep = None if kept == options.batch else torch.arange(kept)
        error = loss.error(judged, np.arange(kept), draws)
        integer.backward(error, Step(batch=options.batch, draws=draws, keep=keep, update=update))
        integer.rescale()

    def take_float() -> None:
        losses = torch.nn.functional.cross_entropy(floating(images), target, reduction="none")
        floating.learn(losses, batch=options.batch, rate=4, momentum=3)

    for _ in range(SETTLING):
        take(options.batch, update=False)
    few = round((1 - SKIPPED) * options.batch)
    steps = {"integer": lambda: take(options.batch), "skip": lambda: take(few),
             "float": take_float}
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(options.repeats + 1):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[kind].append(time.perf_counter() - started)
    # The first of each also allocates.
    median = {kind: 1000 * float(np.median(some[1:])) for kind, some in seconds.items()}
    return {"network": name, "float": median["float"], "integer": median["integer"],
            "ratio": median["integer"] / median["float"], "skip": median["skip"],
            "skip ratio": median["skip"] / median["float"]}


if __name__ == "__main__":
    main()
