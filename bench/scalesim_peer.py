"""Run SCALE-Sim 3.0.0 on what stands on the standard input; `scalesim.py` calls it.

Needs an interpreter with `scalesim` and NumPy before 2.4, and nothing of GradLoom. Jobs are JSON: a
list of {"rows", "columns", "dataflow", "layers"}, layers as in SCALE-Sim's own tables. The answer,
to the file that is the only argument, has cycles a layer and CPU seconds of each job.
"""

import contextlib
import csv
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from scalesim.scale_sim import scalesim

HEADER = ("Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, "
          "Num Filter, Strides,")
# Bandwidth is estimated, not given: nothing waits for memory.
CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = 1024
FilterSramSzkB = 1024
OfmapSramSzkB = 1024
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
Bandwidth = 10
ReadRequestBuffer = 64
WriteRequestBuffer = 64
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = False
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


def simulate(job: dict, folder: Path) -> dict:
    """Return cycles of each layer, and CPU seconds."""
    lines = [",".join(map(str, layer)) + "," for layer in job["layers"]]
    files = {"config": CONFIG.format(**job), "topology": "\n".join([HEADER, *lines]) + "\n",
             "layout": HEADER + "\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    start = time.process_time()
    run = scalesim(save_disk_space=True, verbose=False,
                   **{name: str(folder / name) for name in files})
    run.run_scale(top_path=str(folder))
    seconds = time.process_time() - start
    with (folder / "run" / "COMPUTE_REPORT.csv").open() as file:
        report = list(csv.DictReader(file, skipinitialspace=True))
    if len(report) != len(lines) or any(float(row["Stall Cycles"]) for row in report):
        raise RuntimeError(f"SCALE-Sim reported {report} of {len(lines)} layers")
    return {"cycles": [int(float(row["Total Cycles"])) for row in report], "seconds": seconds}


def main() -> None:
    """Simulate all jobs."""
    jobs, found = json.load(sys.stdin), []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        found = [simulate(job, Path(folder)) for job in jobs]
    versions = {name: version(name) for name in ("scalesim", "numpy")}
    Path(sys.argv[1]).write_text(json.dumps({"versions": versions, "jobs": found}))


if __name__ == "__main__":
    main()
