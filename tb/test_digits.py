"""The digits dataset: what scikit-learn ships, scaled to 8 bits and split by class."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradloom_host.digits import digits
from gradloom_host.missing import MissingExtraError

IMAGES, PIXELS, CLASSES = 1797, 64, 10


@pytest.fixture(scope="module")
def data():
    return digits()


def test_sizes(data):
    assert (data.features, data.classes) == (PIXELS, CLASSES)
    assert len(data.train_images) == len(data.train_labels)
    assert len(data.test_images) == len(data.test_labels) == 360
    assert len(data.train_images) + len(data.test_images) == IMAGES


def test_images_are_the_published_ones_times_fifteen(data):
    pixels, labels = load_digits(return_X_y=True)
    scaled = np.column_stack([np.rint(pixels * 15), labels])
    found = np.concatenate([
        np.column_stack([data.train_images, data.train_labels]),
        np.column_stack([data.test_images, data.test_labels])])
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(scaled, axis=0))


def test_images_fill_eight_unsigned_bits_and_stand_for_at_most_one(data):
    assert data.train_images.dtype.kind == "i"
    assert data.train_images.min() == 0
    assert 128 <= data.train_images.max() <= 255
    assert 0.5 < data.train_images.max() * 2.0 ** data.exponent <= 1


def test_both_parts_hold_every_class_in_the_same_share(data):
    train = np.bincount(data.train_labels) / len(data.train_labels)
    test = np.bincount(data.test_labels) / len(data.test_labels)
    np.testing.assert_allclose(train, test, atol=0.005)


def test_the_split_never_changes(data):
    again = digits()
    np.testing.assert_array_equal(again.train_images, data.train_images)
    np.testing.assert_array_equal(again.test_labels, data.test_labels)


def test_absent_scikit_learn_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gradloom\[train\]'"):
        digits()
