"""Cycles of one 16x16 tile's backward pass, load and drain included, beside two references."""

from common import arguments, emit, measured

from gradloom_golden.config import preset
from gradloom_golden.program import Descriptor, Opcode
from gradloom_host.device import Device

REFERENCES = {16: (96, 146), 64: (192, 242), 256: (576, 626)}
"""T: the limit that the project sets itself, and Gemmini's cycles."""

NOTE = (
    "Both gradients of one 16x16 tile, interleaved, 8-bit activations, update included; from the "
    "start of the descriptor to the earliest start of the next, on the RTL in Verilator; equal to "
    "the golden model's. limit: 2T + 64, quoted from the project's aims. Gemmini: 2T + 114 for a "
    "weight-stationary pass, its drain, then an output-stationary pass, quoted; measured elsewhere "
    "on its mesh, without its controller and memories, so no run of this program.")


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    configs = {
        "base": preset("base"),
        "base without overlap": preset("base").with_changes(overlap=False),
    }
    devices = [Device(config) for config in configs.values()]
    rows = []
    for steps, (limit, gemmini) in REFERENCES.items():
        program = [Descriptor(opcode=Opcode.BACKWARD, steps=steps, x_stride=steps, k_tiles=1,
                              n_tiles=1, out_base=steps)]
        overlapped, plain = (measured(device, program)["backward_cycles"] for device in devices)
        best = min(overlapped, plain)
        rows.append({
            "T": steps, "with overlap": overlapped, "without": plain, "limit": limit,
            "Gemmini (quoted)": gemmini, "best to limit": best / limit,
            "best to Gemmini": best / gemmini,
        })
    for device in devices:
        device.close()
    emit("tile", NOTE, configs, rows, options.json)


if __name__ == "__main__":
    main()
