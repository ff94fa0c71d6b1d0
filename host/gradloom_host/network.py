"""Where a fully connected network lies in the buffers, and the descriptors that run it."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from gradloom_golden.config import Config, ceil_log2
from gradloom_golden.optimizer import Rule
from gradloom_golden.program import Descriptor, Drain, Opcode, Schedule

from . import layout

__all__ = ["Layer", "Network", "ScratchTooSmall"]


class ScratchTooSmall(ValueError):
    """There is no room beside the weights to measure gradients in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One matrix of a network and its places.

    X (B, inputs) and Y (B, outputs) are buffer words in the activation buffer, D and dX in the
    gradient buffer; W and its state are `w_rows` tile rows from `w_base` in both of theirs.
    """

    index: int
    inputs: int
    outputs: int
    k_tiles: int
    n_tiles: int
    x_base: int
    y_base: int
    d_base: int
    dx_base: int
    w_base: int
    w_rows: int


class Network:
    """A fully connected network with ReLU between its layers, laid out for one batch.

    Parameters
    ----------
    config : Config
    sizes : iterable of int
        Features of the input, of each hidden layer, and classes.
    batch : int
        Most samples a step.

    Raises
    ------
    ValueError
        If a buffer is too small: which one, and how deep it would have to be.
    """

    def __init__(self, config: Config, sizes: Iterable[int], batch: int):
        self.config = config
        self.sizes = tuple(sizes)
        self.batch = batch
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"a network needs an input and an output size, not {self.sizes}")
        if not 0 < batch <= config.steps_depth:
            raise ValueError(
                f"batch {batch} must be from 1 to the machine's steps_depth {config.steps_depth}: "
                "use --set steps_depth=N or another batch")
        activations, gradients, rows = self._place()
        self.packed_base = activations
        activations += self._packed_words()
        for name, used in (("activation_depth", activations), ("gradient_depth", gradients),
                           ("weight_depth", rows)):
            have = getattr(config, name)
            if used > have:
                raise ValueError(
                    f"the network {'-'.join(map(str, self.sizes))} with batch {batch} needs "
                    f"{name} {used}, the machine has {have}: use --set {name}="
                    f"{1 << ceil_log2(used)} or a smaller batch")
        self.scratch_base = rows

    def _place(self) -> tuple[int, int, int]:
        """Give every tensor its place; return the words used in each buffer."""
        config, batch, sizes = self.config, self.batch, self.sizes
        lanes = config.lane_count
        # A tensor is written at one edge of the array and read at the other.
        words = [
            batch * max(layout.blocks_of(size, config.rows, lanes),
                        layout.blocks_of(size, config.columns, lanes))
            for size in sizes
        ]
        x_bases = [sum(words[:index]) for index in range(len(sizes) + 1)]
        d_bases = [0, *(sum(words[1:index]) for index in range(1, len(sizes) + 1))]
        self.layers: list[Layer] = []
        rows = 0
        for index, (inputs, outputs) in enumerate(pairwise(sizes)):
            k_tiles = layout.tiles_of(inputs, config.rows)
            n_tiles = layout.tiles_of(outputs, config.columns)
            w_rows = k_tiles * n_tiles * config.rows
            self.layers.append(Layer(
                index=index, inputs=inputs, outputs=outputs, k_tiles=k_tiles, n_tiles=n_tiles,
                x_base=x_bases[index], y_base=x_bases[index + 1],
                d_base=d_bases[index + 1], dx_base=d_bases[index],
                w_base=rows, w_rows=w_rows))
            rows += w_rows
        return x_bases[-1], d_bases[-1], rows

    def _packed_words(self) -> int:
        if not self.config.lanes:
            return 0
        return max((
            layout.blocks_of(layer.inputs, self.config.rows, self.config.lane_count)
            * -(-self.batch // 2)
            for layer in self.layers if layer.n_tiles > 1), default=0)

    def forward(self, layer: Layer, steps: int, *, shift: int, x_unsigned: bool) -> Descriptor:
        """Return the forward pass of a layer: ReLU and unsigned activations but for logits."""
        hidden = int(layer is not self.layers[-1])
        return Descriptor(
            opcode=Opcode.FORWARD, steps=steps, x_stride=steps, k_tiles=layer.k_tiles,
            n_tiles=layer.n_tiles, x_base=layer.x_base, w_base=layer.w_base,
            out_base=layer.y_base, out_shift=shift, x_unsigned=int(x_unsigned), relu=hidden,
            y_unsigned=hidden)

    def confidence(self, steps: int, threshold: int) -> Descriptor:
        """Return the comparison of the logits with the labels."""
        last = self.layers[-1]
        return Descriptor(opcode=Opcode.CONFIDENCE, steps=steps, x_base=last.y_base,
                          classes=last.outputs, threshold=threshold)

    def backward(self, layer: Layer, kept: int, steps: int, *, shift: int, x_unsigned: bool,
                 bits: int, rule: Rule, schedule: Schedule = Schedule.INTERLEAVED) -> Descriptor:
        """Return the backward pass of a layer with its update.

        The first layer needs no input gradient, whatever the schedule.
        """
        first = layer.index == 0
        return Descriptor(
            opcode=Opcode.BACKWARD,
            schedule=Schedule.WEIGHT_GRADIENT if first else schedule,
            drain=Drain.UPDATE, steps=kept, x_stride=steps, k_tiles=layer.k_tiles,
            n_tiles=layer.n_tiles, x_base=layer.x_base, d_base=layer.d_base,
            w_base=layer.w_base, state_base=layer.w_base, packed_base=self.packed_base,
            out_base=layer.dx_base, out_shift=shift, stochastic=1, gather=1, mask=int(not first),
            x_unsigned=int(x_unsigned), lanes_log2=ceil_log2(8 // bits), x_shift=8 - bits,
            gradient_shift=rule.gradient_shift, momentum=int(rule.momentum),
            decay_shift=rule.decay_shift, rate_shift=rule.rate_shift)

    def angles(self, layer: Layer, kept: int, steps: int, *, x_unsigned: bool,
               bound: int) -> list[Descriptor]:
        """Return the descriptors that measure 4 and then 2 bits and pick a width for a layer.

        Weight gradients go to scratch rows beside the weights, as many row tiles at a time as
        fit; nothing is updated.

        Raises
        ------
        ScratchTooSmall
            If not even one word of row tiles fits twice.
        """
        config = self.config
        row_tile = layer.n_tiles * config.rows
        room = min((config.weight_depth - self.scratch_base) // (2 * row_tile), layer.k_tiles)
        parts = config.lane_count // config.rows
        if room < layer.k_tiles:
            room -= room % parts                           # a buffer word is one chunk's
        if room < 1:
            raise ScratchTooSmall(
                f"measuring precision needs {2 * row_tile} free tile rows, "
                f"{config.weight_depth - self.scratch_base} are left: use --set weight_depth="
                f"{2 * config.weight_depth} or fixed --lanes")
        full, tested = self.scratch_base, self.scratch_base + room * row_tile
        program = []
        for bits in (4, 2):
            for first in range(0, layer.k_tiles, room):
                tiles = min(room, layer.k_tiles - first)
                for width, place in ((8, full), (bits, tested)):
                    program.append(Descriptor(
                        opcode=Opcode.BACKWARD, schedule=Schedule.WEIGHT_GRADIENT,
                        drain=Drain.STORE, steps=kept, x_stride=steps, k_tiles=tiles,
                        n_tiles=layer.n_tiles,
                        x_base=layer.x_base + first // parts * steps, d_base=layer.d_base,
                        w_base=layer.w_base + first * row_tile, state_base=place,
                        packed_base=self.packed_base, gather=1, x_unsigned=int(x_unsigned),
                        lanes_log2=ceil_log2(8 // width), x_shift=8 - width))
                program.append(Descriptor(
                    opcode=Opcode.ANGLE, rows=tiles * row_tile, state_base=full,
                    packed_base=tested, bound=bound, tested_bits=bits,
                    first=int(first == 0), last=int(first + tiles == layer.k_tiles),
                    fresh=int(bits == 4)))
        return program
