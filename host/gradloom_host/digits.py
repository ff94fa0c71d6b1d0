"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, shipped with that package."""

from dataclasses import dataclass

import numpy as np

from .missing import require

__all__ = ["Dataset", "digits"]

TEST_SHARE = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images as unsigned 8-bit activations in units of ``2**exponent``, and their labels."""

    name: str
    exponent: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def features(self) -> int:
        """Pixels of an image."""
        return self.train_images.shape[1]

    @property
    def classes(self) -> int:
        """Labels are 0 to classes - 1."""
        return int(self.train_labels.max()) + 1


def digits() -> Dataset:
    """Return the digits, four fifths to train and a fifth to test, split by class.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.
    """
    datasets = require("sklearn.datasets", "train")
    selection = require("sklearn.model_selection", "train")
    pixels, labels = datasets.load_digits(return_X_y=True)
    # Pixels are 0 to 16; 15 times that fills 8 bits.
    images = (pixels * 15).astype(np.int64)
    train, test, train_labels, test_labels = selection.train_test_split(
        images, labels, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
    return Dataset(
        name="digits", exponent=-8, train_images=train, train_labels=train_labels,
        test_images=test, test_labels=test_labels)
