"""Layers as the machine executes them, whole batches at a time, forward and backward.

A layer keeps what it needs between `forward` and `backward`. These are no autograd functions: D and
dX have only the rows of the samples kept, so the backward pass gets shorter with them, which
autograd's rule that a gradient has its tensor's shape does not allow. `gradloom_study.functional`
has the same products as autograd functions.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from gradloom_golden.config import PRESETS
from gradloom_golden.lfsr import Bank
from gradloom_golden.program import Function, Opcode
from gradloom_golden.vector import BIAS_BITS
from gradloom_host.compiler import reciprocal

from . import optimizer, products
from .fixed import EXACT, narrow_, round_shift_, saturate_
from .products import Geometry
from .scale import Scale, resolve, resolve_into
from .step import GRADIENT_BITS, OPERAND_BITS, Integers, Step

__all__ = ["Add", "AveragePool", "Conv", "Layer", "Linear", "MaxPool", "Shortcut", "Weighted",
           "accumulate"]

BIAS_EXPONENT = -12

WGRAD_BITS = PRESETS["base"].state_bits
"""Of a weight gradient that is longer than a pass and adds up, on the 16 x 16 machine."""

Watcher = Callable[["Weighted", torch.Tensor, torch.Tensor, int], None]


class Layer(nn.Module):
    """What all layers have: scales, by name, which are part of the state."""

    def __init__(self, **scales: Scale):
        super().__init__()
        self.scales = scales

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return the activations that leave; with `train` remember what came."""
        raise NotImplementedError

    def backward(self, d: Integers, step: Step) -> Integers | None:
        """Return dX, or None in a first layer; with `step.update` learn."""
        raise NotImplementedError

    def get_extra_state(self) -> dict[str, int]:
        """Return the exponents."""
        return {name: scale.exponent for name, scale in self.scales.items()}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the exponents."""
        for name, exponent in state.items():
            self.scales[name].exponent = exponent

    def rescale(self) -> None:
        """Adapt all exponents by what was measured in a step."""
        for scale in self.scales.values():
            scale.rescale()


def _bank_draws(step: Step, bank: Bank, shape) -> torch.Tensor | None:
    return step.draws.draw(bank, shape) if step.stochastic else None


class Weighted(Layer):
    """A layer with weights: the products, packing, and the update.

    Parameters
    ----------
    shape : tuple of int
        Of the weights as PyTorch has them: outputs first.
    exponent : int
        Of the weights.
    bias, relu, first : bool
        With a bias; with a ReLU; it reads the images and has no input gradient.

    Attributes
    ----------
    master, velocity : float64 tensor
        Integers of 16 bits.
    bias : float64 tensor (outputs,)
        Integers of 16 bits with exponent `BIAS_EXPONENT`; zeros without.
    lanes : int
        Activations in a word of the weight gradient: 1, 2 or 4.
    watcher : callable or None
        Is given this layer, kept X, D and the largest |X| before each weight gradient.
    """

    def __init__(self, shape: tuple[int, ...], exponent: int, *, bias: bool, relu: bool,
                 first: bool):
        super().__init__(y=Scale(), dx=Scale())
        self.exponent = exponent
        self.has_bias, self.relu, self.first = bias, relu, first
        self.lanes = 1
        self.watcher: Watcher | None = None
        rest = float(1 << optimizer.RESIDUE_BITS - 1)
        self.master: torch.Tensor
        self.velocity: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("master", torch.full(shape, rest, dtype=torch.float64))
        self.register_buffer("velocity", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(shape[0], dtype=torch.float64))
        self._x: Integers | None = None

    def get_extra_state(self) -> dict[str, int]:
        """Return the exponents, that of the weights with them."""
        return {**super().get_extra_state(), "weight": self.exponent}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Set the exponents."""
        state = dict(state)
        self.exponent = state.pop("weight")
        super().set_extra_state(state)

    @property
    def weight(self) -> torch.Tensor:
        """What the array multiplies with."""
        return optimizer.top(self.master)

    def _sums(self, x: Integers, start: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError

    def _input_gradient(self, d: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def gradient(self, x: torch.Tensor, d: torch.Tensor, largest: int) -> torch.Tensor:
        """Return dW, float64, of X whose absolute values are at most `largest`."""
        raise NotImplementedError

    def squared_summands(self, x: torch.Tensor, d: torch.Tensor) -> float:
        """Return the sum of ||x_i||^2 ||d_i||^2 over the outer products that dW is the sum of.

        Of a convolution these are as many as D has pixels: the noise of one activation meets
        another D in each, so that samples, which add pixels up before they are squared, do not
        tell how noise adds up.
        """
        raise NotImplementedError

    def packed_gradient(self, x: torch.Tensor, d: torch.Tensor, largest: int, lanes: int,
                        step: Step) -> torch.Tensor:
        """Return dW, float64, of X cut to 8 / `lanes` bits, rounded stochastically."""
        if lanes == 1:
            return self.gradient(x, d, largest)
        bits = OPERAND_BITS // lanes
        shift = OPERAND_BITS - bits
        draws = step.draws.draw(Bank.PACK, x.shape)
        unsigned = largest == (1 << OPERAND_BITS) - 1
        cut = narrow_(x.clone(memory_format=torch.contiguous_format), shift, bits,
                      signed=not unsigned, draws=draws)
        largest = (1 << bits) - 1 if unsigned else 1 << bits - 1
        return self.gradient(cut, d, largest).mul_(1 << shift)

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return the activations that leave; with `train` remember what came."""
        [given] = x
        self._x = given if train else None
        scale = self.scales["y"]
        shifts = resolve_into(scale, Opcode.FORWARD, x=given.exponent, w=self.exponent,
                              bias=BIAS_EXPONENT)
        start = None
        if self.has_bias:
            # Bits that a shift to the right drops are cut, not rounded.
            start = self.bias.mul(2.0 ** shifts.bias_shift).floor_()
        y = self._sums(given, start)
        narrow_(y, shifts.descriptor.out_shift, OPERAND_BITS, signed=not self.relu)
        y = y.float()
        if train:
            scale.measure(y, OPERAND_BITS, signed=not self.relu)
        return Integers(y, scale.exponent, unsigned=self.relu, relu=self.relu)

    def backward(self, d: Integers, step: Step) -> Integers | None:
        """Return dX, or None in a first layer; with `step.update` learn."""
        assert self._x is not None, "forward(train=True) comes before backward"
        x, self._x = self._x, None
        kept = x.picked(step.keep)
        dx = None if self.first else self._narrowed_input_gradient(x, kept, d, step)
        if step.update and len(d.values):
            self._learn(x, kept, d, step)
        return dx

    def _narrowed_input_gradient(self, x: Integers, kept, d: Integers, step: Step) -> Integers:
        scale = self.scales["dx"]
        shift = resolve_into(scale, Opcode.BACKWARD, d=d.exponent,
                             w=self.exponent).descriptor.out_shift
        dx = self._input_gradient(d.values, kept)
        if x.relu:
            dx = torch.ops.aten.threshold_backward(dx, kept, 0)
        narrow_(dx, shift, GRADIENT_BITS, draws=_bank_draws(step, Bank.REQUANTIZE, dx.shape))
        dx = dx.float()
        scale.measure(dx, GRADIENT_BITS)
        return Integers(dx, scale.exponent)

    def _learn(self, x: Integers, kept, d: Integers, step: Step) -> None:
        if self.watcher is not None:
            self.watcher(self, kept, d.values, x.largest)
        gradient = self.packed_gradient(kept, d.values, x.largest, self.lanes, step)
        self._refuse_saturated(gradient)
        shift = resolve(Opcode.BACKWARD, x=x.exponent, d=d.exponent, w=self.exponent,
                        rate=step.rate_field).descriptor.gradient_shift
        rule = step.rule(shift)
        draws = step.draws.draw(Bank.UPDATE, (2, *self.master.shape))
        self.master, self.velocity = optimizer.update(
            self.master, self.velocity, gradient, rule,
            gradient_draws=draws[0], step_draws=draws[1])
        if self.has_bias:
            total = d.values.sum(tuple(range(d.values.ndim - 1)), dtype=torch.float64)
            shift = resolve(Opcode.VECTOR, Function.BIAS_UPDATE, d=d.exponent, bias=BIAS_EXPONENT,
                            rate=step.bias_rate_field).descriptor.gradient_shift
            push = round_shift_(total, shift, step.draws.draw(Bank.VECTOR, total.shape))
            self.bias = saturate_(self.bias - push, BIAS_BITS)

    def _refuse_saturated(self, gradient: torch.Tensor) -> None:
        """Refuse what golden would saturate at the end of its passes; it would on the way, too."""
        largest = float(gradient.abs().max())
        if largest >= 1 << WGRAD_BITS - 1:
            raise ValueError(
                f"a weight gradient of a layer of shape {tuple(self.master.shape)} grew to "
                f"{largest:,.0f}, beyond the {WGRAD_BITS} bits of the machine's: use a smaller "
                "batch")

    def adapt_weights(self) -> None:
        """Let the host move the exponent of the weights by the rule of all others."""
        scale = Scale(self.exponent, width=1)
        scale.measure(self.weight, OPERAND_BITS)
        scale.rescale()
        steps = scale.exponent - self.exponent
        if steps:
            self.master = optimizer.rescaled(self.master, steps)
            self.velocity = saturate_(
                self.velocity.mul(2.0 ** -steps).add_(0.5).floor_(), optimizer.MASTER_BITS)
            self.exponent = scale.exponent


class Conv(Weighted):
    """A convolution; weights (outputs, inputs, taps_y, taps_x).

    Parameters
    ----------
    inputs, outputs : int
    taps : (int, int)
    geometry : Geometry
    exponent, bias, relu, first
        As of `Weighted`.
    """

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, int], geometry: Geometry, *,
                 exponent: int, bias: bool = True, relu: bool = True, first: bool = False):
        super().__init__((outputs, inputs, *taps), exponent, bias=bias, relu=relu, first=first)
        self.taps, self.geometry = taps, geometry

    def _sums(self, x, start):
        return products.forward(x.values, self.weight, self.geometry, x.largest, start=start)

    def _input_gradient(self, d, x):
        size = x.shape[1], x.shape[2]
        return products.input_gradient(
            d, self.weight, self.geometry, size, 1 << GRADIENT_BITS - 1)

    def gradient(self, x, d, largest):
        """Return dW, of images or of the patches that a first layer packs."""
        if x.ndim == 4:
            return products.weight_gradient(x, d, self.taps, self.geometry, largest)
        rows = x.double().flatten(0, 1).T @ d.double().flatten(0, 2)
        outputs, inputs = self.master.shape[:2]
        return rows.view(*self.taps, inputs, outputs).permute(3, 2, 0, 1).contiguous()

    def squared_summands(self, x, d):
        """Return them by D's pixels: the windows' squared sums times D's."""
        squares = x.square().sum(3, keepdim=True)
        windows = products.patches(squares, self.taps, self.geometry).sum(2, dtype=torch.float64)
        return float((windows * d.square().sum(3).flatten(1)).sum())

    def packed_gradient(self, x, d, largest, lanes, step):
        """Return dW of cut X; a first layer cuts patches, where each pixel comes in many."""
        if self.first and lanes > 1 and x.ndim == 4:
            x = products.patches(x, self.taps, self.geometry)
        return super().packed_gradient(x, d, largest, lanes, step)


class Linear(Weighted):
    """A fully connected layer on all pixels and channels; weights (outputs, inputs).

    Parameters
    ----------
    inputs, outputs : int
        Inputs are in the order pixel, channel.
    exponent, bias, relu, first
        As of `Weighted`.
    """

    def __init__(self, inputs: int, outputs: int, *, exponent: int, bias: bool = True,
                 relu: bool = True, first: bool = False):
        super().__init__((outputs, inputs), exponent, bias=bias, relu=relu, first=first)

    def _sums(self, x, start):
        weight = self.weight
        bound = float(weight.abs().sum(1).max()) * x.largest
        if start is not None:
            bound += float(start.abs().max())
        kind = products.sum_type(bound)
        y = functional.linear(x.values.flatten(1).to(kind), weight.to(kind),
                              None if start is None else start.to(kind))
        return y.view(len(y), 1, 1, -1)

    def _input_gradient(self, d, x):
        weight = self.weight
        kind = products.sum_type(float(weight.abs().sum(0).max()) * (1 << GRADIENT_BITS - 1))
        return (d.flatten(1).to(kind) @ weight.to(kind)).view(x.shape)

    def gradient(self, x, d, largest):
        """Return dW."""
        rows = d.flatten(1)
        largest *= 1 << GRADIENT_BITS - 1
        kind = torch.float32 if len(rows) * largest <= EXACT[torch.float32] else torch.float64
        return (rows.to(kind).T @ x.flatten(1).to(kind)).double()

    def squared_summands(self, x, d):
        """Return them by samples."""
        squares = [rows.flatten(1).square().sum(1, dtype=torch.float64) for rows in (x, d)]
        return float(squares[0] @ squares[1])


class Add(Layer):
    """The sum of two tensors, the exponents of which may differ; a ReLU with it.

    Gradients pass as they are.
    """

    def __init__(self, *, relu: bool = True):
        super().__init__(y=Scale())
        self.relu = relu

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return the sum."""
        first, second = x
        scale = self.scales["y"]
        total, shift = _sum(first, second, scale)
        narrow_(total, shift, OPERAND_BITS, signed=not self.relu)
        if train:
            scale.measure(total, OPERAND_BITS, signed=not self.relu)
        return Integers(total, scale.exponent, unsigned=self.relu, relu=self.relu)


def _sum(first: Integers, second: Integers, scale: Scale) -> tuple[torch.Tensor, int]:
    """Return the aligned sum, float32, and the shift by which it is to be narrowed.

    Operands of eight bits move by at most 15 places, so the sum has fewer than 24 bits.
    """
    d = resolve_into(scale, Opcode.VECTOR, Function.ADD, x=first.exponent,
                     d=second.exponent).descriptor
    total = first.values * 2.0 ** d.gradient_shift
    return total.add_(second.values, alpha=2.0 ** d.rate_shift), d.out_shift


def accumulate(first: Integers, second: Integers, y: Integers, scale: Scale,
               step: Step) -> Integers:
    """Return the sum of two gradients of `y`, masked by its ReLU."""
    total, shift = _sum(first, second, scale)
    if y.relu:
        total = torch.ops.aten.threshold_backward(total, y.picked(step.keep), 0)
    narrow_(total, shift, GRADIENT_BITS, draws=_bank_draws(step, Bank.VECTOR, total.shape))
    scale.measure(total, GRADIENT_BITS)
    return Integers(total, scale.exponent)


class _Pool(Layer):
    """Windows of `size` x `size` that do not overlap; pixels beyond the last are left out."""

    def __init__(self, size: int, **scales: Scale):
        super().__init__(**scales)
        self.size = size
        self._x: Integers | None = None

    def _windows(self, x: torch.Tensor) -> torch.Tensor:
        """Return a view (B, height, taps_y, width, taps_x, channels)."""
        size = self.size
        height, width = x.shape[1] // size, x.shape[2] // size
        inside = x[:, :height * size, :width * size]
        return inside.unflatten(2, (width, size)).unflatten(1, (height, size))

    def _placed(self, taps: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Return a gradient of X from those of its windows' taps."""
        dx = torch.zeros_like(kept)
        self._windows(dx).copy_(taps)
        return dx

    def _remembered(self) -> Integers:
        assert self._x is not None, "forward(train=True) comes before backward"
        x, self._x = self._x, None
        return x


class MaxPool(_Pool):
    """The largest of each window; its gradient goes, as it is, to the first tap that equals it."""

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return the maxima, on the scale of X."""
        [given] = x
        self._x = given if train else None
        y = self._windows(given.values).amax((2, 4))
        return Integers(y, given.exponent, unsigned=given.unsigned)

    def backward(self, d: Integers, step: Step) -> Integers:
        """Return dX, on the scale of D."""
        x = self._remembered()
        kept = x.picked(step.keep)
        windows = self._windows(kept).permute(0, 1, 3, 5, 2, 4).flatten(4)
        largest, place = windows.max(4)
        # A ReLU that was off lets nothing pass.
        passed = torch.where(largest > 0, d.values, 0) if x.relu else d.values
        taps = torch.zeros_like(windows).scatter_(4, place[..., None], passed[..., None])
        taps = taps.unflatten(4, (self.size, self.size)).permute(0, 1, 4, 2, 5, 3)
        return Integers(self._placed(taps, kept), d.exponent)


class AveragePool(_Pool):
    """The mean of each window: the sum times a factor, shifted."""

    def __init__(self, size: int):
        super().__init__(size, y=Scale(), dx=Scale())
        self._shift, self._factor = reciprocal(size)

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return the means."""
        [given] = x
        self._x = given if train else None
        scale = self.scales["y"]
        shift = resolve_into(scale, Opcode.VECTOR, Function.AVERAGE, x=given.exponent,
                             out_shift=self._shift).descriptor.out_shift
        # Wider than float32 can take: a window of 16 x 16 has 24 bits.
        total = self._windows(given.values).sum((2, 4), dtype=torch.float64).mul_(self._factor)
        y = narrow_(total, shift, OPERAND_BITS, signed=not given.unsigned).float()
        if train:
            scale.measure(y, OPERAND_BITS, signed=not given.unsigned)
        return Integers(y, scale.exponent, unsigned=given.unsigned)

    def backward(self, d: Integers, step: Step) -> Integers:
        """Return dX, rounded to nearest."""
        x = self._remembered()
        kept = x.picked(step.keep)
        scale = self.scales["dx"]
        shift = resolve_into(scale, Opcode.VECTOR, Function.AVERAGE_GRADIENT, d=d.exponent,
                             out_shift=self._shift).descriptor.out_shift
        windows = self._windows(kept)
        narrowed = narrow_((d.values * self._factor).contiguous(), shift, GRADIENT_BITS)
        taps = narrowed[:, :, None, :, None].expand_as(windows)
        if x.relu:
            taps = torch.where(windows > 0, taps, 0)
        scale.measure(taps, GRADIENT_BITS)
        return Integers(self._placed(taps, kept), scale.exponent)


class Shortcut(Layer):
    """Every `stride`-th pixel, with zeros as further channels: He et al. (2016), option A.

    It computes nothing, so no exponent changes.
    """

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.channels, self.stride = channels, stride
        self._shape = torch.Size()

    def forward(self, *x: Integers, train: bool = False) -> Integers:
        """Return the pixels that stay."""
        [given] = x
        self._shape = given.values.shape
        some = given.values[:, ::self.stride, ::self.stride]
        y = functional.pad(some, (0, self.channels - some.shape[3]))
        return Integers(y, given.exponent, unsigned=given.unsigned)

    def backward(self, d: Integers, step: Step) -> Integers:
        """Return the gradient, zeros where nothing was read."""
        _, height, width, channels = self._shape
        dx = d.values.new_zeros((len(d.values), height, width, channels))
        dx[:, ::self.stride, ::self.stride] = d.values[..., :channels]
        return Integers(dx, d.exponent)
