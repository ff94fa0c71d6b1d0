"""Writes the example's numbers for a machine, and what the golden model makes of them, as C arrays.

Usage: python example_data.py PRESET -o DIR
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gradloom_golden.config import Config, preset
from gradloom_golden.fixed import HALF, round_shift, saturate
from gradloom_golden.optimizer import split
from gradloom_golden.program import SCALES, Descriptor, Opcode, Region, Register
from gradloom_golden.transfer import pack_words, row_bytes
from gradloom_host import layout
from gradloom_host.compiler import Network
from gradloom_host.files import write_file
from gradloom_host.graph import Conv, Graph, Linear, MaxPool, Shape
from gradloom_host.header import c_header
from gradloom_host.placement import compile_network
from gradloom_host.system import System
from gradloom_host.tensors import Policy

__all__ = ["example_data", "write_example"]

PAGE = 4096
SEED = 1
STEPS = 24
BATCH = 2
GRAPH = Graph(Shape(1, 4, 4), [
    Conv(channels=4, padding=1), MaxPool(size=2), Linear(features=3, relu=False)])
POLICY = Policy(rate=3, momentum=2)
LAYER_STEPS, LAYER_TILES = 8, 2
TRAINED = (Region.WEIGHT, Region.STATE, Region.BIAS)


class _Memory:
    """Pages of memory, handed out one after the other."""

    def __init__(self):
        self.end = 0

    def room(self, size: int) -> int:
        """Reserve `size` bytes; return their address."""
        address = self.end
        self.end += -(-size // PAGE) * PAGE
        return address


def _array(name: str, kind: str, values: Sequence[int], per_line: int = 16) -> str:
    lines = [", ".join(str(value) for value in values[first:first + per_line])
             for first in range(0, len(values), per_line)]
    body = ",\n    ".join(lines)
    return f"static const {kind} {name}[{len(values)}] = {{\n    {body}\n}};\n"


def _list(name: str, descriptors: Sequence[Descriptor]) -> str:
    rows = ["    {{" + ", ".join(f"0x{word:08X}u" for word in d.encode()) + "}}"
            for d in descriptors]
    return (f"static const struct gradloom_descriptor {name}[{len(rows)}] = {{\n"
            + ",\n".join(rows) + "\n};\n")


def _move(opcode: Opcode, config: Config, region: Region, base: int, words: int,
          address: int) -> Descriptor:
    return Descriptor(opcode=opcode, function=region, out_base=base, rows=1, steps=words,
                      memory_low=address)


def _layer(config: Config, memory: _Memory, rng) -> tuple[dict[str, int], list[str]]:
    """Return constants and arrays of one fully connected layer."""
    features, outputs = config.rows * LAYER_TILES, config.columns * LAYER_TILES
    half = 1 << config.operand_bits - 1
    x = rng.integers(-half, half, (LAYER_STEPS, features))
    w = rng.integers(-half, half, (features, outputs))
    shift = config.operand_bits + 1
    y = np.maximum(round_shift(x @ w, shift, HALF), 0)
    y = saturate(y, config.operand_bits, signed=False)
    x_bytes = layout.matrix_words(config, Region.ACTIVATION, x, config.rows).view(np.uint8)
    y_bytes = layout.matrix_words(config, Region.ACTIVATION, y, config.columns).view(np.uint8)
    w_bytes = pack_words(config, Region.WEIGHT, layout.tile(config, w) & 2 * half - 1)
    constants = {
        "LAYER_STEPS": LAYER_STEPS, "LAYER_K_TILES": LAYER_TILES, "LAYER_N_TILES": LAYER_TILES,
        "LAYER_SHIFT": shift,
        "LAYER_X_PLACE": memory.room(len(x_bytes)), "LAYER_W_PLACE": memory.room(len(w_bytes)),
        "LAYER_Y_PLACE": memory.room(len(y_bytes)),
    }
    return constants, [_array("layer_x", "uint8_t", x_bytes), _array("layer_w", "uint8_t", w_bytes),
                       _array("layer_y", "uint8_t", y_bytes)]


def _start_values(network: Network, rng) -> tuple[dict[Region, np.ndarray], np.ndarray]:
    """Return what the buffers start from, rows as they lie there, and the exponents."""
    config = network.config
    rows = sum(placed.count for placed in network.weights.values()) * config.rows
    spread = 1 << config.master_bits - 2
    weight, residue = split(rng.integers(-spread, spread, (rows, config.columns)),
                            config.residue_bits)
    labels = np.arange(network.batch)[:, None] % network.activations[-1].shape.channels
    images = network.image.words(
        rng.integers(0, 1 << config.operand_bits, (network.batch, 4, 4, 1)))
    exponents = np.full(SCALES, -5)
    exponents[network.scales["input"]] = -config.operand_bits
    for placed in network.weights.values():
        exponents[placed.scale] = 1 - config.operand_bits
        exponents[placed.bias_scale] = -12
    values = {
        Region.IMAGE: images, Region.LABEL: labels,
        Region.WEIGHT: weight & (1 << config.operand_bits) - 1, Region.STATE: residue,
        Region.BIAS: np.zeros((len(network.weights), config.columns), np.int64),
    }
    return values, exponents


def _step(network: Network) -> list[Descriptor]:
    """Return one training step: forward, loss, backward with update, new scales."""
    layers = range(len(network.graph.layers))
    found = [d for index in layers for d in network.forward(index)] + network.loss(POLICY)
    for index in reversed(layers):
        found += network.backward(index, POLICY)
    return [*found, Descriptor(opcode=Opcode.RESCALE)]


def _training(config: Config, memory: _Memory, rng) -> tuple[dict[str, int], list[str]]:
    """Return constants and arrays of the training, and the golden model's results."""
    network = compile_network(config, GRAPH, BATCH)
    values, exponents = _start_values(network, rng)
    loads, content, place = [], [], memory.end
    for region, rows in values.items():
        raw = pack_words(config, region, rows)
        address = memory.room(len(raw))
        loads.append(_move(Opcode.LOAD, config, region, 0, len(rows), address))
        content.append(np.pad(raw, (0, memory.end - address - len(raw))))
    saves, result = [], memory.end
    for region in TRAINED:
        count = len(values[region])
        address = memory.room(row_bytes(config, region, count))
        saves.append(_move(Opcode.SAVE, config, region, 0, count, address))
    step = _step(network)
    step[0] = replace(step[0], wait_memory=1)
    saves[0] = replace(saves[0], wait_compute=1)

    lists = memory.end
    system = System(config, "golden", memory_bytes=lists + PAGE * PAGE)
    system.store(place, np.concatenate(content))
    system.write(Region.CONTROL, Register.SEED, [SEED])
    system.write(Region.SCALE, 0, exponents)
    for descriptors in (loads, *[step] * STEPS, saves):
        if descriptors is step:
            system.clear()
        system.store_list(lists, descriptors)
        system.run(lists)
    low, high = system.read(Region.CONTROL, Register.LOSS, 2)
    constants = {
        "TRAINING_SEED": SEED, "TRAINING_STEPS": STEPS, "TRAINING_LOADS": len(loads),
        "TRAINING_STEP": len(step), "TRAINING_SAVES": len(saves), "TRAINING_PLACE": place,
        "RESULT_PLACE": result, "TRAINING_LOSS": int(low) | int(high) << 32,
    }
    arrays = [
        _array("training_memory", "uint8_t", np.concatenate(content).tolist()),
        _array("training_scales", "int8_t", exponents.tolist()),
        _list("training_loads", loads), _list("training_step", step),
        _list("training_saves", saves),
        _array("training_result", "uint8_t", system.memory[result:lists].tolist()),
    ]
    return constants, arrays


def example_data(config: Config) -> str:
    """Return `data.h`: places in memory, inputs, lists and expected results."""
    memory, rng = _Memory(), np.random.default_rng(SEED)
    layer, layer_arrays = _layer(config, memory, rng)
    training, training_arrays = _training(config, memory, rng)
    place = memory.room(PAGE * 2)
    constants = {**layer, **training, "EXAMPLE_LIST_PLACE": place,
                 "EXAMPLE_MEMORY_BYTES": memory.end}
    lines = "".join(f"#define {name} {value}u\n" for name, value in constants.items())
    return "\n".join(["/* Generated by example_data.py for the machine of gradloom.h. */", lines,
                      *layer_arrays, *training_arrays])


def write_example(config: Config, folder: Path) -> None:
    """Write `gradloom.h` and `data.h`."""
    write_file(folder / "gradloom.h", c_header(config))
    write_file(folder / "data.h", example_data(config))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("preset")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    write_example(preset(options.preset), options.output)


if __name__ == "__main__":
    main()
