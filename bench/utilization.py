"""Share of cycles in which every cell of the array multiplies, forward and backward."""

from common import arguments, emit, measured

from gradloom_golden.config import preset
from gradloom_golden.program import Descriptor, Opcode
from gradloom_host.device import Device

PRESETS = {"edge": (64, 128), "base": (128, 160)}
"""Preset: rows streamed through each tile; the first is eight times the array's edge."""

K_TILES, N_TILES = 4, 2
NOTE = (
    f"A layer of {K_TILES}x{N_TILES} whole tiles on the RTL in Verilator; every counter equals the "
    "golden model's. utilization: rows streamed through tiles (each is rows x columns "
    "multiplications) over cycles, where cycles run from the start of the descriptor to the "
    "earliest start of the next, first load, skew and last drain included. Backward: interleaved, "
    "8 bit, with update. The host's loading of the buffers is not counted.")


def programs(steps: int) -> dict[str, Descriptor]:
    """Return a forward and a backward descriptor of the layer."""
    sizes = {"steps": steps, "x_stride": steps, "k_tiles": K_TILES, "n_tiles": N_TILES}
    return {
        "forward": Descriptor(opcode=Opcode.FORWARD, out_base=K_TILES * steps, **sizes),
        "backward": Descriptor(opcode=Opcode.BACKWARD, out_base=N_TILES * steps, **sizes),
    }


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    configs = {name: preset(name) for name in PRESETS}
    rows = []
    for name, config in configs.items():
        device = Device(config)
        for steps in PRESETS[name]:
            for what, descriptor in programs(steps).items():
                counters = measured(device, [descriptor])
                slots = sum(counters[slot] for slot in ("forward_slots", "ws_slots", "os_products"))
                cycles = counters[f"{what}_cycles"]
                rows.append({
                    "preset": name, "T": steps, "pass": what, "rows streamed": slots,
                    "cycles": cycles, "utilization": slots / cycles,
                })
        device.close()
    emit("utilization", NOTE, configs, rows, options.json)


if __name__ == "__main__":
    main()
