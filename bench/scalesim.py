"""Cycles of forward products and convolutions beside the real SCALE-Sim's, and both run times."""

import argparse
import csv
import json
import math
import random
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import emit

from gradloom_model import passes
from gradloom_model.assumptions import Assumptions
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.work import Products

DATA = Path(__file__).parent / "data" / "scalesim"
ENVIRONMENT = Path("build") / "scalesim"
REQUIREMENTS = ("scalesim==3.0.0", "numpy==2.2.6")
ARRAY = 32
QUOTED = ((256, 128, 256), (512, 64, 288), (784, 64, 147))
"""M, N, K of products with known cycles."""

RANDOM = 20
REPEATS = 20
LAYERS = ("Conv3_s", "Conv4_s", "Conv5_s")
"""Of ResNet-18: what SCALE-Sim is timed on."""

NOTE = (
    "Forward passes, batch 1, every layer after im2col; all cycles agree, or this fails. "
    "SCALE-Sim's: its Total Cycles and one more a layer, for it prints the last one's index. "
    "Ours: serial folds, no drain of output-stationary tiles, no limit to rows, nothing between. "
    "SCALE-Sim has no padding and rounds sizes of outputs up; both do here. Seconds are CPU time "
    "of one process each, in the same run, imports left out; ours is the mean of repetitions from "
    "the layers on. The last row is ResNet-18 whole for us; SCALE-Sim's time is extrapolated from "
    f"its seconds a cycle on {', '.join(LAYERS)}, and was not run.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run: layers as SCALE-Sim writes them, on an array in a dataflow."""

    name: str
    rows: int
    columns: int
    dataflow: str
    layers: Sequence[Sequence]

    @property
    def network(self) -> Network:
        """The layers as ours."""
        return Network(self.name, [_layer(*layer) for layer in self.layers])


def _layer(name: str, height: int, width: int, down: int, across: int, channels: int, filters: int,
           stride: int) -> Layer:
    # Rows and columns that they round up to reach beyond the image.
    below, right = (
        math.ceil((size - taps) / stride) * stride + taps - size
        for size, taps in ((height, down), (width, across)))
    return Layer(name=name, outputs=filters, inputs=channels, kernel=(down, across),
                 stride=(stride, stride), padding=(0, 0, below, right), size=(height, width))


def topology(name: str) -> list[list]:
    """Return the layers of a table of SCALE-Sim: a name and seven numbers."""
    with (DATA / f"{name}.csv").open() as file:
        rows = [row for row in csv.reader(file) if row][1:]
    return [[row[0].strip(), *map(int, row[1:8])] for row in rows]


def jobs() -> list[Job]:
    """Return what both run: products, then networks."""
    draw, found = random.Random(1), []
    sizes = [(f"{m} x {n} x {k}", ARRAY, ARRAY, m, n, k) for m, n, k in QUOTED]
    for _ in range(RANDOM):
        m, n, k = (draw.randint(1, 200) for _ in range(3))
        sizes.append((f"{m} x {n} x {k}", draw.randint(8, 64), draw.randint(8, 64), m, n, k))
    for dataflow in ("ws", "os"):
        found += [
            Job(name=name, rows=rows, columns=columns, dataflow=dataflow,
                layers=[[name.replace(" ", ""), m, k, 1, k, 1, n, 1]])
            for name, rows, columns, m, n, k in sizes]
        found.append(Job(name="vww", rows=ARRAY, columns=ARRAY, dataflow=dataflow,
                         layers=topology("vww")))
    layers = [layer for layer in topology("Resnet18") if layer[0] in LAYERS]
    return [*found, Job(name="3 of ResNet-18", rows=ARRAY, columns=ARRAY, dataflow="ws",
                        layers=layers)]


def ours(job: Job) -> tuple[list[int], float]:
    """Return the cycles of each layer and mean CPU seconds."""
    a = Assumptions(rows=job.rows, columns=job.columns, batch=1, folds="serial", os_drain=False,
                    taps="always", steps=None, lookup=0)
    cycles, start = [], time.process_time()
    for _ in range(REPEATS):
        geometry.cache_clear()
        products = Products(geometry(job.network), a)
        work = products.still(np.asarray(a.batch))
        forward = passes.ws_forward if job.dataflow == "ws" else passes.os_forward
        cycles = [int(value) for value in forward(work, a, a.folds)["cycles"]]
    return cycles, (time.process_time() - start) / REPEATS


def theirs(python: Path, todo: Sequence[Job]) -> dict:
    """Return what SCALE-Sim says of all jobs."""
    wanted = [{"rows": job.rows, "columns": job.columns, "dataflow": job.dataflow,
               "layers": job.layers} for job in todo]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        # -P: this folder has a file called scalesim, too.
        subprocess.run(
            [python, "-P", Path(__file__).with_name("scalesim_peer.py"), answer],
            input=json.dumps(wanted), text=True, check=True, stderr=subprocess.PIPE)
        return json.loads(answer.read_text())


def environment() -> Path:
    """Return the interpreter of an environment with SCALE-Sim, made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"Installing {', '.join(REQUIREMENTS)} in {ENVIRONMENT}", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    return python


def row(job: Job, found: dict) -> dict:
    """Return a line of the table.

    Raises
    ------
    RuntimeError
        If the cycles of a layer differ.
    """
    cycles, seconds = ours(job)
    expected = [cycle + 1 for cycle in found["cycles"]]
    for layer, mine, peers in zip(job.layers, cycles, expected, strict=True):
        if mine != peers:
            raise RuntimeError(f"{layer} on {job.rows}x{job.columns} {job.dataflow}: SCALE-Sim "
                               f"needs {peers} cycles, the model says {mine}")
    return {"M x N x K, or layers": job.name, "array": f"{job.rows}x{job.columns}",
            "stationary": job.dataflow, "SCALE-Sim": sum(expected), "ours": sum(cycles),
            "its s": found["seconds"], "our ms": 1000 * seconds,
            "ratio": found["seconds"] / seconds}


def whole(measured: dict) -> dict:
    """Return the line of all of ResNet-18, SCALE-Sim's time extrapolated by cycles."""
    job = Job(name="ResNet-18, extrapolated", rows=ARRAY, columns=ARRAY, dataflow="ws",
              layers=topology("Resnet18"))
    cycles, seconds = ours(job)
    guess = measured["its s"] / measured["SCALE-Sim"] * sum(cycles)
    return {**measured, "M x N x K, or layers": job.name, "SCALE-Sim": None, "ours": sum(cycles),
            "its s": guess, "our ms": 1000 * seconds, "ratio": guess / seconds}




def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--python", type=Path, metavar="FILE",
                        help=f"interpreter that has {' and '.join(REQUIREMENTS)}; else one is made "
                        f"in {ENVIRONMENT}")
    options = parser.parse_args()
    todo = jobs()
    answer = theirs(options.python or environment(), todo)
    rows = [row(job, found) for job, found in zip(todo, answer["jobs"], strict=True)]
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    emit("scalesim", f"{NOTE} SCALE-Sim ran with {versions}.", {}, [*rows, whole(rows[-1])],
         options.json)


if __name__ == "__main__":
    main()
