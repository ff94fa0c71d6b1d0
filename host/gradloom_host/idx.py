"""Fashion-MNIST, or any data laid out like it: four IDX files in one folder, plain or gzipped."""

import gzip
import zlib
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path

import numpy as np

__all__ = ["CLASSES", "DEBIAN_FOLDER", "SIDE", "IdxImages", "load_idx"]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

SIDE = 28
CLASSES = 10

# Two zero bytes, 8 for unsigned bytes, and the number of dimensions.
LABELS_MAGIC = 0x0000_0801
IMAGES_MAGIC = 0x0000_0803

REMEDY = ("install Debian's package with 'apt-get install dataset-fashion-mnist', or name the "
          "folder of the four files with --data DIR")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IdxImages:
    """Images to train and to test with; the arrays are read-only.

    Parameters
    ----------
    train_images, test_images : uint8 array (N, 28, 28)
        Rows from the top, pixels from the left; 0 is background, 255 full ink.
    train_labels, test_labels : uint8 array (N,)
        0 to 9.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_idx(folder: str | PathLike[str] | None = None) -> IdxImages:
    """Read ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, each plain or with ``.gz``.

    Of a file that is there in both forms the plain one is read.

    Parameters
    ----------
    folder : path, optional
        `DEBIAN_FOLDER` unless given.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the files is not there.
    ValueError
        If a file is damaged, or holds anything but 28x28 images or labels 0 to 9.
    """
    folder = DEBIAN_FOLDER if folder is None else Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: {REMEDY}")
    train_images, train_labels = _part(folder, "train")
    test_images, test_labels = _part(folder, "t10k")
    return IdxImages(train_images=train_images, train_labels=train_labels,
                     test_images=test_images, test_labels=test_labels)


def _part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(folder, f"{part}-images-idx3-ubyte")
    labels_path = _find(folder, f"{part}-labels-idx1-ubyte")
    images = _read(images_path, IMAGES_MAGIC)
    if images.shape[1:] != (SIDE, SIDE):
        height, width = images.shape[1:]
        raise ValueError(
            f"{images_path} holds images of {height}x{width} pixels, not {SIDE}x{SIDE}: {REMEDY}")
    labels = _read(labels_path, LABELS_MAGIC)
    if len(labels) != len(images):
        raise ValueError(
            f"{labels_path} holds {len(labels)} labels for {len(images)} images: {REMEDY}")
    if labels.max() >= CLASSES:
        raise ValueError(
            f"{labels_path} holds label {labels.max()}, above {CLASSES - 1}: {REMEDY}")
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz: {REMEDY}")


def _read(path: Path, magic: int) -> np.ndarray:
    """Return the array in an IDX file of unsigned bytes."""
    content = _content(path)
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(
            f"{path} has {len(content)} bytes, fewer than its header's {start}: {REMEDY}")
    found, *shape = (int(word) for word in np.frombuffer(content, ">u4", 1 + dimensions))
    if found != magic:
        raise ValueError(f"{path} starts with {found:#010x}, not {magic:#010x}: {REMEDY}")
    elements = prod(shape)
    size = start + elements
    if len(content) != size:
        raise ValueError(
            f"{path} has {len(content)} bytes, not the {size} that its header tells: {REMEDY}")
    if not elements:
        raise ValueError(f"{path} holds nothing: {REMEDY}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed ({error}): {REMEDY}") from error
