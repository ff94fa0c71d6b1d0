"""The machine as Verilog, in both simulators, through its streams with stalls on both."""

from functools import cache

from coverage import Coverage
from gradloom.generate import TOP, machine_verilog
from gradloom_golden.config import PRESETS
from rtl_bench import run_bench

TINY = PRESETS["tiny"]
PROGRAMS = 36


# cocotb makes every signal visible; then a sign bit that repeats a lower bit of its own signal
# counts as a loop.
LINT_OFF = "/* verilator lint_off UNOPTFLAT */\n"


@cache
def verilog() -> str:
    return LINT_OFF + machine_verilog(TINY)


def test_random_programs(sim, tmp_path):
    counts = tmp_path / "coverage.json"
    params = {"config": TINY.to_json(), "programs": PROGRAMS, "coverage": str(counts)}
    ran = run_bench(verilog(), top=TOP, bench="benches.machine", sim=sim, params=params)
    assert ran == 1
    coverage = Coverage.load(counts)
    print(coverage.report())
    assert not coverage.missing()
