"""Small studies for tests: easy images, a network of a moment, policies of every kind."""

import numpy as np

from gradloom_study.config import PolicySpec, Study
from gradloom_study.data import Images

__all__ = ["POLICIES", "easy_images", "small_study"]

POLICIES = (
    PolicySpec(name="int8"),
    PolicySpec(name="float", arithmetic="float"),
    PolicySpec(name="budget", skip={"kind": "budget", "error": 0.3}),
    PolicySpec(name="random", skip={"kind": "random", "follows": "budget"}),
    PolicySpec(name="shorter", like="budget"),
    PolicySpec(name="dbpd", skip={"kind": "dbpd"}),
    PolicySpec(name="importance", skip={"kind": "importance", "extra": 1}),
    PolicySpec(name="infobatch", skip={"kind": "infobatch"}),
    PolicySpec(name="angle", precision={"kind": "angle"}),
)


def easy_images(count: int = 128, edge: int = 8, classes: int = 2) -> Images:
    """Return images whose brightness tells the label, as does a quarter that is brighter."""
    rng = np.random.default_rng(7)

    def draw(number):
        labels = rng.integers(0, classes, number)
        images = rng.integers(0, 60, (number, edge, edge, 1), dtype=np.uint8)
        half = edge // 2
        for image, label in zip(images, labels):
            image[:] += np.uint8(120 // classes * label)
            image[label // 2 * half:][:half, label % 2 * half:][:, :half] += 60
        return images, labels

    (train, train_labels), (test, test_labels) = draw(count), draw(64)
    return Images(name="easy", train_images=train, train_labels=train_labels, test_images=test,
                  test_labels=test_labels)


def small_study(**changes) -> Study:
    """Return a study of `easy_images`, or of the digits, which its name says."""
    options = {
        "name": "small", "data": "digits", "networks": {"net": {
            "kind": "mlp", "norm": "none", "hidden": [12]}}, "policies": POLICIES,
        "epochs": 3, "batch": 16, "rate": 3} | changes
    return Study(**options)
