"""The systolic array with straight edges."""

from functools import partial

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from gradloom_golden.config import Config

from .emit import place
from .layouts import Mode, Wave
from .pe import TAPS
from .row import Row
from .skew import Skew

__all__ = ["Array"]


class Array(wiring.Component):
    """Rows x columns of cells behind skewing edges, so that the outside sees whole vectors.

    The slot whose `wave` is given in cycle c takes `west` and `gradients` of cycle c. Its results
    stand at `sums_south` and `sums_east` in cycle c + RESULT_LATENCY. A `shift` wave of cycle c takes
    `weights` of cycle c + WEIGHT_LATENCY and shows what leaves the chain, the top row first, at
    `drained` and `old_weights` in cycle c + DRAIN_LATENCY.

    Parameters
    ----------
    config : Config

    Members
    -------
    mode : In(Mode)
    wave : In(Wave)
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

    def __init__(self, config: Config):
        self.config = config
        self.RESULT_LATENCY = config.rows + config.columns - 1
        self.WEIGHT_LATENCY = config.rows - 1
        self.DRAIN_LATENCY = config.columns - 1

        def vector(bits, lanes):
            return data.ArrayLayout(signed(bits), lanes)

        super().__init__({
            "mode": In(Mode),
            "wave": In(Wave),
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
        rows = [
            place(m, platform, f"row_{r}", "pe_row", partial(Row, self.config))
            for r in range(self.config.rows)
        ]
        self._wavefront(m, rows)
        self._horizontal(m, rows)
        self._southward(m, rows)
        self._northward(m, rows)
        return m

    def _skewed(self, m, name, port, lanes, *, reverse=False):
        skew = Skew(port.shape().elem_shape, lanes, reverse=reverse)
        m.submodules[name] = skew
        m.d.comb += skew.i.eq(port) if not reverse else port.eq(skew.o)
        return skew.i if reverse else skew.o

    def _wavefront(self, m, rows):
        wave = self.wave
        for r, row in enumerate(rows):
            m.d.comb += [row.mode.eq(self.mode), row.wave_i.eq(wave)]
            later = Signal(Wave, name=f"wave_{r + 1}")
            m.d.sync += later.eq(wave)
            wave = later

    def _horizontal(self, m, rows):
        west = self._skewed(m, "west_skew", self.west, len(rows))
        east = self._skewed(m, "east_deskew", self.sums_east, len(rows), reverse=True)
        for r, row in enumerate(rows):
            m.d.comb += [row.west.eq(west[r]), east[r].eq(row.east)]

    def _southward(self, m, rows):
        columns = self.config.columns
        gradients = self._skewed(m, "gradient_skew", self.gradients, columns)
        sums = self._skewed(m, "south_deskew", self.sums_south, columns, reverse=True)
        for above, row in zip([None, *rows], rows):
            m.d.comb += [
                row.gradient_i.eq(above.gradient_o if above else gradients),
                row.sum_i.eq(above.sum_o if above else 0),
            ]
        m.d.comb += sums.eq(rows[-1].sum_o)

        # The lowest rows look at gradients that have left the array.
        passed = [row.gradient_o for row in rows]
        for beyond in range(TAPS):
            register = Signal(self.gradients.shape(), name=f"gradient_beyond_{beyond}")
            m.d.sync += register.eq(passed[-1])
            passed.append(register)
        for r, row in enumerate(rows):
            for tap in range(TAPS):
                m.d.comb += row.taps[tap].eq(passed[r + 1 + tap])

    def _northward(self, m, rows):
        columns = self.config.columns
        weights = self._skewed(m, "weight_skew", self.weights, columns)
        drained = self._skewed(m, "drain_deskew", self.drained, columns, reverse=True)
        old_weights = self._skewed(m, "old_weight_deskew", self.old_weights, columns, reverse=True)
        for row, below in zip(rows, [*rows[1:], None]):
            m.d.comb += [
                row.weight_i.eq(below.weight_o if below else weights),
                row.drain_i.eq(below.drain_o if below else 0),
            ]
        m.d.comb += [drained.eq(rows[0].drain_o), old_weights.eq(rows[0].weight_o)]
