"""Runs the grid of a study: here, in several processes, or on a Dask cluster."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
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
    rates = results.rates(cell.follows) if cell.follows else ()
    run = Run(cell, load(cell.study.data, data_folder), device, rates)
    macs = run.spec.macs()
    forward = sum(macs.values())
    # The first layer has no input gradient.
    work = {"forward": forward, "backward": 2 * forward - macs[min(macs)]}
    machine = {**describe_machine(), "device": str(run.device), "threads": torch.get_num_threads()}
    if state is not None:
        run.restore(state)
        # A kill between the two may have left the record an epoch behind.
        results.record(cell, run.records, machine, epochs=run.epochs, work=work)
    for _ in run.run(progress):
        results.save(cell, run.state(), machine, epochs=run.epochs, work=work)
    return cell.name


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
        If `only` names no policy, a device cannot be used, results were made with another
        configuration, or another run is writing them.
    OSError
        If results cannot be written.
    """
    known = [policy.name for policy in study.policies]
    for name in only:
        if name not in known:
            raise ValueError(f"no policy is called {name!r}; choose from {', '.join(known)}")
    if scheduler is None:
        for device in devices:
            _check_usable(device)
    results = Folder(folder)
    with results.opened(study):
        cells = [cell for cell in study.cells if not only or cell.policy.name in only]
        left = _open(cells, results)
        load(study.data, data_folder)                       # before the runs, not in each

        def arguments(cell: Cell, turn: int) -> tuple:
            return cell, folder, data_folder, devices[turn % len(devices)], threads

        try:
            if scheduler is None and processes == 1:
                for turn, cell in enumerate(left):
                    run_cell(*arguments(cell, turn),
                             progress=lambda done, name=cell.name: progress(name, done))
                    results.collect(study)
            else:
                with _pool(scheduler, processes) as (pool, places):
                    for _ in _spread(pool, places, left, results, progress, arguments):
                        results.collect(study)
        finally:
            found = results.collect(study)
        return found


def _check_usable(device: str) -> None:
    try:
        usable = float(torch.ones(2, device=device).sum()) == 2
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"PyTorch cannot compute on {device!r} here ({first}): choose another "
                         "--device, or none for the CPU") from error
    assert usable


def _open(cells: list[Cell], results: Folder) -> list[Cell]:
    """Return the cells that are not done, and refuse those that follow one that never will be."""
    names = {cell.name for cell in cells}
    for cell in cells:
        results.state(cell)                                 # refuse it before anything is run
        if cell.follows and cell.follows.name not in names and not results.is_done(cell.follows):
            raise ValueError(f"{cell.name} follows {cell.follows.name}: run that, too")
    return [cell for cell in cells if not results.is_done(cell)]


@contextmanager
def _pool(scheduler: str | None, processes: int) -> Iterator[tuple[Executor, int]]:
    """Give an executor and how many cells it runs at once.

    Whatever happens, no process here goes on after; what a cluster has begun, it ends.
    """
    if scheduler is None:
        before = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context,
                                 initializer=_end_with_parent) as pool:
            try:
                yield pool, processes
            except BaseException:
                for child in set(multiprocessing.active_children()) - before:
                    child.terminate()
                raise
        return
    distributed = require("distributed", "dask")
    with distributed.Client(scheduler) as client:
        yield client.get_executor(pure=False), max(1, sum(client.nthreads().values()))


def _end_with_parent() -> None:
    """Let this process end when its parent does, even if that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_it():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


def _spread(pool: Executor, places: int, cells: list[Cell], results: Folder, progress: Progress,
            arguments: Callable[[Cell, int], tuple]) -> Iterator[str]:
    """Run `places` cells at once, each after that which it follows; yield names as they finish.

    None is submitted before it can begin: of those that can, the first of the study comes next.
    """
    waiting, running = list(cells), {}
    turn = 0
    while waiting or running:
        ready = [cell for cell in waiting if not cell.follows or results.is_done(cell.follows)]
        for cell in ready[:places - len(running)]:
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
