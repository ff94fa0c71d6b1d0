"""Seconds to generate the Verilog of every preset: a whole process, best of three."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, emit

from gradloom_golden.config import PRESETS

RUNS = 3
NOTE = (
    f"Wall time of `gradloom verilog PRESET`, Python's start and all files included, best of "
    f"{RUNS} runs one after the other. It depends on the host and on what else runs there.")
COMMAND = "import sys; from gradloom_host.cli import main; sys.exit(main())"


def seconds_of(name: str, folder: Path) -> float:
    """Generate a preset into a folder once and return the seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND, "verilog", name, "-o", str(folder)],
                   check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        for name, config in PRESETS.items():
            folder = Path(parent) / name
            seconds = min(seconds_of(name, folder) for _ in range(RUNS))
            rows.append({
                "preset": name, "array": f"{config.rows}x{config.columns}", "seconds": seconds,
                "kilobytes": (folder / "gradloom.v").stat().st_size // 1000,
            })
    emit("generation", NOTE, PRESETS, rows, options.json)


if __name__ == "__main__":
    main()
