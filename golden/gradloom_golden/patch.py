"""Patches: how a first layer, whose pixels have few channels, still fills the rows of the array.

The window of a kernel, flattened as (tap row, tap, channel), is cut into tiles of `rows` elements
as the features of a fully connected layer are. The image lies in memory as it is, element (y, x, c)
at ``y pitch + x channels + c``; its pitch is congruent to the elements that the window takes of one
image row, modulo the lanes of a word. Then element f of the window lies in bank ``n + f`` modulo
lanes if element 0 lies in bank n, and each bank is read once.
"""

from dataclasses import dataclass

import numpy as np

from .config import Config
from .program import DESCRIPTOR_FIELDS, Descriptor

__all__ = ["ImageLayout", "patches"]


def patches(config: Config, image_words, elements, d: Descriptor, *, block: int = 0) -> np.ndarray:
    """Return one tile of the window of each step, shape (T, rows).

    Parameters
    ----------
    image_words : int array (image_depth, lane_count)
    elements : int array (T,)
        Where element 0 of the window lies, plus ``block * rows``; wraps at the end of the buffer.
    d : Descriptor
        `patch_row` elements of the window lie together, `patch_step` words are skipped after
        them, and the window has `patch_lanes`. Beyond those are zeros.
    block : int
        Which tile of the window.
    """
    lane = np.arange(config.rows)
    flat = block * config.rows + lane
    skipped = flat // d.patch_row * d.patch_step * config.lane_count
    place = np.asarray(elements, np.int64)[:, None] + lane + skipped
    values = np.ravel(image_words)[place % np.size(image_words)]
    return np.where(flat < d.patch_lanes, values, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLayout:
    """How the images of a first layer lie in the image buffer, borders included as zeros.

    Parameters
    ----------
    height, width, channels : int
        Of an image, without borders.
    kernel : (int, int)
        Taps in y and in x.
    stride, pad : int
        Pixels, the same in y and in x.
    rows, lanes : int
        Rows of the array, and elements of a word.

    Raises
    ------
    ValueError
        If a size is out of range, the kernel exceeds the image, or the descriptor lacks the bits.
    """

    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    pad: int = 0
    rows: int
    lanes: int

    def __post_init__(self):
        for name, value, least in (
            ("height", self.height, 1), ("width", self.width, 1), ("channels", self.channels, 1),
            ("kernel", min(self.kernel), 1), ("stride", self.stride, 1), ("pad", self.pad, 0),
            ("rows", self.rows, 1), ("lanes", self.lanes, self.rows),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
        if self.out_height < 1 or self.out_width < 1:
            raise ValueError(
                f"a kernel of {self.kernel} taps exceeds an image of {self.height} x {self.width} "
                f"pixels with {self.pad} around: pad it more")
        for name in ("patch_row", "patch_step", "patch_lanes", "x_pixel", "x_row", "x_image"):
            value, limit = getattr(self, name), (1 << DESCRIPTOR_FIELDS[name][2]) - 1
            if value > limit:
                raise ValueError(
                    f"{name} is {value}, but its field ends at {limit}: use smaller images or a "
                    "smaller kernel")

    @property
    def patch_row(self) -> int:
        """Elements that the window takes of an image row."""
        return self.kernel[1] * self.channels

    @property
    def patch_lanes(self) -> int:
        """Elements of the window."""
        return self.kernel[0] * self.patch_row

    @property
    def pitch(self) -> int:
        """Elements from one row of an image to the next."""
        least = (self.width + 2 * self.pad) * self.channels
        return least + (self.patch_row - least) % self.lanes

    @property
    def patch_step(self) -> int:
        """Words to skip from the end of one row of a window to the next."""
        return (self.pitch - self.patch_row) // self.lanes

    @property
    def k_tiles(self) -> int:
        """Tiles of the window; each begins `rows` elements after the one before."""
        return -(-self.patch_lanes // self.rows)

    @property
    def out_height(self) -> int:
        """Windows from top to bottom."""
        return (self.height + 2 * self.pad - self.kernel[0]) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Windows in a row."""
        return (self.width + 2 * self.pad - self.kernel[1]) // self.stride + 1

    @property
    def x_pixel(self) -> int:
        """Elements from one window to the next."""
        return self.stride * self.channels

    @property
    def x_row(self) -> int:
        """Elements from one row of windows to the next."""
        return self.stride * self.pitch

    @property
    def x_image(self) -> int:
        """Elements from one image to the next, a multiple of `lanes`."""
        rows = (self.height + 2 * self.pad) * self.pitch
        return rows + -rows % self.lanes

    @property
    def used_rows(self) -> tuple[int, int]:
        """Rows of the array that hold an element of the window, of those in all tiles."""
        return self.patch_lanes, self.k_tiles * self.rows

    def words(self, images) -> np.ndarray:
        """Lay images out, shape (N * x_image / lanes, lanes).

        Parameters
        ----------
        images : int array (N, height, width, channels)

        Raises
        ------
        ValueError
            If their shape is another.
        """
        images = np.asarray(images)
        shape = (len(images), self.height, self.width, self.channels)
        if images.shape != shape:
            raise ValueError(f"images must have shape {shape}, not {images.shape}")
        width = self.width * self.channels
        left = self.pad * self.channels
        rows = np.zeros((len(images), self.height + 2 * self.pad, self.pitch), np.int64)
        rows[:, self.pad:self.pad + self.height, left:left + width] = images.reshape(
            len(images), self.height, width)
        words = np.zeros((len(images), self.x_image), np.int64)
        words[:, :rows[0].size] = rows.reshape(len(images), -1)
        return words.reshape(-1, self.lanes)
