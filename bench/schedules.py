"""Cycles and accesses of a backward pass, by schedule, lanes, overlap and share of samples kept."""

from collections.abc import Iterator
from dataclasses import replace

from common import arguments, emit, measured

from gradloom_golden.config import Config, preset
from gradloom_golden.program import Descriptor, Opcode, Schedule
from gradloom_host.device import Device

SAMPLES = 64
SKIPPED = 0.76
LAYERS = {"single tile": (1, 1), "4x4 tiles": (4, 4)}
SEQUENTIAL = "sequential"
NOTE = (
    "Backward pass with update on the RTL in Verilator; every counter equals the golden model's. "
    "cycles: from the start of a descriptor to the earliest start of the next, load and drain "
    "included, fetching left out. D, X, packed X: buffer words read; with lanes an X word is "
    "packed once and read as 1/2 or 1/4 of a word from then on. Two passes: input gradient, then "
    "weight gradient, each with its own loads. Ratios are cycles against the sequential schedule "
    "(both gradients tile by tile on one load) of the same layer and build, with the same rows "
    f"kept (T) and with all {SAMPLES}; {SKIPPED:.0%} of them are skipped where T is less. 1x8, "
    "2x4, 4x2: activations a word and their bits.")


def programs(layer: tuple[int, int], samples: int) -> Iterator[tuple[str, list[Descriptor]]]:
    """Yield the name and the program of every way to run a layer's backward pass."""
    k_tiles, n_tiles = layer
    words = samples * max(layer)
    base = Descriptor(
        opcode=Opcode.BACKWARD, steps=samples, x_stride=samples, k_tiles=k_tiles, n_tiles=n_tiles,
        out_base=words, packed_base=words)

    def scheduled(schedule: Schedule) -> Descriptor:
        return replace(base, schedule=schedule)

    yield "two passes", [scheduled(Schedule.INPUT_GRADIENT), scheduled(Schedule.WEIGHT_GRADIENT)]
    yield SEQUENTIAL, [scheduled(Schedule.SEQUENTIAL)]
    yield "interleaved 1x8", [base]
    yield "interleaved 2x4", [replace(base, lanes_log2=1, x_shift=4)]
    yield "interleaved 4x2", [replace(base, lanes_log2=2, x_shift=6)]


def rows_of(config: Config) -> list[dict]:
    """Measure all layers, schedules and shares on one build."""
    device, rows = Device(config), []
    for layer_name, layer in LAYERS.items():
        whole = 0
        for skipped in (0.0, SKIPPED):
            samples = round(SAMPLES * (1 - skipped))
            found = {name: measured(device, program) for name, program in programs(layer, samples)}
            sequential = found[SEQUENTIAL]["backward_cycles"]
            whole = whole or sequential
            for name, counters in found.items():
                cycles = counters["backward_cycles"]
                rows.append({
                    "layer": layer_name, "overlap": "yes" if config.overlap else "no",
                    "T": samples, "schedule": name, "cycles": cycles, "D": counters["d_reads"],
                    "X": counters["x_reads"], "packed X": counters["packed_reads"],
                    "to sequential": cycles / sequential,
                    f"to it at T={SAMPLES}": cycles / whole,
                })
    device.close()
    return rows


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    configs = {
        "edge": preset("edge"),
        "edge without overlap": preset("edge").with_changes(overlap=False),
    }
    rows = [row for config in configs.values() for row in rows_of(config)]
    emit("schedules", NOTE, configs, rows, options.json)


if __name__ == "__main__":
    main()
