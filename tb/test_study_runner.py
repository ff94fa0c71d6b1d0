"""Grids are run in order, in processes, and resumed after a kill without losing an epoch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

pytest.importorskip("sklearn")

from gradloom_host.missing import MissingExtraError  # noqa: E402
from gradloom_study import runner  # noqa: E402
from gradloom_study.config import PolicySpec  # noqa: E402
from gradloom_study.results import Folder, load_results  # noqa: E402
from gradloom_study.runner import run_cell, run_study  # noqa: E402
from study_cells import small_study  # noqa: E402

FEW = [policy for policy in small_study().policies
       if policy.name in ("int8", "budget", "random", "shorter")]
STUDY = small_study(policies=tuple(FEW), train_samples=160, test_samples=50, epochs=2)
SETTINGS = json.loads(json.dumps(asdict(STUDY)))


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


def test_a_results_file_alone_can_be_added_to(done, tmp_path, monkeypatch):
    shutil.copy(done / "results.json", tmp_path)
    more = (*STUDY.policies, PolicySpec(name="new", skip={"kind": "random", "follows": "budget"}))
    run = []
    monkeypatch.setattr(runner, "run_cell", lambda cell, *_, **__: run.append(cell.name))
    run_study(replace(STUDY, policies=more), tmp_path)
    assert run == ["net-new-1"]
    assert losses(tmp_path) == losses(done)


def test_a_results_file_writes_nowhere_else(done, tmp_path):
    content = json.loads((done / "results.json").read_text())
    content["runs"][0]["cell"] = "../../out"
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has a run called '\.\./\.\./out', no file's name"):
        run_study(STUDY, tmp_path)


def test_a_results_file_with_half_a_run_is_named(done, tmp_path):
    content = json.loads((done / "results.json").read_text())
    del content["runs"][1]["cell"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json is damaged \('cell'\): remove it"):
        run_study(STUDY, tmp_path)


def test_processes_give_what_one_gives(done, tmp_path):
    run_study(STUDY, tmp_path, processes=2)
    assert losses(tmp_path) == losses(done)


def test_a_policy_that_follows_waits(done, tmp_path):
    with pytest.raises(ValueError, match="net-random-1 follows net-budget-1: run that, too"):
        run_study(STUDY, tmp_path, only=["random"])
    run_study(STUDY, tmp_path, only=["budget"])
    run_study(STUDY, tmp_path, only=["random"])
    assert losses(tmp_path).keys() == {"net-budget-1", "net-random-1"}


def test_another_configuration_is_refused(done, tmp_path):
    with pytest.raises(ValueError, match="has results of another configuration: choose another "
                                         "folder with -o, or remove them"):
        run_study(replace(STUDY, rate=2), done)
    other = replace(STUDY.policies[1], skip={"kind": "budget", "error": 0.2})
    policies = (STUDY.policies[0], other, *STUDY.policies[2:])
    with pytest.raises(ValueError, match="results of another configuration of net-budget-1: "):
        # Other seeds do not make it right.
        run_study(replace(STUDY, policies=policies, seeds=(2,)), done)
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / "cells" / "net-budget-1.json").unlink()
    (tmp_path / "results.json").unlink()
    with pytest.raises(ValueError, match="results of another configuration of net-random-1: "):
        # It would follow other rates.
        run_study(replace(STUDY, policies=policies), tmp_path)
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

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save(cell, before | {"records": []}, {}, epochs=2, work={})
    again = folder.state(cell)
    assert again is not None
    assert again["records"] == before["records"]
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == [
        "net-int8-1.json", "net-int8-1.pt"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_record_behind_its_checkpoint_catches_up(done, tmp_path, processes):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "cells" / "net-budget-1.json"
    record = json.loads(path.read_text())
    del record["records"][-1]
    path.write_text(json.dumps(record))
    for file in (tmp_path / "cells").glob("net-random-1.*"):
        file.unlink()
    run_study(STUDY, tmp_path, processes=processes)
    assert losses(tmp_path) == losses(done)


def test_runs_that_a_study_has_no_longer_stay(done, tmp_path):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    new = PolicySpec(name="new", precision={"kind": "fixed", "bits": 2})
    run_study(replace(STUDY, seeds=(2,), policies=(new,)), tmp_path)
    content = load_results(tmp_path)
    assert content["runs"][0]["cell"] == "net-new-2"
    assert {run["cell"] for run in content["runs"]} == {"net-new-2"} | losses(done).keys()
    assert content["settings"]["seeds"] == [1, 2]
    assert [policy["name"] for policy in content["settings"]["policies"]] == [
        "new", "int8", "budget", "random", "shorter"]


@pytest.mark.parametrize("places", [1, 2])
def test_cells_are_run_in_the_order_of_the_study(tmp_path, monkeypatch, places):
    """Those of a seed before those of the next, but no place waits for what another follows."""
    study = replace(STUDY, seeds=(1, 2))
    ended = []

    def run(cell, *rest):
        ended.append(run_cell(cell, *rest))

    monkeypatch.setattr(runner, "run_cell", run)
    with Folder(tmp_path).opened(study), ThreadPoolExecutor(1) as pool:
        list(runner._spread(pool, places, study.cells, Folder(tmp_path), lambda *_: None,
                            lambda cell, turn: (cell, tmp_path, None)))
    expected = [cell.name for cell in study.cells]
    if places == 2:
        expected.remove("net-int8-2")
        expected.insert(2, "net-int8-2")
    assert ended == expected


def test_an_error_loses_no_finished_epoch(tmp_path):
    def fail(name, done):
        if name == "net-budget-1" and done > 0.5:
            raise RuntimeError("no more power")

    with pytest.raises(RuntimeError, match="no more power"):
        run_study(STUDY, tmp_path, progress=fail)
    assert {name: len(found) for name, found in losses(tmp_path).items()} == {
        "net-int8-1": 2, "net-budget-1": 1}


@contextmanager
def _study_process(tmp_path, processes):
    # A shell has what it runs in the background ignore SIGINT, and that is inherited.
    code = (f"import signal, sys; sys.path[:] = {sys.path}\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from pathlib import Path\n"
            "from test_study_runner import STUDY, replace, run_study\n"
            "if __name__ == '__main__':\n"
            f"    run_study(replace(STUDY, epochs=4000), Path({str(tmp_path)!r}), "
            f"processes={processes})\n")
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    try:
        while not list((tmp_path / "cells").glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def _writes(tmp_path, seconds):
    """Return whether a checkpoint appears within so many seconds."""
    def newest():
        return max(path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.pt"))

    before, deadline = newest(), time.monotonic() + seconds
    while newest() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    return newest() != before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_run_that_began_them(tmp_path, how):
    with _study_process(tmp_path, 2) as process:
        assert _writes(tmp_path, 60)
        with pytest.raises(ValueError, match=r"another run keeps its results in .*: wait"):
            run_study(replace(STUDY, epochs=4000), tmp_path)
        process.send_signal(how)
        process.wait(timeout=60)
        time.sleep(0.5)
        assert not _writes(tmp_path, 3)


def test_places_where_nothing_can_be_written_are_named_first(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "results.json").mkdir(parents=True)
    for name in ("file", "folder"):
        with pytest.raises(OSError, match=f"cannot keep results in .*{name} .*: choose another "
                                          "folder with -o"):
            run_study(STUDY, tmp_path / name)


def test_devices_that_are_not_there_are_named(tmp_path):
    for device in ("meta", "nonsense", "cuda:77"):
        with pytest.raises(ValueError, match=f"PyTorch cannot compute on '{device}' here"):
            run_study(STUDY, tmp_path, devices=["cpu", device])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04", None])
def test_a_damaged_checkpoint_is_named(done, tmp_path, content):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "cells" / "net-budget-1.pt"
    if content is None:
        torch.save({"state": {}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net-budget-1\.pt is damaged .*: remove it, and its run "
                                         "begins again"):
        run_study(STUDY, tmp_path)


@pytest.mark.parametrize("name", ["cells/net-budget-1.json", "results.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"a": "\xff"}'])
def test_a_damaged_record_is_named_and_can_be_removed(done, tmp_path, name, content):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged .*: remove it"):
        run_study(STUDY, tmp_path)
    (tmp_path / name).unlink()
    run_study(STUDY, tmp_path)
    assert losses(tmp_path) == losses(done)


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
    ("[1]", ValueError, "results.json holds no results of a study"),
    (json.dumps({"study": "a", "settings": SETTINGS, "runs": []}), ValueError,
     "holds no finished epoch yet: wait for the first"),
    (json.dumps({"study": "a", "settings": {}, "runs": []}), ValueError,
     r"settings without \['batch', 'data', "),
    (json.dumps({"study": "a", "settings": SETTINGS, "runs": [1]}), ValueError,
     "results.json holds no results of a study"),
])
def test_what_is_no_result_is_named(tmp_path, content, kind, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(kind, match=message):
        load_results(tmp_path)
