"""What the layers of a study cost on a machine, from the cost model."""

from functools import cached_property
from math import floor

from gradloom_golden.config import Config
from gradloom_model.assumptions import Assumptions
from gradloom_model.counts import accesses, total
from gradloom_model.energy import EnergyTable, energy
from gradloom_model.geometry import geometry
from gradloom_model.layers import Layer, Network
from gradloom_model.schedules import SCHEDULES, Schedule, cost
from gradloom_model.work import Products

from .cycles import Cost, WeightedLayer

__all__ = ["MachineModel"]


class MachineModel:
    """Cycles, buffer accesses and energy of a configuration, DRAM left out.

    Parameters
    ----------
    config : Config
    batch : int
    table : EnergyTable
        In whose unit energies are.
    """

    def __init__(self, config: Config, batch: int, table: EnergyTable):
        self.config, self.batch, self.table = config, batch, table
        self._known: dict[tuple[WeightedLayer, int, int, bool], dict[str, Cost]] = {}

    @cached_property
    def machine(self) -> Assumptions:
        """The machine with the whole batch."""
        return Assumptions.of(self.config, batch=self.batch, skip=0)

    def forward(self, layer: WeightedLayer, batch: int) -> Cost:
        """Return the cost of the forward pass.

        Raises
        ------
        ValueError
            If the batch is another than the model's.
        """
        if batch != self.batch:
            raise ValueError(f"the model is of batches of {self.batch}, not {batch!r}")
        return self._passes(layer, batch, 8, interleaved=True)["forward"]

    def backward(self, layer: WeightedLayer, kept: float, bits: int, *,
                 interleaved: bool) -> Cost:
        """Return the cost of both gradients and the update, of `kept` samples on the average.

        Sequential gradients are two passes whose loads show, with an update of its own.
        """
        fewer = floor(kept + 1e-9)
        below, above = (self._passes(layer, count, bits, interleaved=interleaved)["backward"]
                        for count in (fewer, min(fewer + 1, self.batch)))
        share = max(kept - fewer, 0)
        return below * (1 - share) + above * share

    def _passes(self, layer: WeightedLayer, kept: int, bits: int, *,
                interleaved: bool) -> dict[str, Cost]:
        key = layer, kept, bits, interleaved
        if key not in self._known:
            schedule = SCHEDULES["lanes" if bits < 8 else "skip"] if interleaved else (
                SCHEDULES["sequential"])
            self._known[key] = self._cost(layer, kept, bits, schedule)
        return self._known[key]

    def _cost(self, layer: WeightedLayer, kept: int, bits: int,
              schedule: Schedule) -> dict[str, Cost]:
        a = self.machine.with_changes(lanes=8 // bits, skip=1 - kept / self.batch)
        pad = layer.padding
        shape = Layer(
            name=str(layer.index), kind="conv", outputs=layer.outputs, inputs=layer.inputs,
            kernel=layer.taps, stride=(layer.stride, layer.stride), size=layer.size,
            padding=(pad, pad, pad, pad),
            input_gradient=not layer.is_first)
        passes = dict(cost(Products(geometry(Network("one", [shape])), a), schedule))
        found = {}
        for name, counts in (("forward", passes.pop("forward")),
                             ("backward", total(passes.values()))):
            found[name] = Cost(
                cycles=float(counts["cycles"].sum()),
                accesses=float(accesses(counts).sum()),
                energy=float(sum(part.sum() for part in energy(self.table, counts, a).values())))
        return found
