"""A Yosys script in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["run_script"]

_RUN = (
    "import sys; from pyosys import libyosys as ys; ys.run_pass('script ' + sys.argv[1], "
    "ys.Design())"
)


def run_script(folder: str | Path, script: str, *,
               timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script file in its folder; all that Yosys says is in `stdout`.

    A failing pass ends its process, and names kept from one design steer the next. Yosys keeps
    compiled libraries under TMPDIR, by a key that another library might share, so that is `folder`.

    Raises
    ------
    subprocess.TimeoutExpired
        It took more than `timeout` seconds.
    """
    return subprocess.run(
        [sys.executable, "-c", _RUN, script], cwd=folder, env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        timeout=timeout, check=False)
