"""Where the runs of a study lie: a checkpoint and a record a run, and one file with all of them."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradloom_host.files import write_file

from .config import Cell, Study

__all__ = ["Folder", "describe_machine", "load_results"]

RESULTS = "results.json"


def describe_machine() -> dict[str, Any]:
    """Return what runs were made on: processor and versions, no names or paths."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                  if line.startswith("model name")]
        name = models[0] if models else name
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"processor": name, "gpus": gpus, "python": platform.python_version(),
            "torch": torch.__version__, "numpy": np.__version__}


class Folder:
    """The folder of a study's results.

    Every file appears whole or not at all, so that a kill loses no epoch that was finished.

    Parameters
    ----------
    path : path
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def _checkpoint(self, cell: Cell) -> Path:
        return self.path / "cells" / f"{cell.name}.pt"

    def _record(self, cell: Cell) -> Path:
        return self.path / "cells" / f"{cell.name}.json"

    def save(self, cell: Cell, state: dict[str, Any], machine: dict[str, Any], *,
             epochs: int, work: dict[str, int]) -> None:
        """Save a run after an epoch: first its state, then what is known of it.

        Parameters
        ----------
        cell : Cell
        state : dict
            Of `Run.state`.
        machine : dict
            Of `describe_machine`.
        epochs : int
            Of the whole run.
        work : dict
            Multiplications of a sample: "forward", "backward".
        """
        target = self._checkpoint(cell)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".pt.part")
        torch.save({"fingerprint": cell.fingerprint(), "state": state}, part)
        part.replace(target)
        record = {
            "cell": cell.name, "network": cell.network, "policy": cell.policy.name,
            "seed": cell.seed, "fingerprint": cell.fingerprint(), "epochs": epochs,
            "machine": machine, "work": work, "records": state["records"]}
        write_file(self._record(cell), json.dumps(record) + "\n")

    def state(self, cell: Cell) -> dict[str, Any] | None:
        """Return the state of a run, or None if it was not begun.

        Raises
        ------
        ValueError
            If it was begun with another configuration.
        """
        path = self._checkpoint(cell)
        if not path.is_file():
            return None
        saved = torch.load(path, weights_only=False, map_location="cpu")
        if saved["fingerprint"] != cell.fingerprint():
            raise ValueError(
                f"{path} was made with another configuration: choose another folder with -o, or "
                "remove it")
        return saved["state"]

    def records(self, cell: Cell) -> dict[str, Any] | None:
        """Return what is known of a run, or None if no epoch is finished."""
        path = self._record(cell)
        return json.loads(path.read_text()) if path.is_file() else None

    def is_done(self, cell: Cell) -> bool:
        """Return whether all epochs of a run of this configuration are finished."""
        found = self.records(cell)
        return (found is not None and found["fingerprint"] == cell.fingerprint()
                and len(found["records"]) >= found["epochs"])

    def rates(self, cell: Cell) -> tuple[float, ...]:
        """Return the shares of samples that got no gradient in a finished run, by epoch."""
        found = self.records(cell)
        assert found is not None
        return tuple(1 - record["kept"] / record["full"] for record in found["records"])

    def collect(self, study: Study, settings: dict[str, Any]) -> Path:
        """Write the one file with all that is known of a study, and return its path."""
        runs = [found for cell in study.cells if (found := self.records(cell)) is not None]
        target = self.path / RESULTS
        write_file(target, json.dumps(
            {"study": study.name, "settings": settings, "runs": runs}, indent=1) + "\n")
        return target


def load_results(path: Path) -> dict[str, Any]:
    """Return the contents of a results file, given it or its folder.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is something else.
    """
    path = Path(path)
    if path.is_dir():
        path /= RESULTS
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no results {path}: run 'gradloom study CONFIG.toml -o DIR' first")
    try:
        content = json.loads(path.read_text())
        if not content["runs"]:
            raise ValueError(f"{path} holds no finished epoch yet: wait for the first")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no results of a study ({error!r})") from None
    return content
