"""What each idea saves in training a CNN: the same RTL, one lever after the other.

Run with ``--warmup`` samples first, since only a network that has learned something skips.
"""

import argparse
from pathlib import Path

import numpy as np
from common import emit

from gradloom_golden.config import preset
from gradloom_golden.program import Schedule
from gradloom_host.cnn import ImageData, ImageTrainer, memory_needed
from gradloom_host.compiler import Policy, compile_network
from gradloom_host.idx import load_idx
from gradloom_host.image_command import BATCH, MOMENTUM, NETWORK, RATE
from gradloom_host.system import System

WORDS = {
    "X": ("x_reads", "image_reads", "packed_reads"),
    "D": ("d_reads",),
    "W": ("weight_reads", "weight_writes"),
    "state": ("state_reads", "state_writes"),
    "sums": ("sum_reads", "sum_writes"),
    "Y, dX": ("y_writes", "dx_writes"),
    "bus": ("load_words", "save_words"),
}

LEVERS = (
    ("sequential", {"schedule": Schedule.SEQUENTIAL, "fused": False}),
    ("interleaved", {"fused": False}),
    ("+ skip", {"fused": False, "threshold": round(0.95 * 65536)}),
    ("+ 2-bit lanes", {"fused": False, "threshold": round(0.95 * 65536), "lanes": (4,)}),
    ("+ fused update", {"threshold": round(0.95 * 65536), "lanes": (4,)}),
)


def main() -> None:
    """Print the table, and write it as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--warmup", type=int, default=3200, metavar="SAMPLES")
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    config = preset(options.preset)
    raw = load_idx()
    count = options.warmup + options.samples
    data = ImageData(
        train_images=raw.train_images[:count, ..., None],
        train_labels=raw.train_labels[:count].astype(np.int64),
        test_images=raw.test_images[:BATCH, ..., None],
        test_labels=raw.test_labels[:BATCH].astype(np.int64))
    rows = []
    first = 0
    for name, changes in LEVERS:
        policy = Policy(rate=RATE, momentum=MOMENTUM, **changes)
        system = System(config, memory_bytes=memory_needed(
            data, compile_network(config, NETWORK, BATCH)))
        trainer = ImageTrainer(system, NETWORK, data, policy, batch=BATCH, halves=False)
        trainer.policy = Policy(rate=RATE, momentum=MOMENTUM)
        if options.warmup:
            list(trainer.epochs(1, samples=options.warmup))
        trainer.policy = policy
        [epoch] = trainer.epochs(1, samples=options.samples)
        system.close()
        first = first or epoch.cycles
        words = {operand: sum(epoch.counters[counter] for counter in counters)
                 for operand, counters in WORDS.items()}
        rows.append({"schedule": name, "cycles": epoch.cycles,
                     "ratio": round(first / epoch.cycles, 2),
                     "skipped %": round(100 * epoch.skipped, 1), **words})
    note = (f"{options.samples} samples in batches of {BATCH}, after {options.warmup} of training; "
            "3x3/2 conv 16, 2x2/2 conv 16, fully connected 10; cycles from start to interrupt, "
            "memory with 20 cycles latency; operands in buffer words, bus in words moved by loads "
            "and saves. Not a comparison at equal area.")
    emit("levers", note, {options.preset: config}, rows, options.json)


if __name__ == "__main__":
    main()
