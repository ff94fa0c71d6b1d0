"""What each idea saves in training a CNN: the same RTL, one lever after the other.

The network is trained first, since only one that has learned something skips. Each lever then runs
the same samples from the same state.
"""

import argparse
import multiprocessing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from common import emit
from rich.console import Console
from rich.progress import Progress

from gradloom_golden.config import preset
from gradloom_golden.program import Schedule
from gradloom_host.cnn import Epoch, ImageData, ImageTrainer, memory_needed
from gradloom_host.idx import load_idx
from gradloom_host.image_command import BATCH, MOMENTUM, NETWORK, RATE, STEPS_A_LIST
from gradloom_host.resident import Resident
from gradloom_host.system import System
from gradloom_host.tensors import Policy

PROBABILITY = 0.95
"""Samples whose label has at least this one are skipped."""

WORDS = {
    "X": ("x_reads", "image_reads", "packed_reads", "packed_writes"),
    "D": ("d_reads",),
    "W": ("weight_reads", "weight_writes"),
    "state": ("state_reads", "state_writes"),
    "sums": ("sum_reads", "sum_writes"),
    "Y, dX": ("y_writes", "dx_writes", "mask_reads"),
    "bus": ("load_words", "save_words"),
}
"""Counters of buffer words by operand; the bus moves words of its own."""

PLAIN = Policy(rate=RATE, momentum=MOMENTUM)
_APART = replace(PLAIN, fused=False)
_SKIP = replace(_APART, threshold=round(PROBABILITY * 65536))
_LANES = replace(_SKIP, lanes=(4,))

LEVERS = {
    "sequential": replace(_APART, schedule=Schedule.SEQUENTIAL),
    "interleaved": _APART,
    "+ skip": _SKIP,
    "+ 2-bit lanes": _LANES,
    "+ fused update": replace(_LANES, fused=True),
}

NOTE = (
    "Training on Fashion-MNIST in batches of {batch}: 3x3/2 conv 16, 2x2/2 conv 16, fully "
    "connected 10. All columns are a sample's, forward pass and loss included, the mean of "
    "{samples} after {warmup} of training; skipped are those whose label has a probability of "
    "{share} or more. cycles: from start to interrupt, memory with 20 cycles latency; ratio: of "
    "the first row's over them. Operands in buffer words (of as many elements as the array has "
    "rows), reads and writes; bus: such words moved by loads and saves. Each row is the one above "
    "plus one idea, on the same machine. Not a comparison at equal area, nor of accuracy.")


def trained(options: argparse.Namespace) -> ImageTrainer:
    """Return a trainer whose network has learned from `warmup` samples."""
    raw = load_idx(options.data)
    config = preset(options.preset)
    count = options.warmup + options.samples
    data = ImageData(
        train_images=raw.train_images[:count, ..., None],
        train_labels=raw.train_labels[:count].astype(np.int64),
        test_images=raw.test_images[:BATCH, ..., None],
        test_labels=raw.test_labels[:BATCH].astype(np.int64))
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("compiling the machine", total=None)
        plan = Resident(config, NETWORK, BATCH)
        system = System(config, check=options.check, memory_bytes=memory_needed(data, plan))
        trainer = ImageTrainer(system, plan, data, PLAIN, halves=False)
        progress.update(task, description="training first", total=1.0)
        if options.warmup:
            list(trainer.epochs(1, samples=options.warmup, steps_a_list=STEPS_A_LIST,
                                progress=lambda share: progress.update(task, completed=share)))
    return trainer


def _train_on(trainer: ImageTrainer, name: str, policy: Policy, samples: int,
              answer: Connection) -> None:
    trainer.policy = policy
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=1.0)
        [epoch] = trainer.epochs(
            1, samples=samples, steps_a_list=STEPS_A_LIST,
            progress=lambda share: progress.update(task, completed=share))
    answer.send(epoch)


def measured(trainer: ImageTrainer, name: str, policy: Policy, samples: int) -> Epoch:
    """Return what training on gives; the trainer and its machine stay as they are.

    A forked process has the machine as it stands, down to its random numbers, so that every lever
    starts from the same.
    """
    fork = multiprocessing.get_context("fork")
    found, answer = fork.Pipe(duplex=False)
    process = fork.Process(target=_train_on, args=(trainer, name, policy, samples, answer))
    process.start()
    answer.close()
    try:
        return found.recv()
    except EOFError:
        raise RuntimeError(f"the run of {name!r} ended with the error above") from None
    finally:
        process.join()


def row(name: str, epoch: Epoch, first: Epoch, samples: int) -> dict[str, str | float]:
    """Return the columns of a lever; `first` is what its cycles are compared with."""
    words = {operand: round(sum(epoch.counters[counter] for counter in counters) / samples)
             for operand, counters in WORDS.items()}
    return {"schedule": name, "skipped %": round(100 * epoch.skipped, 1),
            "cycles": round(epoch.cycles / samples),
            "ratio": round(first.cycles / epoch.cycles, 2), **words}


def main() -> None:
    """Print the table, and write it as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the four IDX files")
    parser.add_argument("--warmup", type=int, default=9600, metavar="SAMPLES")
    parser.add_argument("--samples", type=int, default=960)
    parser.add_argument("--check", action="store_true",
                        help="compare with the golden model, which is slower")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    trainer = trained(options)
    found = [measured(trainer, name, policy, options.samples) for name, policy in LEVERS.items()]
    config = trainer.system.config
    trainer.system.close()
    rows = [row(name, epoch, found[0], options.samples) for name, epoch in zip(LEVERS, found)]
    note = NOTE.format(batch=BATCH, samples=options.samples, warmup=options.warmup,
                       share=PROBABILITY)
    emit("levers", note, {options.preset: config}, rows, options.json)


if __name__ == "__main__":
    main()
