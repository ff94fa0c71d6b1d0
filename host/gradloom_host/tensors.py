"""What a compiled network is made of: how it trains, and where its tensors and weights lie."""

from dataclasses import dataclass

from gradloom_golden.confidence import NEVER
from gradloom_golden.importance import field, parts
from gradloom_golden.program import Schedule, SkipRule

from .graph import Shape

__all__ = ["CompileError", "Policy", "Tensor", "Weights", "Window"]


class CompileError(ValueError):
    """A network does not fit the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a step trains.

    Parameters
    ----------
    rate : int
        -log2 of the learning rate, for the mean over the batch.
    momentum : int or None
        The velocity keeps 1 - 2**-momentum of itself.
    skip_rule : SkipRule
    threshold : int
        Of `SkipRule.PROBABILITY` and `MARGIN`; `NEVER` keeps every sample. `SkipRule.IMPORTANCE`
        has what `gradloom_golden.importance.field` returns; the rate is to make up for its extra.
    budget : int
        Of `SkipRule.BUDGET`: share of the squared error that the next epoch may skip, in 2**-16.
    lanes : tuple of int
        Activations in a word of the weight gradient, 1, 2 or 4, by layer with weights; one for
        all if it has one element.
    schedule : Schedule
        Of layers that have both gradients.
    fused : bool
        Update weights where their gradients leave the array, rather than from stored gradients.
    stochastic : bool
        Round gradients stochastically.
    """

    rate: int = 4
    momentum: int | None = 3
    skip_rule: SkipRule = SkipRule.PROBABILITY
    threshold: int = NEVER
    budget: int = 0
    lanes: tuple[int, ...] = (1,)
    schedule: Schedule = Schedule.INTERLEAVED
    fused: bool = True
    stochastic: bool = True

    def __post_init__(self):
        if self.skip_rule == SkipRule.IMPORTANCE and self.threshold != field(
                *parts(self.threshold)):
            raise ValueError(
                "of SkipRule.IMPORTANCE threshold is importance.field(cap, extra), not "
                f"{self.threshold!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """Activations or gradients of a batch in their buffer.

    Parameters
    ----------
    shape : Shape
    base, stride : int
        First word; words from one block of channels to the next.
    blocks : int
    scale : int
        Place in the scale table.
    unsigned : bool
    relu : bool
        Its mask is kept.
    """

    shape: Shape
    base: int
    stride: int
    blocks: int
    scale: int
    unsigned: bool = False
    relu: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights of a layer in the weight and state buffers.

    Parameters
    ----------
    tiles : (int, int, int, int)
        Blocks of inputs, tap rows, taps in a row, tiles of outputs.
    base : int
        First row in both buffers; `spare` is where gradients are stored, unless it is -1.
    scale, bias_scale : int
    bias_base : int
        First row of biases; -1 without.
    """

    index: int
    tiles: tuple[int, int, int, int]
    base: int
    spare: int
    scale: int
    bias_base: int = -1
    bias_scale: int = 0

    @property
    def block_tiles(self) -> int:
        """Tiles of one block of inputs."""
        return self.tiles[1] * self.tiles[2] * self.tiles[3]

    @property
    def count(self) -> int:
        """Tiles."""
        return self.tiles[0] * self.block_tiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Consecutive images of a batch: those that tensors in the buffers begin with.

    Parameters
    ----------
    first, images : int
    is_last : bool
        None come behind; gradients of weights are complete.
    gathered : bool
        Backward, activations are those of kept samples only, one after the other.
    spare_gradients : int
        First word of the gradient buffer where a pixel of zeros may be put.
    """

    first: int = 0
    images: int
    is_last: bool = True
    gathered: bool = False
    spare_gradients: int = 0
