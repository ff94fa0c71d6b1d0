"""Where the runs of a study lie: a checkpoint and a record a run, and one file with all of them."""

import fcntl
import io
import json
import pickle
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradloom_host.files import write_file
from gradloom_host.report import tool_versions

from .config import VERSION, Cell, Study

__all__ = ["Folder", "describe_machine", "load_results"]

RESULTS = "results.json"
SETTINGS = {"batch", "data", "epochs", "networks", "policies", "seeds"}
RUN = {"cell", "epochs", "machine", "network", "policy", "records", "seed", "work"}
RECORD = {"angles", "bits", "epoch", "full", "kept", "samples", "test_accuracy"}
"""What settings, a run and the record of an epoch have at least."""


def describe_machine() -> dict[str, Any]:
    """Return what runs were made on: processor and versions, no names or paths."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                  if line.startswith("model name")]
        name = models[0] if models else name
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = tool_versions()
    return {"processor": name, "gpus": gpus, "python": platform.python_version(),
            "torch": torch.__version__, "numpy": np.__version__,
            "gradloom": versions.get("gradloom", "not installed")}


class Folder:
    """The folder of a study's results.

    Every file appears whole or not at all, so that a kill loses no epoch that was finished.

    Parameters
    ----------
    path : path
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._cells = self.path / "cells"

    def _checkpoint(self, cell: Cell) -> Path:
        return self._cells / f"{cell.name}.pt"

    def _record(self, cell: Cell) -> Path:
        return self._cells / f"{cell.name}.json"

    @contextmanager
    def opened(self, study: Study) -> Iterator[None]:
        """Hold the folder for a study, alone.

        Raises
        ------
        OSError
            If nothing can be written there.
        ValueError
            If somebody else holds it, or it has results of another configuration.
        """
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
            if (self.path / RESULTS).is_dir():
                raise IsADirectoryError(0, f"{RESULTS} is a folder")
            # The lock goes with the process that holds it, however that ends.
            lock = (self._cells / ".lock").open("w")
        except OSError as error:
            raise OSError(f"cannot keep results in {self.path} ({error.strerror}): choose another "
                          "folder with -o") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"another run keeps its results in {self.path}: wait for it, or "
                                 "choose another folder with -o") from None
            self._adopt()
            self._check(study)
            yield

    def _adopt(self) -> None:
        """Take over the runs of a results file that came without them, such as a published one."""
        path = self.path / RESULTS
        for run in _read(path, {"runs"})["runs"] if path.is_file() else ():
            _need(path, run, RUN | {"fingerprint"})
            known = self._cells / f"{run['cell']}.json"
            if known.parent != self._cells:
                raise ValueError(f"{path} has a run called {run['cell']!r}, no file's name")
            if not known.exists():
                write_file(known, json.dumps(run) + "\n")

    def _check(self, study: Study) -> None:
        other = (f"{self.path} has results of another configuration{{}}: choose another folder "
                 "with -o, or remove them")
        known = self._known_settings()
        if known and {name: known.get(name) for name in study.common()} != study.common():
            raise ValueError(other.format(""))
        for record in self._records():
            cell = study.cell(record["network"], record["policy"], record["seed"])
            if cell is not None and record["fingerprint"] != cell.fingerprint():
                raise ValueError(other.format(f" of {cell.name}"))

    def _known_settings(self) -> dict[str, Any]:
        path = self.path / RESULTS
        return _read(path, SETTINGS, "settings") if path.is_file() else {}

    def _records(self) -> list[dict[str, Any]]:
        """Return all that is known of all runs."""
        return [_read(path, RUN | {"fingerprint"}) for path in sorted(self._cells.glob("*.json"))]

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
        content = io.BytesIO()
        torch.save({"fingerprint": cell.fingerprint(), "state": state}, content)
        write_file(self._checkpoint(cell), content.getvalue())
        self.record(cell, state["records"], machine, epochs=epochs, work=work)

    def record(self, cell: Cell, records: list[dict[str, Any]], machine: dict[str, Any], *,
               epochs: int, work: dict[str, int]) -> None:
        """Write what is known of a run; parameters are as of `save`."""
        found = {
            "cell": cell.name, "network": cell.network, "policy": cell.policy.name,
            "seed": cell.seed, "fingerprint": cell.fingerprint(), "version": VERSION,
            "epochs": epochs, "machine": machine, "work": work, "records": records}
        write_file(self._record(cell), json.dumps(found) + "\n")

    def state(self, cell: Cell) -> dict[str, Any] | None:
        """Return the state of a run, or None if it was not begun.

        Raises
        ------
        ValueError
            If it was begun with another configuration, or is damaged.
        """
        path = self._checkpoint(cell)
        if not path.is_file():
            return None
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            fingerprint, state = saved["fingerprint"], saved["state"]
        except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError,
                ValueError) as error:
            raise ValueError(f"{path} is damaged ({type(error).__name__}): remove it, and its run "
                             "begins again") from error
        if fingerprint != cell.fingerprint():
            raise ValueError(
                f"{path} was made with another configuration: choose another folder with -o, or "
                "remove it")
        return state

    def records(self, cell: Cell) -> dict[str, Any] | None:
        """Return what is known of a run, or None if no epoch is finished.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        path = self._record(cell)
        return _read(path, RUN | {"fingerprint"}) if path.is_file() else None

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

    def collect(self, study: Study) -> Path:
        """Write the one file with all that is known, and return its path.

        Runs of seeds, policies and networks that the study no longer has stay in it.
        """
        order = [cell.name for cell in study.cells]
        runs = sorted(self._records(), key=lambda run: (
            order.index(run["cell"]) if run["cell"] in order else len(order)))
        settings, known = json.loads(json.dumps(asdict(study))), self._known_settings()
        if known:
            settings["networks"] = {**known["networks"], **settings["networks"]}
            names = {policy["name"] for policy in settings["policies"]}
            settings["policies"] += [
                policy for policy in known["policies"] if policy["name"] not in names]
            settings["seeds"] = sorted({*settings["seeds"], *known["seeds"]})
        target = self.path / RESULTS
        write_file(target, json.dumps(
            {"study": study.name, "settings": settings, "runs": runs}, indent=1) + "\n")
        return target


def _read(path: Path, needed: set[str], part: str = "") -> dict[str, Any]:
    """Return an object of a JSON file, or a part of it, that has what is needed."""
    try:
        content = json.loads(path.read_text("utf-8"))
        content = content[part] if part else content
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from error
    return _need(path, content, needed)


def _need(path: Path, content: Any, needed: set[str]) -> dict[str, Any]:
    """Return what a file holds, if it has what is needed."""
    try:
        if not needed <= content.keys():
            raise KeyError(*sorted(needed - content.keys()))
    except (LookupError, AttributeError) as error:
        raise _damaged(path, error) from error
    return content


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error}): remove it, and what the runs of the "
                      "configuration know of it is written again")


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
        content = json.loads(path.read_text("utf-8"))
        for name, found, needed in (
            ("settings", [content["settings"]], SETTINGS), ("runs", content["runs"], RUN),
            ("records", [record for run in content["runs"] for record in run["records"]], RECORD),
        ):
            for some in found:
                if not needed <= some.keys():
                    raise KeyError(f"{name} without {sorted(needed - some.keys())}")
        content["study"].strip()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no results of a study ({error})") from None
    content["runs"] = [run for run in content["runs"] if run["records"]]
    if not content["runs"]:
        raise ValueError(f"{path} holds no finished epoch yet: wait for the first")
    return content
