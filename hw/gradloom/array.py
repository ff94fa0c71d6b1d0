"""The systolic array with straight edges."""

from functools import partial

from amaranth import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradloom_golden.config import Config

from .column import Column
from .emit import place
from .layouts import Mode, Wave
from .pe import ProcessingElement
from .row import place_stack, signals, stack_ports
from .skew import Skew

__all__ = ["Array"]


class Array(wiring.Component):
    """Rows x columns of cells behind skewing edges, so that the outside sees whole vectors.

    The slot whose `wave` is given in cycle c takes `west` and `gradients` of cycle c. Its results
    stand at `sums_south` and `sums_east` in cycle c + RESULT_LATENCY. A `shift` of cycle c takes
    `weights` of cycle c and shows what leaves the chain, the top row first, at `drained` and
    `old_weights` in cycle c + DRAIN_LATENCY.

    A shift reaches column j with the slots of its cycle, but every row at once: it may come
    ``rows`` cycles after the last slot, or with `overlap` after the swap, at the earliest; slots or
    a swap may come the cycle after it. The shifts of a load follow each other without a gap, and at
    least one cycle lies before the first. With `overlap`, `ends` is given with the swap.

    Parameters
    ----------
    config : Config
    cell : type
        Class of the cells; edges that it does not use are left out.

    Members
    -------
    mode : In(Mode)
    x_unsigned : In(1)
        X has been shifted down by half its range, by inverting the top bit of each field.
    wave : In(Wave)
    shift : In(1)
    counts, ends : In(1)
        The D given now belongs to the weight gradient; this is the last slot of a tile.
    west : In(ArrayLayout(signed(sum_bits), rows))
        X, zero-padded on top, in forward and output-stationary slots; zero in others.
    gradients : In(ArrayLayout(signed(gradient_bits), columns))
        D. An output-stationary slot of one lane takes the D that is given with it.
    weights : In(ArrayLayout(signed(operand_bits), columns))
    sums_south : Out(ArrayLayout(signed(sum_bits), columns))
    sums_east : Out(ArrayLayout(signed(sum_bits), rows))
    drained : Out(ArrayLayout(signed(wgrad_bits), columns))
    old_weights : Out(ArrayLayout(signed(operand_bits), columns))
    """

    def __init__(self, config: Config, cell: type = ProcessingElement):
        self.config = config
        self.cell = cell
        self.RESULT_LATENCY = config.rows + config.columns - 1
        self.DRAIN_LATENCY = config.columns - 1

        def vector(bits, lanes):
            return data.ArrayLayout(signed(bits), lanes)

        super().__init__({
            "mode": In(Mode),
            "x_unsigned": In(1),
            "wave": In(Wave),
            "shift": In(1),
            "counts": In(1),
            "ends": In(1),
            "west": In(vector(config.sum_bits, config.rows)),
            "gradients": In(vector(config.gradient_bits, config.columns)),
            "weights": In(vector(config.operand_bits, config.columns)),
            "sums_south": Out(vector(config.sum_bits, config.columns)),
            "sums_east": Out(vector(config.sum_bits, config.rows)),
            "drained": Out(vector(config.wgrad_bits, config.columns)),
            "old_weights": Out(vector(config.operand_bits, config.columns)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        ports = stack_ports(config, config.rows)
        wires = {name: signals(member, f"cells_{name}") for name, member in ports.items()}
        place_stack(
            m, platform, "cells", config, config.rows, self.cell,
            inputs={name: wires[name] for name in ports if ports[name].flow == In},
            outputs={name: wires[name] for name in ports if ports[name].flow == Out})

        m.d.comb += [wires["mode"].eq(self.mode), wires["wave_i"].eq(self.wave)]
        drained = [Signal.like(wire, name=f"drained_{column}")
                   for column, wire in enumerate(wires["drain_o"])]
        edges = {
            "west": (self.west, Cat(*wires["west"])),
            "gradient": (self.gradients, Cat(*wires["gradient_i"])),
            "weight": (self.weights, Cat(*wires["weight_i"])),
            "east": (Cat(*wires["east"]), self.sums_east),
            "south": (Cat(*wires["sum_o"]), self.sums_south),
            "drain": (Cat(*drained), self.drained),
            "old_weight": (Cat(*wires["weight_o"]), self.old_weights),
        }
        for edge in self.cell.EDGES:
            source, target = (Value.cast(value) for value in edges[edge])
            lanes = config.rows if edge in ("west", "east") else config.columns
            bits = len(source) // lanes
            leaves = edge in ("east", "south", "drain", "old_weight")
            kind = "deskew" if leaves else "skew"
            place(m, platform, f"{edge}_{kind}", f"{kind}_{bits}x{lanes}",
                  partial(Skew, bits, lanes, reverse=leaves),
                  inputs={"i": source}, outputs={"o": target})
        self._columns(m, platform, wires, drained)

        # The lowest rows look at gradients that have left the array.
        passing = wires["gradient_o"]
        for tap in wires["taps_i"]:
            m.d.sync += [beyond.eq(gradient) for beyond, gradient in zip(tap, passing)]
            passing = tap
        return m

    def _columns(self, m, platform, wires, drained):
        """Complete each column's sums, a cycle later than the column to its west."""
        config = self.config
        now = {"shift": self.shift, "swap": self.wave.swap, "counts": self.counts,
               "ends": self.ends}
        for column in range(config.columns):
            later = {name: Signal(name=f"{name}_{column + 1}") for name in now}
            m.d.sync += [later[name].eq(now[name]) for name in now]
            m.d.comb += wires["shift"][column].eq(now["shift"])
            place(m, platform, f"column_{column}", "column",
                  partial(Column, config, gradients="drain" in self.cell.EDGES),
                  inputs={"x_unsigned": self.x_unsigned, "two": self.mode.two,
                          "four": self.mode.four, **now, "after_shift": later["shift"],
                          "weight": wires["weight_i"][column],
                          "gradient": wires["gradient_i"][column],
                          "drain_i": wires["drain_o"][column]},
                  outputs={"sum_i": wires["sum_i"][column], "drain_o": drained[column]})
            now = later
