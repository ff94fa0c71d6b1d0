"""Runs the grid of a study: here, in several processes, or on a Dask cluster."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from gradloom_host.missing import require

from .config import Cell, Study
from .data import load
from .results import Folder, describe_machine
from .run import Run

__all__ = ["Progress", "run_cell", "run_study"]

POLL_SECONDS = 0.5

Progress = Callable[[str, float], None]
"""Is told the name of a run and the share of it that is done."""


def run_cell(cell: Cell, folder: Path, data_folder: Path | None, device: str = "cpu",
             threads: int = 0, progress: Callable[[float], None] = lambda done: None) -> str:
    """Run what is left of one cell, saving it after each epoch; return its name.

    Parameters
    ----------
    cell : Cell
    folder : path
        Of the results.
    data_folder : path or None
    device : str
    threads : int
        That PyTorch takes; 0 leaves it.
    progress : callable
        Is told the share that is done.
    """
    if threads:
        torch.set_num_threads(threads)
    results = Folder(folder)
    state = results.state(cell)
    rates: tuple[float, ...] = ()
    if cell.follows:
        rates = results.rates(_followed(cell))
    run = Run(cell, load(cell.study.data, data_folder), device, rates)
    if state is not None:
        run.restore(state)
    macs = run.spec.macs()
    forward = sum(macs.values())
    # The first layer has no input gradient.
    work = {"forward": forward, "backward": 2 * forward - macs[min(macs)]}
    machine = {**describe_machine(), "device": str(run.device), "threads": torch.get_num_threads()}
    for _ in run.run(progress):
        results.save(cell, run.state(), machine, epochs=run.epochs, work=work)
    return cell.name


def _followed(cell: Cell) -> Cell:
    [found] = [other for other in cell.study.cells if other.name == cell.follows]
    return found


def run_study(study: Study, folder: Path, data_folder: Path | None = None, *,
              processes: int = 1, devices: Sequence[str] = ("cpu",), threads: int = 0,
              scheduler: str | None = None, only: Sequence[str] = (),
              progress: Progress = lambda name, done: None) -> Path:
    """Run what is left of a study; return the path of the results file.

    Parameters
    ----------
    study : Study
    folder : path
        Of the results; workers of a cluster reach it by the same path.
    data_folder : path or None
        Of the data, likewise.
    processes : int
        At once; of one, the cells run in this process.
    devices : sequence of str
        PyTorch's names; cells take turns on them.
    threads : int
        That each process takes; 0 leaves it to PyTorch.
    scheduler : str, optional
        Address of a Dask scheduler, which runs the cells instead.
    only : sequence of str
        Names of policies to run; all by default.
    progress : callable

    Raises
    ------
    ValueError
        If `only` names no policy, or results were made with another configuration.
    """
    known = [policy.name for policy in study.policies]
    for name in only:
        if name not in known:
            raise ValueError(f"no policy is called {name!r}; choose from {', '.join(known)}")
    results = Folder(folder)
    left = []
    for cell in study.cells:
        results.state(cell)                                 # refuse it early
        if not only or cell.policy.name in only:
            left.append(cell)
    left = _open(left, results)
    load(study.data, data_folder)                           # before the runs, not in each
    settings = asdict(study)
    devices = list(devices)
    if scheduler is None and processes == 1:
        for cell in left:
            run_cell(cell, folder, data_folder, devices[0], threads,
                     lambda done, name=cell.name: progress(name, done))
            results.collect(study, settings)
        return results.collect(study, settings)
    with _pool(scheduler, processes) as pool:
        for _ in _spread(pool, left, results, progress, lambda cell, turn: (
                cell, folder, data_folder, devices[turn % len(devices)], threads)):
            results.collect(study, settings)
    return results.collect(study, settings)


def _open(cells: list[Cell], results: Folder) -> list[Cell]:
    """Return the cells that are not done, and refuse those that follow one that never will be."""
    names = {cell.name for cell in cells}
    for cell in cells:
        if cell.follows and cell.follows not in names and not results.is_done(_followed(cell)):
            raise ValueError(f"{cell.name} follows {cell.follows}: run that, too")
    return [cell for cell in cells if not results.is_done(cell)]


@contextmanager
def _pool(scheduler: str | None, processes: int) -> Iterator[Executor]:
    if scheduler is None:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            yield pool
        return
    distributed = require("distributed", "dask")
    with distributed.Client(scheduler) as client:
        yield client.get_executor(pure=False)


def _spread(pool: Executor, cells: list[Cell], results: Folder, progress: Progress,
            arguments: Callable[[Cell, int], tuple]) -> Iterator[str]:
    """Submit cells as soon as those that they follow are done; yield names as they finish."""
    waiting, running = list(cells), {}
    turn = 0
    while waiting or running:
        for cell in list(waiting):
            if not cell.follows or results.is_done(_followed(cell)):
                waiting.remove(cell)
                running[pool.submit(run_cell, *arguments(cell, turn))] = cell
                turn += 1
        finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for cell in running.values():
            known = results.records(cell)
            if known is not None:
                progress(cell.name, len(known["records"]) / known["epochs"])
        for future in finished:
            cell = running.pop(future)
            yield future.result()
            progress(cell.name, 1.0)
