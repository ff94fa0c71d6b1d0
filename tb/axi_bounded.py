"""Check assertions in every run of a design up to a number of cycles after reset."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib import wiring

from formal import ProofError
from gradloom_synth.yosys import run_script

__all__ = ["check_runs"]

_PASSES = """\
read_rtlil design.il
prep -flatten -top top
memory_map
async2sync
chformal -lower
dffunmap
opt_clean
"""


def check_runs(design: wiring.Component, *, depth: int, reachable: Iterable[str] = (),
               timeout: float = 300.0) -> None:
    """Fail if an assertion can be broken within `depth` cycles of which the first is a reset.

    For what `formal.prove` cannot close by induction, such as the books that a queue keeps.

    Parameters
    ----------
    design
        A component with assertions and assumptions.
    depth
        Clock cycles.
    reachable
        Names of 1-bit signals of the design that must be able to become 1 in that time.
    timeout
        Limit in seconds.

    Raises
    ------
    ProofError
        An assertion can be broken, or a signal of `reachable` stays 0.
    """
    runs = f"-set-assumes -seq {depth} -set-at 1 rst 1"
    script = _PASSES + "".join(
        f"sat -falsify -prove {name} 0 {runs} top\n" for name in reachable)
    script += f"sat -verify -prove-asserts -prove-skip 1 {runs} top\n"
    with tempfile.TemporaryDirectory(prefix="gradloom-bounded-") as folder:
        Path(folder, "design.il").write_text(rtlil.convert(design, name="top", emit_src=False))
        Path(folder, "runs.ys").write_text(script)
        run = run_script(folder, "runs.ys", timeout=timeout)
    if run.returncode:
        raise ProofError("\n".join(run.stdout.strip().splitlines()[-60:]))
