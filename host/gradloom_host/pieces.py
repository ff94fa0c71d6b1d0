"""What a training step through small buffers is cut into, and what moves to and from memory."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gradloom_golden.config import Config
from gradloom_golden.program import DESCRIPTOR_FIELDS, Descriptor, Opcode, Region
from gradloom_golden.transfer import row_bytes, word_bits

from .compiler import Network
from .tensors import Policy, Window

__all__ = ["MOST_WORDS", "Group", "Operation", "Piece", "Step", "Store", "Use", "load",
           "memory_fields"]

MOST_WORDS = (1 << DESCRIPTOR_FIELDS["steps"][2]) - 1
"""Buffer words that one row of a transfer can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One pass over a batch: a training step, or with `evaluate` the forward pass and the loss.

    Parameters
    ----------
    batch : int
        Number of the batch in memory.
    policy : Policy
    update : bool
        Weights learn.
    evaluate : bool
    """

    batch: int
    policy: Policy
    update: bool = True
    evaluate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A tensor of a batch in memory: a row for each block of features and each sample.

    Parameters
    ----------
    region : Region
        The buffer that it moves to and from.
    pixels : int
        Buffer words of a row.
    blocks : int
    bits : int
        Of an element, if activations are cut.
    unsigned : int
        0 or 1.
    """

    region: Region
    pixels: int
    blocks: int
    bits: int = 0
    unsigned: int = 0

    def pitch(self, config: Config) -> int:
        """Return the bytes from one row to the next."""
        beat = config.axi_data_bits // 8
        return -(-row_bytes(config, self.region, self.pixels, self.bits) // beat) * beat

    def moves(self, config: Config, opcode: Opcode, address: int, batch: int, window: Window, *,
              base: int, use: "Use", stochastic: bool = False) -> list[Descriptor]:
        """Return the transfers of a window, block after block, to or from buffer word `base` on.

        Parameters
        ----------
        address : int
            Of the whole tensor, a byte.
        batch : int
            Samples.
        use : Use
            Which blocks, and whether samples are only those kept, or are gathered.
        """
        pitch = self.pitch(config)
        stride = window.images * self.pixels
        fields = {"rows": window.images, "steps": self.pixels, "packed_base": pitch}
        if use.kept or use.gathered:
            fields |= {"kept": 1, "images": window.images, "first_sample": window.first,
                       "gather": int(use.gathered)}
        elif self._is_dense(config) and stride <= MOST_WORDS:
            fields = {"rows": 1, "steps": stride}
        if self.bits:
            fields |= {"tested_bits": self.bits, "x_shift": 8 - self.bits,
                       "x_unsigned": self.unsigned, "stochastic": int(stochastic)}
        first = 0 if use.gathered else window.first * pitch
        return [Descriptor(
            opcode=opcode, function=self.region, out_base=base + number * stride,
            **memory_fields(address + (use.block + number) * batch * pitch + first), **fields)
            for number in range(use.blocks)]

    def _is_dense(self, config: Config) -> bool:
        """Return whether nothing lies between two rows."""
        bits = self.pixels * word_bits(config, self.region, self.bits)
        return bits == 8 * self.pitch(config)


def load(region: Region, base: int, words: int, address: int) -> Descriptor:
    """Return the transfer of consecutive words from memory to buffer word `base` on."""
    return Descriptor(opcode=Opcode.LOAD, function=region, out_base=base, steps=words, rows=1,
                      **memory_fields(address))


def memory_fields(address: int) -> dict[str, int]:
    """Return the fields of a transfer that hold a byte address."""
    return {"memory_low": address & 0xFFFFFFFF, "memory_high": address >> 32}


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """A tensor that a piece of work reads or writes.

    Parameters
    ----------
    name : str
    space : Region
        The buffer in which it has a place.
    pixels : int
        Words of an image in each block.
    blocks, block : int
        How many, and the first.
    stores : tuple of str
        Where it is read from, or may be kept, in memory.
    kept : bool
        Rows are those of kept samples.
    gathered : bool
        Kept samples are picked from all that lie in memory.
    """

    name: str
    space: Region
    pixels: int
    blocks: int
    block: int = 0
    stores: tuple[str, ...] = ()
    kept: bool = False
    gathered: bool = False

    def words(self, images: int) -> int:
        """Return the buffer words of a window."""
        return self.blocks * images * self.pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Weights of a layer that are in the buffers at once.

    Parameters
    ----------
    index : int
        The layer.
    backward : bool
    first, count : int
        Tiles of outputs forward, of inputs backward.
    """

    index: int
    backward: bool
    first: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation:
    """One layer, in one direction, on a whole batch.

    Parameters
    ----------
    title : str
        For messages.
    reads, writes : tuple of Use
    emit : callable
        Return the descriptors of a piece, given the network as it then lies in the buffers.
    spare : callable
        Words needed besides in each space, given the images of a window.
    group : Group, optional
    whole : bool
        It takes the batch at once.
    """

    title: str
    reads: tuple[Use, ...]
    writes: tuple[Use, ...]
    emit: Callable[[Network, "Piece"], list[Descriptor]]
    spare: Callable[[int], dict[Region, int]] = lambda images: {}
    group: Group | None = None
    whole: bool = False


@dataclass(kw_only=True, slots=True, eq=False)
class Piece:
    """An operation on a window, and where its tensors lie in the buffers.

    Attributes
    ----------
    places : dict of str to int
        First word of each use, by name.
    in_place : set of str
        Uses that are read where the piece before wrote them.
    spares : dict of Region to int
        First word of what is needed besides.
    """

    operation: Operation
    window: Window
    step: Step
    places: dict[str, int] = field(default_factory=dict)
    in_place: set[str] = field(default_factory=set)
    spares: dict[Region, int] = field(default_factory=dict)

    def loaded(self) -> list[Use]:
        """Return the reads that come from memory."""
        return [use for use in self.operation.reads if use.name not in self.in_place]
