"""The cost model's cycles and accesses are those that the RTL counts, layer by layer.

Each layer is drawn at random, compiled by the host or written as a descriptor, and run on the
Verilated machine; the model sees its shape and the configuration only.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from coverage import Coverage, cross
from gradloom_golden.config import Config, preset
from gradloom_golden.cycles import FETCH_CYCLES, PROGRAM_CYCLES
from gradloom_golden.program import Descriptor, Drain, Opcode, Schedule
from gradloom_host.device import Device
from gradloom_host.graph import Conv, Graph, Linear, Shape
from gradloom_host.placement import compile_network
from gradloom_host.tensors import CompileError, Policy
from gradloom_model import passes
from gradloom_model.assumptions import Assumptions
from gradloom_model.counts import COUNTS
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.schedules import SCHEDULES, cost
from gradloom_model.work import Products

ROOMY = preset("tiny").with_changes(
    activation_depth=2048, gradient_depth=2048, weight_depth=1024, image_depth=1024)
MACHINES = {
    "tiny": ROOMY,
    "no overlap": ROOMY.with_changes(overlap=False),
    "tall": preset("tiny").with_changes(rows=8),
    "edge": preset("edge"),
}
LAYERS_EACH = 80
"""Layers of each machine."""

BACKWARD = {Schedule.INTERLEAVED: "interleaved", Schedule.SEQUENTIAL: "tile"}
LOOKUP_CYCLES = 8
SHORT_PASS = 64
"""Rows of a pass that batches drawn here often exceed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A layer, how it is trained, and the descriptors of both directions."""

    layer: Layer
    batch: int
    schedule: Schedule
    lanes: int
    fused: bool
    masks: bool
    forward: list[Descriptor]
    backward: list[Descriptor]


def _around(padding: int) -> tuple[int, int, int, int]:
    return padding, padding, padding, padding


def flag(rng, probability=0.5):
    return bool(rng.random() < probability)


def policy(rng) -> dict[str, Any]:
    return {"schedule": Schedule(rng.choice([Schedule.INTERLEAVED, Schedule.SEQUENTIAL])),
            "lanes": int(rng.choice([1, 2, 4])), "fused": flag(rng, 0.7)}


def convolution(rng, config: Config) -> Case | None:
    """Return a convolution or a fully connected layer as the host compiles it."""
    edge, first = config.rows, flag(rng, 0.25)
    batch = int(rng.choice([1, 2, 4, 8]))
    channels = int(rng.integers(1, 2 * edge + 1))
    shape = Shape(int(rng.integers(1, 4)) if first else channels, *map(int, rng.integers(1, 8, 2)))
    groups, outputs = 1, int(rng.integers(1, 2 * edge + 1))
    if not first and flag(rng, 0.3):
        groups = int(rng.choice([g for g in range(2, channels + 1) if channels % g == 0] or [1]))
        outputs = groups * int(rng.integers(1, 3))
    kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    tested = Conv(channels=outputs, kernel=kernel, groups=groups, bias=False,
                  stride=int(rng.choice([1, 1, 2, 3])), padding=int(rng.integers(0, min(kernel))))
    if flag(rng, 0.2):
        tested = Linear(features=outputs, bias=False)
        shape = replace(shape, channels=-(-shape.channels // edge) * edge)
    masks = flag(rng)
    before = [] if first else [Conv(channels=shape.channels, kernel=1, bias=False, relu=masks)]
    chosen = policy(rng)
    try:
        graph = Graph(shape, [*before, tested, Linear(features=2, bias=False, relu=False)])
        network = compile_network(config, graph, batch)
        index = len(before)
        forward = network.forward(index)
        backward = network.backward(index, Policy(
            schedule=chosen["schedule"], lanes=(chosen["lanes"],), fused=chosen["fused"]))
    except (CompileError, ValueError):
        return None
    if isinstance(tested, Linear):
        layer = Layer(name="linear", kind="linear", outputs=outputs,
                      inputs=shape.channels * shape.pixels, input_gradient=not first)
    else:
        layer = Layer(
            name="conv", outputs=outputs, inputs=shape.channels, kernel=tested.taps,
            stride=(tested.stride, tested.stride), padding=_around(tested.padding),
            size=(shape.height, shape.width), groups=groups, input_gradient=not first)
    # No loss runs before, so nothing tells which samples are kept: all are.
    backward = [replace(d, kept=0, gather=0) for d in backward]
    return Case(layer=layer, batch=batch, masks=masks, forward=forward, backward=backward, **chosen)


def product(rng, config: Config) -> Case:
    """Return a matrix product, in one descriptor each way."""
    steps = int(rng.integers(1, config.steps_depth // 2 + 1))
    k_tiles, n_tiles = map(int, rng.integers(1, 4, 2))
    chosen, masks = policy(rng), flag(rng)
    chosen["fused"] = True
    common = {"steps": steps, "x_stride": steps, "k_tiles": k_tiles, "n_tiles": n_tiles}
    packed = 3 * steps
    forward = Descriptor(opcode=Opcode.FORWARD, out_base=packed, **common)
    backward = Descriptor(
        opcode=Opcode.BACKWARD, schedule=chosen["schedule"], drain=Drain.UPDATE, packed_base=packed,
        lanes_log2=chosen["lanes"].bit_length() - 1, mask=int(masks), out_base=packed, **common)
    layer = Layer(name="product", kind="linear", size=(steps, 1),
                  inputs=int(rng.integers((k_tiles - 1) * config.rows, k_tiles * config.rows)) + 1,
                  outputs=int(rng.integers((n_tiles - 1) * config.columns,
                                           n_tiles * config.columns)) + 1)
    return Case(layer=layer, batch=1, masks=masks, forward=[forward], backward=[backward], **chosen)


def draw(rng, config: Config, count: int) -> list[Case]:
    """Return cases that fit the buffers."""
    found: list[Case] = []
    while len(found) < count:
        # The host compiles for square arrays.
        compiled = config.rows == config.columns and flag(rng, 0.9)
        case = convolution(rng, config) if compiled else product(rng, config)
        if case is not None:
            found.append(case)
    return found


def modelled(config: Config, case: Case, lookup: int = 0) -> dict[str, dict[str, int]]:
    """Return what the model says of each pass."""
    a = Assumptions.of(config, batch=case.batch, lanes=case.lanes, masks=case.masks, lookup=lookup)
    schedule = replace(SCHEDULES["fused"], backward=BACKWARD[case.schedule], fused=case.fused,
                       lanes=True)
    found = cost(Products(geometry(Network("one", [case.layer])), a), schedule)
    return {name: {key: int(value[0]) for key, value in counts.items()}
            for name, counts in found.items()}


def words(config: Config, by_pass: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return counters of the RTL from counts of the model, which are elements."""
    total: dict[str, int] = {}
    for name, counts in by_pass.items():
        for key, value in counts.items():
            total[key] = total.get(key, 0) + value
        total[f"{name} cycles"] = counts.get("cycles", 0)
    rows, columns = config.rows, config.columns
    state = total["dw_reads"] + total["state_reads"]
    sums_forward = by_pass["forward"]["sum_reads"]
    sums_back = total["sum_reads"] - sums_forward
    found = {
        "forward_cycles": total["forward cycles"],
        "backward_cycles": total["both gradients cycles"] + total["weight gradient cycles"],
        "update_cycles": total["update cycles"],
        "slots": total["slots"],
        "x_reads+image_reads": total["x_reads"] // rows,
        "packed_reads": total["packed_reads"] // rows,
        "packed_writes": total["packed_writes"] // rows,
        "d_reads": total["d_reads"] // columns,
        "weight_reads": total["w_reads"] // columns,
        "weight_writes": total["w_writes"] // columns,
        "state_reads": state // columns,
        "state_writes": (total["dw_writes"] + total["state_writes"]) // columns,
        "sum_reads": sums_forward // columns + sums_back // rows,
        "sum_writes": sums_forward // columns + sums_back // rows,
        "y_writes": total["y_writes"] // columns,
        "dx_writes": total["dx_writes"] // rows,
        "mask_reads": total.get("mask_reads", 0) // rows,
    }
    return found


def counted(device: Device, program: list[Descriptor]) -> dict[str, int]:
    """Return the counters of a program."""
    device.clear_counters()
    device.run(program)
    return device.counters | {
        "x_reads+image_reads": device.counters["x_reads"] + device.counters["image_reads"]}


def layer_coverage(config: Config) -> Coverage:
    """Return what the layers of a machine must have been."""
    points = {"pass": cross(BACKWARD.values(), (1, 2, 4)), "masks": (False, True)}
    if config.rows == config.columns:
        points |= {
            "layer": ("conv", "linear", "product"), "input gradient": (False, True),
            "fused": (False, True), "groups": (False, True), "stride": (1, 2, 3),
            "padding": (0, 1, 2), "phases": (False, True),
        }
        if config.steps_depth <= SHORT_PASS:
            points["chunks"] = (False, True)
    return Coverage(points)


def cover(coverage: Coverage, case: Case) -> None:
    """Count a layer."""
    layer = case.layer
    found = {
        "layer": layer.name, "input gradient": layer.input_gradient, "fused": case.fused,
        "groups": layer.groups > 1, "stride": layer.stride[0], "padding": layer.padding[0],
        "phases": len(case.backward) > 2, "chunks": len(case.forward) > 1, "masks": case.masks}
    coverage.hit("pass", BACKWARD[case.schedule], case.lanes)
    for point in coverage.counts.keys() & found.keys():
        coverage.hit(point, found[point])


@pytest.mark.parametrize("machine", MACHINES)
def test_random_layers_cost_what_the_rtl_counts(rng, machine):
    config = MACHINES[machine]
    device = Device(config, "rtl")
    cases = draw(rng, config, LAYERS_EACH)
    coverage = layer_coverage(config)
    for number, case in enumerate(cases):
        cover(coverage, case)
        found = counted(device, [*case.forward, *case.backward])
        expected = words(config, modelled(config, case))
        assert {name: found[name] for name in expected} == expected, f"layer {number}: {case}"
    device.close()
    assert not coverage.missing(), coverage.report()


@pytest.mark.parametrize("machine", ["tiny", "no overlap", "tall"])
def test_one_gradient_costs_what_the_rtl_counts(rng, machine):
    config = MACHINES[machine]
    device = Device(config, "rtl")
    for number in range(40):
        case = product(rng, config)
        a = Assumptions.of(config, batch=1, masks=case.masks, lookup=0)
        shape = geometry(Network("one", [case.layer]))
        work = Products(shape, a).still(np.asarray(1))
        for schedule, cost_of in (
            (Schedule.INPUT_GRADIENT, partial(passes.ws_input_gradient, work, a, a.folds)),
            (Schedule.WEIGHT_GRADIENT, partial(
                passes.os_weight_gradient, work, a, a.folds, lanes=case.lanes, loads=True,
                limited=True, fused=True)),
        ):
            d = replace(case.backward[0], schedule=schedule)
            if schedule == Schedule.INPUT_GRADIENT:
                d = replace(d, lanes_log2=0)
            found = counted(device, [d])
            counts = {name: int(np.sum(value)) for name, value in cost_of().items()}
            empty = dict.fromkeys(COUNTS, 0)
            name = ("both gradients" if schedule == Schedule.INPUT_GRADIENT else "weight gradient")
            expected = words(config, {"forward": empty, "both gradients": empty, "update": empty,
                                      "weight gradient": empty} | {name: empty | counts})
            assert {name: found[name] for name in expected} == expected, f"{number}: {d}"
    device.close()


@pytest.mark.parametrize("machine", ["tiny", "no overlap"])
def test_lookups_between_passes_are_counted(rng, machine):
    config = MACHINES[machine]
    device = Device(config, "golden")
    compared = 0
    for case in draw(rng, config, 60):
        program = [*case.forward, *case.backward]
        if not all(d.scaled for d in program):
            continue
        found = counted(device, program)
        own = sum(found[f"{kind}_cycles"] for kind in ("forward", "backward", "update"))
        between = found["cycles"] - PROGRAM_CYCLES - FETCH_CYCLES - own
        if between != LOOKUP_CYCLES * len(program):
            continue                                       # a pass shorter than the next fetch
        by_pass = modelled(config, case, LOOKUP_CYCLES)
        assert sum(counts.get("cycles", 0) for counts in by_pass.values()) == own + between
        compared += 1
    assert compared > 10
