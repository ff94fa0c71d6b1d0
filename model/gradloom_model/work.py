"""How a layer meets a machine: features of a tile, rows that stream, and chunks of them."""

from dataclasses import dataclass

import numpy as np

from .assumptions import Assumptions
from .geometry import Geometry

__all__ = ["Chunks", "Products", "Work", "ceil_div", "forward_work", "shares_rows"]

UNLIMITED = 1 << 62


def ceil_div(value, by):
    """Return the quotient, rounded up."""
    return -(-value // by)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chunks:
    """The passes into which rows are cut: `full` of `steps` rows, and `rests` of `rest`."""

    full: np.ndarray
    steps: np.ndarray
    rests: np.ndarray
    rest: np.ndarray

    @classmethod
    def of(cls, rows, image, limit) -> "Chunks":
        """Cut `rows` into whole images of at most `limit` rows, or where one exceeds that, in it.

        Parameters
        ----------
        rows, image : int arrays
        limit : int, array or None
        """
        limit = UNLIMITED if limit is None else limit
        rows = np.asarray(rows)
        # Pieces of an image, or of all images.
        piece = np.where(image <= limit, rows, np.minimum(image, rows))
        steps = np.where(image <= limit, limit // image * image, limit)
        steps = np.maximum(np.minimum(steps, piece), 1)
        pieces = rows // np.maximum(piece, 1)
        rest = piece % steps
        return cls(full=pieces * (piece // steps), steps=steps, rests=pieces * (rest > 0),
                   rest=rest)

    @property
    def count(self) -> np.ndarray:
        """Passes."""
        return self.full + self.rests

    def sum(self, cost) -> np.ndarray:
        """Return the sum over all passes of what `cost` gives for the rows of one."""
        return self.full * cost(self.steps) + np.where(
            self.rests > 0, self.rests * cost(self.rest), 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """A product for a machine, one entry a layer or a phase of one.

    Attributes
    ----------
    k, n : int arrays
        Features of the two sides, of all that shares a tile.
    taps : int array
        Positions of the kernel that have tiles of their own.
    copies : int array
        Such products beside each other.
    rows : int array
        Rows streamed, of all samples.
    image : int array
        Those of one sample.
    meetings : int array
        Pairs of a row and a tap that exist, of all samples.
    x_row : int array
        Elements of X that are read for all rows and taps, of all copies.
    all_k, all_n, all_w : int arrays
        Features of both sides and weights of all copies, without what fills tiles: a missing group,
        or what no two groups have in common.
    macs : int array
        Products of weights and rows that exist.
    parts : int array
        Passes into which the compiler splits each.
    overlapped : int array
        Elements of X where rows are patches that share pixels; 0 where a row is a pixel.
    starts : int array or None
        First entry of each layer, if layers have several (phases).
    """

    k: np.ndarray
    n: np.ndarray
    taps: np.ndarray
    copies: np.ndarray
    rows: np.ndarray
    image: np.ndarray
    meetings: np.ndarray
    x_row: np.ndarray
    all_k: np.ndarray
    all_n: np.ndarray
    all_w: np.ndarray
    macs: np.ndarray
    parts: np.ndarray
    overlapped: np.ndarray
    starts: np.ndarray | None = None

    def by_layer(self, value, combine=np.add) -> np.ndarray:
        """Return what the entries of each layer come to."""
        return value if self.starts is None else combine.reduceat(value, self.starts, axis=-1)

    def k_tiles(self, edge) -> np.ndarray:
        """Return the tiles of the k side on an edge."""
        return ceil_div(self.k, edge)

    def n_tiles(self, edge) -> np.ndarray:
        """Return the tiles of the n side on an edge."""
        return ceil_div(self.n, edge)

    def chunks(self, limit) -> Chunks:
        """Return the chunks of the rows."""
        return Chunks.of(self.rows, self.image, limit)


def _tile_features(shape: Geometry, a: Assumptions):
    """Return the features of both sides that share tiles, and how many such products there are."""
    k, n, groups = shape.inputs, shape.outputs, shape.groups
    grouped = (groups > 1) & ~shape.is_product
    if a.groups == "dense":
        copies = np.where(grouped, 1, groups)
        return k * np.where(grouped, groups, 1), n * np.where(grouped, groups, 1), copies
    together = np.clip(np.minimum(a.rows // k, a.columns // n), 1, np.where(grouped, groups, 1))
    return k * together, n * together, ceil_div(groups, together)


def _samples(shape: Geometry, copies, samples):
    """Return the samples whose rows follow each other, and the copies for all samples."""
    return (np.where(shape.is_product, 1, samples),
            copies * np.where(shape.is_product, samples, 1))


def _all(shape: Geometry, a: Assumptions, samples):
    """Return inputs, outputs and weights of a tap that exist, of all copies."""
    copies = shape.groups * np.where(shape.is_product, samples, 1)
    k, n = shape.inputs, shape.outputs
    meet = np.where((a.groups == "dense") & ~shape.is_product, shape.groups, 1)
    return copies * k, copies * n, copies * k * n * meet


def _macs(shape: Geometry, samples) -> np.ndarray:
    return samples * shape.meetings * shape.groups * shape.inputs * shape.outputs


def shares_rows(shape: Geometry, a: Assumptions) -> np.ndarray:
    """Return which layers put several taps on the rows of a tile, bool (L,)."""
    if a.taps == "first":
        return shape.is_first & ~shape.is_product
    return np.full(len(shape.taps), a.taps == "always")


def forward_work(shape: Geometry, a: Assumptions, samples) -> Work:
    """Return the product in which X moves with the taps: Y, or dW with D at rest."""
    k, n, copies = _tile_features(shape, a)
    macs = _macs(shape, samples)
    image = samples * shape.image * shape.groups * shape.inputs
    all_k, all_n, all_w = _all(shape, a, samples)
    samples, copies = _samples(shape, copies, samples)
    packed = shares_rows(shape, a)
    meetings = samples * shape.meetings
    rows = samples * shape.pixels
    if a.padding == "counted":
        x_row = copies * a.rows * np.where(packed, rows * ceil_div(k * shape.taps, a.rows),
                                           meetings * ceil_div(k, a.rows))
    else:
        x_row = meetings * all_k
    k, taps = np.where(packed, k * shape.taps, k), np.where(packed, 1, shape.taps)
    return Work(k=k, n=n, taps=taps, copies=copies, rows=rows, image=shape.pixels,
                meetings=np.where(packed, rows, meetings), x_row=x_row,
                all_k=np.where(packed, all_k * shape.taps, all_k), all_n=all_n,
                all_w=all_w * shape.taps, macs=macs,
                parts=np.ones_like(k), overlapped=np.where(packed & (shape.taps > 1), image, 0))


def _phase_work(shape: Geometry, a: Assumptions, samples) -> Work:
    """Return the products of the phases, in which D moves with the taps and X and dX stay."""
    layer = shape.phase_layer
    k, n, copies = _tile_features(shape, a)
    macs = _macs(shape, samples)
    every = _all(shape, a, samples)
    samples, copies = _samples(shape, copies, samples)
    rows = samples[..., layer] * shape.phase_pixels
    share = shape.phase_pixels * shape.phase_taps
    meetings = _shared(samples * shape.meetings, share, shape)
    dense = (a.groups == "dense") & (shape.groups > 1) & ~shape.is_product
    parts = np.where(dense, ceil_div(k, a.rows), 1)
    k, n, copies, parts, all_k, all_n, all_w = (
        value[..., layer] for value in (k, n, copies, parts, *every))
    return Work(k=k, n=n, taps=shape.phase_taps, copies=copies, rows=rows,
                image=shape.phase_pixels, meetings=meetings,
                x_row=rows * (copies * ceil_div(k, a.rows) * a.rows if a.padding == "counted"
                              else all_k),
                all_k=all_k, all_n=all_n, all_w=all_w * shape.phase_taps,
                macs=_shared(macs, share, shape), parts=parts, overlapped=np.zeros_like(k),
                starts=shape.phase_start)


def _shared(amount, share, shape: Geometry) -> np.ndarray:
    """Spread an amount of each layer over its phases, remainder first; sums are exact."""
    layer = shape.phase_layer
    whole = np.add.reduceat(share, shape.phase_start)[layer]
    found = amount[..., layer] * share // np.maximum(whole, 1)
    missing = amount - np.add.reduceat(found, shape.phase_start, axis=-1)
    found[..., shape.phase_start] += missing
    return found


class Products:
    """The products of a network on a machine, made once for each number of samples.

    Parameters
    ----------
    shape : Geometry
    a : Assumptions
    """

    def __init__(self, shape: Geometry, a: Assumptions):
        self.shape, self.a = shape, a
        self.patches = shares_rows(shape, a)
        self._made: dict[tuple[bool, bytes], Work] = {}

    def still(self, samples: np.ndarray) -> Work:
        """Return the product of each layer in which D, or Y, stays and X moves with the taps."""
        return self._once(False, samples)

    def moving(self, samples: np.ndarray) -> Work:
        """Return the products of an input gradient: phases, or patches if all layers share rows."""
        return self._once(self.a.taps != "always", samples)

    def _once(self, phases: bool, samples: np.ndarray) -> Work:
        key = phases, samples.tobytes()
        if key not in self._made:
            make = _phase_work if phases else forward_work
            self._made[key] = make(self.shape, self.a, samples)
        return self._made[key]
