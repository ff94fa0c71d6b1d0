"""Simulated cycles a second: the Verilated library against cocotb on the same Verilator."""

import json
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, emit, measured

from gradloom.generate import TOP, machine_verilog
from gradloom_golden.config import preset
from gradloom_golden.cycles import program_cycles
from gradloom_golden.program import Descriptor, Opcode
from gradloom_host.device import Device

sys.path.append(str(Path(__file__).resolve().parents[1] / "tb"))

from rtl_bench import run_bench

STEPS = 128
COUNT = 16
REPEATS = 40
NOTE = (
    f"One program of {COUNT} interleaved backward passes of 4x2 tiles, T = {STEPS}: wall time from "
    "its start to its end, compiling, loading and reading left out. Library: as `gradloom train` "
    f"runs it, best of {REPEATS} runs. cocotb, asleep: Python waits for `busy` to fall, which is "
    "as little as it can do. cocotb, awake: Python is called once a cycle, as a bench with "
    "monitors is. Both simulators compile the same Verilog with the same Verilator; cocotb's "
    "makes every signal public. The library runs before cocotb, on the same host.")
LIBRARY = "library"


def library_rate(program: list[Descriptor]) -> tuple[int, float]:
    """Return the cycles of the program and the library's cycles a second."""
    config = preset("edge")
    device = Device(config)
    cycles = measured(device, program)["cycles"]
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        device.run(program)
        best = min(best, time.perf_counter() - started)
    device.close()
    return cycles, cycles / best


def cocotb_rates(program: list[Descriptor]) -> dict[str, float]:
    """Return cocotb's cycles a second, asleep and awake."""
    config = preset("edge")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rates.json"
        run_bench(machine_verilog(config), top=TOP, bench="cocotb_speed", sim="verilator", params={
            "program": [word for descriptor in program for word in descriptor.encode()],
            "descriptors": len(program), "cycles": program_cycles(config, program),
            "result": str(result)})
        return json.loads(result.read_text())


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    program = [Descriptor(opcode=Opcode.BACKWARD, steps=STEPS, x_stride=STEPS, k_tiles=4,
                          n_tiles=2, out_base=2 * STEPS)] * COUNT
    cycles, library = library_rate(program)
    rates = {LIBRARY: library, **cocotb_rates(program)}
    rows = [{"simulator": name, "cycles": cycles, "cycles a second": rate,
             "library is faster by": library / rate} for name, rate in rates.items()]
    emit("simulation", NOTE, {"edge": preset("edge")}, rows, options.json)


if __name__ == "__main__":
    main()
