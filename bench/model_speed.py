"""Time of the cost model: whole networks under all schedules, and a sweep of 10,000 points."""

import os
import time
from collections.abc import Callable

from common import arguments, emit

from gradloom_model.assumptions import Assumptions
from gradloom_model.estimate import BEST, estimate
from gradloom_model.geometry import geometry
from gradloom_model.readers.csv_reader import load
from gradloom_model.schedules import SCHEDULES
from gradloom_model.sweep import grid, sweep

LIMITS = {"resnet50": 0.05, "densenet264": 0.1, "sweep": 60.0}
"""Seconds that the project allows itself."""

REPEATS = 5
POINTS = 10_000

NOTE = (
    f"{len(SCHEDULES) + 1} schedules of a training step, DRAM traffic and stalls included, after "
    "import; the shapes of the network are computed anew. first: of the process. best: of "
    f"{REPEATS} more. wall: seconds on a clock; cpu: of this process. limit: seconds that the "
    "project allows itself. The sweep has five networks, all schedules, arrays, batches and skip "
    "rates. Other hosts give other times.")


def timed(job: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and processor seconds of a job."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(name: str, limit: float, job: Callable[[], object], repeats: int) -> dict:
    """Return the times of a job beside its limit."""
    first = timed(job)
    best = min((timed(job) for _ in range(repeats)), default=first)
    return {"what": name, "first, wall": first[0], "first, cpu": first[1], "best, wall": best[0],
            "limit": limit, "first wall to limit": first[0] / limit}


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    rows = []
    for name in ("resnet50", "densenet264"):
        network = load(name)

        def job(network=network) -> None:
            geometry.cache_clear()
            estimate(network)

        rows.append(row(f"{name}, {len(network.layers)} layers", LIMITS[name], job, REPEATS))
    networks = [load(name) for name in
                ("resnet50", "resnet18", "vgg16", "mobilenet_v1", "inception_v4")]
    points = list(grid(
        networks, [*SCHEDULES, BEST], Assumptions(), batch=[1, 4, 16, 64, 256],
        array=[(edge, edge) for edge in (8, 16, 24, 32, 48, 64, 128, 256)],
        skip=[0.0, 0.25, 0.5, 0.7583, 0.9]))[:POINTS]
    rows.append(row(f"sweep of {len(points):,} points", LIMITS["sweep"], lambda: sweep(points), 0))
    emit("model_speed", f"{NOTE} {os.cpu_count()} cores.", {}, rows, options.json)


if __name__ == "__main__":
    main()
