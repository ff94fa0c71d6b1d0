"""A study's configuration: what it makes, and what it refuses, by name."""

from pathlib import Path

import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_study import config  # noqa: E402
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
    assert [cell.follows and cell.follows.name for cell in study.cells[:3]] == [
        None, None, "small-sure-3"]


def test_a_fingerprint_differs_where_results_would(tmp_path):
    first = read(tmp_path, GOOD).cells[1].fingerprint()
    assert read(tmp_path, GOOD.replace("[3, 4]", "[3]")).cells[1].fingerprint() == first
    for old, new in (("epochs = 2", "epochs = 3"), ("0.9", "0.8"), ('kind = "mlp"',
                     'kind = "mlp"\nhidden = [8]'), ("[3, 4]", "[5, 4]")):
        assert read(tmp_path, GOOD.replace(old, new)).cells[1].fingerprint() != first, new


def test_a_fingerprint_is_also_of_the_version(tmp_path, monkeypatch):
    first = read(tmp_path, GOOD).cells[0].fingerprint()
    monkeypatch.setattr(config, "VERSION", config.VERSION + 1)
    assert read(tmp_path, GOOD).cells[0].fingerprint() != first


def test_a_fingerprint_is_also_that_of_what_is_followed_and_of_defaults(tmp_path):
    follower = read(tmp_path, GOOD).cells[2].fingerprint()
    assert read(tmp_path, GOOD.replace("0.9", "0.8")).cells[2].fingerprint() != follower
    default = GOOD.replace("2\n", "2\nflip = false\n")
    assert read(tmp_path, default).cells[2].fingerprint() == follower
    first, second = (
        read(tmp_path, GOOD.replace('name = "int8"', f'name = "int8"\nprecision = {table}'))
        for table in ('{ kind = "angle" }', '{ kind = "angle", reserve = 0.5 }'))
    assert first == second
    assert first.policies[0].precision["reserve"] == 0.5


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
    ("epochs = 2", "rate = -3", "rate must be at least 0, not -3"),
    ('name = "int8"', 'name = "int8"\nskip = { kind = "importance", extra = 5 }',
     r"policy 'int8' has an extra of 5, for which no rate of 2\^-4 can make up: raise rate to 5"),
    ('name = "int8"', 'name = "int8"\nskip = { kind = "importance", extra = [0, 6, 1] }',
     r"policy 'int8' has an extra of 6, for which no rate of 2\^-4 can make up: raise rate to 6"),
    ("epochs = 2", "momentum = -1", "momentum must be at least 0, not -1"),
    ("epochs = 2", "train_samples = -5", "train_samples must be at least 0, not -5"),
    ("epochs = 2", "test_samples = -5", "test_samples must be at least 0, not -5"),
    ("epochs = 2", "halvings = [0.5, nan]", "halvings must be shares from 0 to 1, not nan"),
    ("epochs = 2", "halvings = 0.5", "halvings must be a list, not 0.5"),
    ("epochs = 2", 'name = "../out"', "'../out' is to be part of a file's name: use other"),
    ("[3, 4]", "3", "seeds must be a list, not 3"),
    ("[3, 4]", "[3, 3]", r"seeds must be integers from 0, each once, not \[3, 3\]"),
    ("[3, 4]", '["a"]', r"seeds must be integers from 0, each once, not \['a'\]"),
    ("[[network]]", "[network]", r"network must be tables, each under \[\[network\]\]"),
    ("[[policy]]", '[[network]]\nname = "small"\nkind = "mlp"\n[[policy]]',
     "two networks are called 'small': rename one"),
    ("[[policy]]", '[[network]]\nname = "small-sure"\nkind = "mlp"\n[[policy]]\n'
     'name = "sure-sure"\n[[policy]]',
     "two runs would be called 'small-sure-sure-3': rename a network or a policy"),
    ('kind = "mlp"', 'kind = "mlp"\nhidden = 8', "network 'small': hidden must be a list of"),
    ('kind = "mlp"', 'kind = "mlp"\nwide = 8', "network 'small': .*'wide'"),
    ('kind = "mlp"', 'kind = "resnet8"\nwidth = 1.5',
     "network 'small': width must be an integer of at least 1, not 1.5"),
    ('name = "int8"', 'name = "a/b"', "'a/b' is to be part of a file's name: use other"),
    ('name = "int8"', "name = 3", "a policy's name must be of type str, not 3"),
    ('name = "small"', 'name = ["a"]', r"a network's name must be of type str, not \['a'\]"),
    ('kind = "mlp"', 'kind = ["mlp"]', r"kind must be one of .*, not \['mlp'\]"),
    ('name = "int8"', 'name = "int8"\nskip = { kind = ["none"] }', r"unknown skip \['none'\]"),
    ('name = "int8"', 'name = "int8"\narithmetic = "float"\nprecision = { bits = 2 }',
     "policy 'int8' is in float, which has no bits to choose: leave out precision"),
    ("epochs = 2", "halvings = [true]", "halvings must be shares from 0 to 1, not True"),
    ('name = "int8"', 'name = "int8"\nepochs = 1.5',
     "policy 'int8': epochs must be of type int, not 1.5"),
    ('name = "int8"', 'name = "int8"\nepochs = -3', "epochs must be at least 1, not -3"),
    ('name = "int8"', 'name = "int8"\nskip = "threshold"', "skip must be a table like"),
    ('skip = { kind = "random", follows = "sure" }', 'like = "sure"\nepochs = 3',
     "policy 'chance' is like 'sure', which says how long it is"),
    ('skip = { kind = "random", follows = "sure" }',
     'like = "sure"\nskip = { kind = "threshold", probability = 0.5 }',
     "policy 'chance' is like 'sure', which says how long it is"),
    ('name = "chance"', 'name = "chance"\nepochs = 5', "'chance' follows 'sure' epoch by epoch"),
    ("0.9", "1.5", "policy 'sure': probability must be between 0 and 1, not 1.5"),
    ('follows = "sure"', 'follows = "later"',
     "policy 'chance' follows 'later', which does not come before it: put it there"),
])
def test_what_makes_no_study_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises((ValueError, TypeError), match=message):
        read(tmp_path, GOOD.replace(old, new, 1))


def test_text_of_another_encoding_is_no_study(tmp_path):
    path = tmp_path / "some.toml"
    path.write_bytes(b'data = "\xff"')
    with pytest.raises(ValueError, match=r"some\.toml is no TOML"):
        read_study(path)


@pytest.mark.parametrize("path", [
    *sorted((ROOT / "examples").glob("*.toml")), *sorted((ROOT / "results").glob("*.toml"))],
    ids=lambda path: path.stem)
def test_shipped_configurations_are_studies(path):
    assert read_study(path).cells
