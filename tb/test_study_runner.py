"""Grids are run in order, in processes, and resumed after a kill without losing an epoch."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

pytest.importorskip("sklearn")

from gradloom_host.missing import MissingExtraError  # noqa: E402
from gradloom_study import runner  # noqa: E402
from gradloom_study.results import Folder, load_results  # noqa: E402
from gradloom_study.runner import run_cell, run_study  # noqa: E402
from study_cells import small_study  # noqa: E402

FEW = [policy for policy in small_study().policies
       if policy.name in ("int8", "budget", "random", "shorter")]
STUDY = small_study(policies=tuple(FEW), train_samples=160, test_samples=50, epochs=2)


def losses(path):
    return {run["cell"]: [record["loss"] for record in run["records"]]
            for run in load_results(path)["runs"]}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    seen = {}
    run_study(STUDY, folder, progress=seen.__setitem__)
    assert set(seen.values()) == {1.0}
    return folder


def test_one_file_has_all_runs(done):
    content = load_results(done)
    assert [run["cell"] for run in content["runs"]] == [cell.name for cell in STUDY.cells]
    assert content["settings"]["epochs"] == 2
    assert all(len(run["records"]) == run["epochs"] for run in content["runs"])
    assert content["runs"][0]["machine"]["device"] == "cpu"


def test_what_is_done_is_not_done_again(done, monkeypatch):
    monkeypatch.setattr(runner, "run_cell", None)
    run_study(STUDY, done)


def test_processes_give_what_one_gives(done, tmp_path):
    run_study(STUDY, tmp_path, processes=2)
    assert losses(tmp_path) == losses(done)


def test_a_policy_that_follows_waits(done, tmp_path):
    with pytest.raises(ValueError, match="net-random-1 follows net-budget-1: run that, too"):
        run_study(STUDY, tmp_path, only=["random"])
    run_study(STUDY, tmp_path, only=["budget"])
    run_study(STUDY, tmp_path, only=["random"])
    assert losses(tmp_path).keys() == {"net-budget-1", "net-random-1"}


def test_another_configuration_is_refused(done):
    with pytest.raises(ValueError, match="was made with another configuration: choose another "
                                         "folder with -o, or remove it"):
        run_study(replace(STUDY, rate=2), done)
    with pytest.raises(ValueError, match="no policy is called 'int4'; choose from int8, budget"):
        run_study(STUDY, done, only=["int4"])


def test_a_killed_run_loses_no_finished_epoch(tmp_path):
    study = replace(STUDY, epochs=400, policies=STUDY.policies[:1])
    code = (f"import sys; sys.path[:] = {sys.path}\n"
            "from pathlib import Path\n"
            "from test_study_runner import STUDY, replace, run_cell\n"
            "run_cell(replace(STUDY, epochs=400, policies=STUDY.policies[:1]).cells[0], "
            f"Path({str(tmp_path)!r}), None)")
    process = subprocess.Popen([sys.executable, "-c", code])
    cell, folder = study.cells[0], Folder(tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        known = folder.records(cell)
        if known is not None and len(known["records"]) >= 3:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = folder.records(cell)
    assert before is not None
    assert not folder.is_done(cell)
    state = folder.state(cell)
    assert state is not None
    # The state is saved first: it may be one epoch ahead of the record, never behind.
    finished = len(before["records"])
    assert 3 <= finished <= len(state["records"]) <= finished + 1
    for ours, theirs in zip(state["records"], before["records"]):
        assert ours["loss"] == theirs["loss"]


def test_files_appear_whole(tmp_path, monkeypatch):
    cell = STUDY.cells[0]
    run_cell(cell, tmp_path, None)
    folder = Folder(tmp_path)
    before = folder.state(cell)
    assert before is not None

    def half(content, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        folder.save(cell, before, {}, epochs=2, work={})
    again = folder.state(cell)
    assert again is not None
    assert again["records"] == before["records"]


def test_a_cluster_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gradloom\[dask\]'"):
        run_study(STUDY, tmp_path, scheduler="tcp://localhost:1")


def test_a_dask_cluster_gives_what_one_process_gives(done, tmp_path):
    distributed = pytest.importorskip(
        "distributed", reason="Dask is not installed: run pip install 'gradloom[dask]'")
    paths = os.pathsep.join(path for path in sys.path if path)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        env={"PYTHONPATH": paths})
    try:
        run_study(STUDY, tmp_path, scheduler=cluster.scheduler_address)
    finally:
        cluster.close()
    assert losses(tmp_path) == losses(done)


@pytest.mark.parametrize(("content", "kind", "message"), [
    (None, FileNotFoundError, "There are no results .*results.json: run 'gradloom study"),
    ("{", ValueError, "results.json holds no results of a study"),
    (json.dumps({"runs": []}), ValueError, "holds no finished epoch yet: wait for the first"),
])
def test_what_is_no_result_is_named(tmp_path, content, kind, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(kind, match=message):
        load_results(tmp_path)
