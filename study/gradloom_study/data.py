"""Images to study with: scikit-learn's, and standard layouts in a folder that the user names."""

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradloom_host.digits import digits
from gradloom_host.graph import Shape
from gradloom_host.idx import load_idx

__all__ = ["DATA", "DATA_SHAPES", "Images", "augment", "cifar10", "load"]

EDGE = 32
CHANNELS = 3
CLASSES = 10
RECORD = 1 + CHANNELS * EDGE * EDGE
REMEDY = ("get the binary or the python version from https://www.cs.toronto.edu/~kriz/cifar.html, "
          "unpack it, and name its folder with --data DIR")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Images:
    """Images uint8 (N, height, width, channels), and labels int64 (N,)."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def shape(self) -> Shape:
        """Of an image."""
        height, width, channels = self.train_images.shape[1:]
        return Shape(channels, height, width)

    @property
    def classes(self) -> int:
        """Labels are 0 to classes - 1."""
        return int(self.train_labels.max()) + 1

    def first(self, train: int | None, test: int | None) -> "Images":
        """Return only the first samples of both parts; None leaves a part as it is."""
        return Images(
            name=self.name,
            train_images=self.train_images[:train], train_labels=self.train_labels[:train],
            test_images=self.test_images[:test], test_labels=self.test_labels[:test])


def _digits(folder: Path | None) -> Images:
    if folder is not None:
        raise ValueError(f"digits come with scikit-learn, not from {folder}: leave out --data")
    raw = digits()
    shape = (-1, 8, 8, 1)
    return Images(
        name="digits", train_images=raw.train_images.reshape(shape).astype(np.uint8),
        train_labels=raw.train_labels.astype(np.int64),
        test_images=raw.test_images.reshape(shape).astype(np.uint8),
        test_labels=raw.test_labels.astype(np.int64))


def _fashion_mnist(folder: Path | None) -> Images:
    raw = load_idx(folder)
    # Copies: PyTorch warns of arrays that are read-only.
    return Images(
        name="fashion-mnist",
        train_images=raw.train_images[..., None].copy(),
        train_labels=raw.train_labels.astype(np.int64),
        test_images=raw.test_images[..., None].copy(),
        test_labels=raw.test_labels.astype(np.int64))


def cifar10(folder: Path | None) -> Images:
    """Read CIFAR-10, binary (``data_batch_1.bin``) or python version (``data_batch_1``).

    Parameters
    ----------
    folder : path
        That holds the six files, or holds their folder as it was unpacked.

    Raises
    ------
    ValueError
        If no folder is named, or a file is damaged.
    FileNotFoundError
        If a folder or file is not there.
    """
    if folder is None:
        raise ValueError(f"cifar10 does not come with gradloom: {REMEDY}")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: {REMEDY}")
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        for suffix, read in ((".bin", _binary), ("", _python)):
            if (place / f"data_batch_1{suffix}").is_file():
                paths = [place / f"data_batch_{number}{suffix}" for number in range(1, 6)]
                parts = [_part(path, read) for path in paths]
                longest = max(len(labels) for _, labels in parts)
                for path, (_, labels) in zip(paths, parts, strict=True):
                    if len(labels) < longest:
                        raise ValueError(f"{path} holds {len(labels)} images, fewer than another "
                                         f"batch: {REMEDY}")
                test_images, test_labels = _part(place / f"test_batch{suffix}", read)
                return Images(
                    name="cifar10", train_images=np.concatenate([part[0] for part in parts]),
                    train_labels=np.concatenate([part[1] for part in parts]),
                    test_images=test_images, test_labels=test_labels)
    raise FileNotFoundError(f"{folder} holds neither data_batch_1.bin nor data_batch_1: {REMEDY}")


def _part(path: Path, read: Callable[[Path], tuple[np.ndarray, np.ndarray]]):
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: {REMEDY}")
    planes, labels = read(path)
    if not len(labels):
        raise ValueError(f"{path} holds nothing: {REMEDY}")
    if labels.max() >= CLASSES or labels.min() < 0:
        worst = labels.max() if labels.max() >= CLASSES else labels.min()
        raise ValueError(f"{path} holds label {worst}, not 0 to {CLASSES - 1}: {REMEDY}")
    images = planes.reshape(-1, CHANNELS, EDGE, EDGE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if len(content) % RECORD:
        raise ValueError(
            f"{path} has {len(content)} bytes, no whole number of records of {RECORD}: {REMEDY}")
    records = content.reshape(-1, RECORD)
    return records[:, 1:], records[:, 0]


class _Plain(pickle.Unpickler):
    """Reads arrays, lists and names; a pickle can ask for any function, and gets no other."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype", "scalar")

    def find_class(self, module, name):
        if name in self.ALLOWED and module.split(".")[0] == "numpy":
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = path.read_bytes()
    try:
        # Places of a memo beyond the file's length would only make the reader take memory.
        if any(operation.name == "LONG_BINPUT" and (place or 0) > len(raw)
               for operation, place, _ in pickletools.genops(raw)):
            raise ValueError("it numbers more objects than it can hold")
        content = _Plain(io.BytesIO(raw), encoding="bytes").load()
        planes, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}")
    except (pickle.UnpicklingError, LookupError, TypeError, EOFError, ValueError,
            AttributeError, MemoryError) as error:
        raise ValueError(f"{path} is no batch of CIFAR-10 ({error}): {REMEDY}") from error
    if planes.shape != (len(labels), RECORD - 1) or planes.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {planes.dtype} of shape {planes.shape}, not bytes of shape "
            f"{(len(labels), RECORD - 1)}: {REMEDY}")
    return planes, labels


DATA: dict[str, Callable[[Path | None], Images]] = {
    "digits": _digits, "fashion-mnist": _fashion_mnist, "cifar10": cifar10,
}
"""By the name that a study's configuration uses."""

DATA_SHAPES = {
    "digits": (Shape(1, 8, 8), 10), "fashion-mnist": (Shape(1, 28, 28), 10),
    "cifar10": (Shape(CHANNELS, EDGE, EDGE), CLASSES),
}
"""Shape of an image, and classes, to be known without the data."""


def load(name: str, folder: Path | None = None) -> Images:
    """Return the images called `name`.

    Raises
    ------
    ValueError
        If there are none of that name, or what the folder holds is damaged.
    FileNotFoundError
        If they are not where they should be.
    MissingExtraError
        If they need a package that is not installed.
    """
    if name not in DATA:
        raise ValueError(f"unknown data {name!r}; choose from {', '.join(DATA)}")
    return DATA[name](folder)


def augment(images: np.ndarray, rng: np.random.Generator, *, shift: int,
            flip: bool) -> np.ndarray:
    """Return images moved by up to `shift` pixels each way, with zeros around, perhaps mirrored."""
    count, height, width, channels = images.shape
    padded = np.zeros((count, height + 2 * shift, width + 2 * shift, channels), np.uint8)
    padded[:, shift:shift + height, shift:shift + width] = images
    y, x = rng.integers(0, 2 * shift + 1, (2, count))
    rows = y[:, None] + np.arange(height)
    columns = x[:, None] + np.arange(width)
    if flip:
        mirrored = rng.random(count) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
