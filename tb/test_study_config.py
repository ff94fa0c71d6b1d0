"""A study's configuration: what it makes, and what it refuses, by name."""

from pathlib import Path

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_study.config import read_study  # noqa: E402

ROOT = Path(__file__).parents[1]
GOOD = """
data = "digits"
seeds = [3, 4]
epochs = 2
[[network]]
name = "small"
kind = "mlp"
norm = "none"
[[policy]]
name = "int8"
[[policy]]
name = "sure"
skip = { kind = "threshold", probability = 0.9 }
[[policy]]
name = "chance"
skip = { kind = "random", follows = "sure" }
"""


def read(tmp_path, text):
    path = tmp_path / "some.toml"
    path.write_text(text)
    return read_study(path)


def test_a_grid_has_all_cells_seed_by_seed(tmp_path):
    study = read(tmp_path, GOOD)
    assert study.name == "some"
    assert [cell.name for cell in study.cells] == [
        f"small-{policy}-{seed}" for seed in (3, 4) for policy in ("int8", "sure", "chance")]
    assert [cell.follows for cell in study.cells[:3]] == ["", "", "small-sure-3"]


def test_a_fingerprint_differs_where_results_would(tmp_path):
    first = read(tmp_path, GOOD).cells[1].fingerprint()
    assert read(tmp_path, GOOD.replace("[3, 4]", "[3]")).cells[1].fingerprint() == first
    for old, new in (("epochs = 2", "epochs = 3"), ("0.9", "0.8"), ('kind = "mlp"',
                     'kind = "mlp"\nhidden = [8]'), ("[3, 4]", "[5, 4]")):
        assert read(tmp_path, GOOD.replace(old, new)).cells[1].fingerprint() != first, new


@pytest.mark.parametrize(("old", "new", "message"), [
    ("data =", "data ", "some.toml is no TOML"),
    ('data = "digits"', "", "data is missing: choose from digits"),
    ('"digits"', '"words"', "unknown data 'words'; choose from digits, fashion-mnist, cifar10"),
    ("epochs = 2", "epochs = 0", "epochs must be at least 1, not 0"),
    ("epochs = 2", 'epochs = "two"', "epochs must be of type int, not 'two'"),
    ("epochs = 2", "batch = 48", "batch must be a power of two from 2, not 48"),
    ("epochs = 2", "test_every = 0", "test_every must be at least 1, not 0"),
    ("epochs = 2", "shift = -1", "shift must be at least 0, not -1"),
    ("epochs = 2", "epoch = 2", "study has no 'epoch'; choose from angles, batch"),
    ("seeds = [3, 4]", "seeds = []", "needs at least one network, one policy and one seed"),
    ('kind = "mlp"', 'kind = "net"', "network 'small': kind must be one of resnet20, resnet8, vgg, "
                                     "mlp, not 'net'"),
    ('norm = "none"', 'norm = "layer"', "norm must be one of batch, none, not 'layer'"),
    ('name = "small"', "", "a network lacks its name: add one"),
    ('name = "int8"', "", "a policy lacks its name: add one"),
    ('name = "int8"', 'name = "sure"', "two policies are called 'sure': rename one"),
    ('name = "int8"', 'name = "int8"\nskips = 1', "policy 'int8' has no 'skips'; choose from"),
    ('name = "int8"', 'name = "int8"\narithmetic = "half"',
     "policy 'int8': arithmetic must be integer or float, not 'half'"),
    ("0.9", "1.5", "policy 'sure': probability must be between 0 and 1, not 1.5"),
    ('follows = "sure"', 'follows = "later"',
     "policy 'chance' follows 'later', which does not come before it: put it there"),
])
def test_what_makes_no_study_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=message):
        read(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize("path", [
    *sorted((ROOT / "examples").glob("*.toml")), *sorted((ROOT / "results").glob("*.toml"))],
    ids=lambda path: path.stem)
def test_shipped_configurations_are_studies(path):
    assert read_study(path).cells
