"""How far the predicted angle of a cut gradient is off: diversity by pixels, and by samples."""

import argparse
from pathlib import Path

import numpy as np
from common import emit
from rich.console import Console
from rich.progress import track

from gradloom_golden.config import preset
from gradloom_host.missing import require

NETWORKS = ("resnet8", "resnet20", "mlp")
MEASURED_FROM = 10
"""The first step that is measured; exponents have settled by then."""

NOTE = (
    "Mean absolute error, degrees, of atan(sqrt(NSR GD)) against the angle between the gradients "
    "of 8-bit and of cut activations; {data}, {steps} steps of {batch}, all layers of every "
    "{every}th step from step {first} on. by pixels: GD of the outer products that a gradient is "
    "the sum of. by samples: of the gradients of samples, as usually defined; the same in an MLP. "
    "The fewer pixels images have, the less they differ.")


def main() -> None:
    """Print the table, and write it as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="digits", help="digits, fashion-mnist or cifar10")
    parser.add_argument("--data", type=Path, metavar="DIR",
                        help="folder of the images, where no package has them")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args()
    require("torch", "study").set_num_threads(options.threads)
    rows = [row for network in track(
        options.networks, "networks", transient=True, console=Console(stderr=True))
        for row in measured(network, options)]
    note = NOTE.format(data=options.images, steps=options.steps, batch=options.batch,
                       every=options.every, first=MEASURED_FROM)
    emit("predictor", note, {"base": preset("base")}, rows, options.json)


def measured(network: str, options) -> list[dict[str, object]]:
    """Return the rows of a network: one for each width."""
    import torch  # noqa: PLC0415 - `require` has said what is missing

    from gradloom_study import loss  # noqa: PLC0415
    from gradloom_study.data import load  # noqa: PLC0415
    from gradloom_study.draws import Generated  # noqa: PLC0415
    from gradloom_study.measure import measure  # noqa: PLC0415
    from gradloom_study.networks import NETWORKS as KINDS  # noqa: PLC0415
    from gradloom_study.networks import build  # noqa: PLC0415
    from gradloom_study.policies.precision import degrees  # noqa: PLC0415
    from gradloom_study.step import Step  # noqa: PLC0415

    data = load(options.images, options.data)
    integer = build(KINDS[network](data.shape, data.classes), 1)
    rng, draws = np.random.default_rng(1), Generated(1)
    errors: dict[int, list[tuple[float, float, float]]] = {4: [], 2: []}

    def watch(layer, x, d, largest):
        found = measure(layer, x, d, largest, step)
        if not found.diversity:
            return
        by_samples = diversity_by_samples(layer, x, d, largest) / found.diversity
        for bits, some in errors.items():
            angle = degrees(*found.dots[bits])
            tangent = np.tan(np.radians(found.predicted(bits))) * by_samples ** 0.5
            some.append((angle, found.predicted(bits) - angle,
                         np.degrees(np.arctan(tangent)) - angle))

    for number in range(options.steps):
        chosen = rng.choice(len(data.train_labels), options.batch, replace=False)
        images, labels = torch.from_numpy(data.train_images[chosen]), data.train_labels[chosen]
        watched = number >= MEASURED_FROM and number % options.every == 0
        for member in integer.weighted.values():
            member.watcher = watch if watched else None
        with torch.no_grad():
            judged = loss.judge(integer(images, train=True), labels)
            error = loss.error(judged, np.arange(options.batch), draws)
            step = Step(batch=options.batch, draws=draws, update=number >= MEASURED_FROM // 2)
            integer.backward(error, step)
            integer.rescale()
    rows = []
    for bits, some in errors.items():
        angles, by_pixels, by_samples = np.array(some).T
        rows.append({"network": network, "bits": bits, "layers": len(some), "angle": angles.mean(),
                     "by pixels": np.abs(by_pixels).mean(),
                     "by samples": np.abs(by_samples).mean()})
    return rows


def diversity_by_samples(layer, x, d, largest: int) -> float:
    """Return sum ||g_i||^2 / ||sum g_i||^2 over the samples."""
    gradients = [layer.gradient(x[i:i + 1], d[i:i + 1], largest) for i in range(len(x))]
    return sum(float(one.square().sum()) for one in gradients) / float(
        sum(gradients).square().sum())


if __name__ == "__main__":
    main()
