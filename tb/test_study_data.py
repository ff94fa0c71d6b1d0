"""Data to study with: standard layouts are read, damage is named with its remedy."""

import pickle

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[study]'")

from gradloom_study.data import DATA, DATA_SHAPES, augment, load  # noqa: E402

PARTS = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
COUNT = 3


@pytest.fixture
def samples():
    rng = np.random.default_rng(1)
    return {name: (rng.integers(0, 256, (COUNT, 3072), dtype=np.uint8),
                   rng.integers(0, 10, COUNT)) for name in PARTS}


@pytest.fixture(params=["binary", "python", "binary in its folder"])
def folder(request, samples, tmp_path):
    inner = tmp_path / "cifar-10-batches-bin" if "folder" in request.param else tmp_path
    inner.mkdir(exist_ok=True)
    for name, (planes, labels) in samples.items():
        if request.param == "python":
            content = {b"data": planes, b"labels": labels.tolist(), b"batch_label": name.encode()}
            (inner / name).write_bytes(pickle.dumps(content, protocol=2))
        else:
            records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
            (inner / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path


def test_both_layouts_of_cifar10_are_read(folder, samples):
    found = load("cifar10", folder)
    assert found.train_images.shape == (5 * COUNT, 32, 32, 3)
    assert (found.shape, found.classes <= 10) == (DATA_SHAPES["cifar10"][0], True)
    planes, labels = samples["data_batch_2"]
    np.testing.assert_array_equal(found.train_labels[COUNT:2 * COUNT], labels)
    # Planes of red, green, blue, each row after row.
    assert found.train_images[COUNT, 5, 7, 1] == planes[0, 1024 + 5 * 32 + 7]
    np.testing.assert_array_equal(found.test_labels, samples["test_batch"][1])


def test_digits_come_with_scikit_learn(tmp_path):
    with pytest.raises(ValueError, match=r"digits come with scikit-learn, not from .*: leave"):
        load("digits", tmp_path)
    pytest.importorskip("sklearn")
    found = load("digits")
    assert (found.shape, found.classes) == DATA_SHAPES["digits"]
    assert found.train_images.max() == 240
    some = found.first(100, 7)
    assert (len(some.train_labels), len(some.test_images)) == (100, 7)
    assert len(found.first(None, None).train_labels) == len(found.train_labels)


def test_fashion_mnist_is_read_from_idx(tmp_path):
    for part, count in (("train", 4), ("t10k", 2)):
        images = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        header = np.array([0x803, count, 28, 28], ">u4").tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8)
        header = np.array([0x801, count], ">u4").tobytes()
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    found = load("fashion-mnist", tmp_path)
    assert found.shape == DATA_SHAPES["fashion-mnist"][0]
    assert found.train_images.flags.writeable
    assert found.test_images.flags.writeable
    assert found.train_images[1, 0, 5, 0] == (784 + 5) % 256


def test_shapes_are_known_of_all_data():
    assert DATA_SHAPES.keys() == DATA.keys()


@pytest.mark.parametrize("change", ["short", "cut", "label", "missing", "empty"])
def test_a_damaged_binary_is_named(samples, tmp_path, change):
    for name, (planes, labels) in samples.items():
        records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    path = tmp_path / "data_batch_4.bin"
    raw = bytearray(path.read_bytes())
    if change == "short":
        path.write_bytes(raw[:-1])
    elif change == "cut":
        path.write_bytes(raw[:-3073])
    elif change == "label":
        raw[0] = 77
        path.write_bytes(raw)
    elif change == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    kind, message = {
        "short": (ValueError, "data_batch_4.bin has 9218 bytes, no whole number of records of 3073"
                  ),
        "cut": (ValueError, "data_batch_4.bin holds 2 images, fewer than another batch"),
        "label": (ValueError, "data_batch_4.bin holds label 77, not 0 to 9"),
        "missing": (FileNotFoundError, "There is no file .*data_batch_4.bin"),
        "empty": (ValueError, "data_batch_4.bin holds nothing"),
    }[change]
    with pytest.raises(kind, match=message + ".*: get the binary or the python version from https"):
        load("cifar10", tmp_path)


class _Call:
    def __reduce__(self):
        return print, ("called",)


@pytest.mark.parametrize(("content", "message"), [
    (pickle.dumps(_Call()), "it asks for builtins.print"),
    (pickle.dumps({b"labels": [1]}), "b'data'"),
    (pickle.dumps([1]), "indices must be integers"),
    (b"", "pickle exhausted before seeing STOP"),
    (b"\x80\x02}r\x00\x00\x000.", "it numbers more objects than it can hold"),
    (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": 1}),
     "labels are int64 of shape"),
    (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0.5]}),
     "labels are float64"),
    (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}),
     "labels are <U1"),
    (pickle.dumps({b"data": np.zeros((1, 5), np.uint8), b"labels": [1]}, protocol=2),
     r"uint8 of shape \(1, 5\), not bytes of shape \(1, 3072\)"),
])
def test_a_python_batch_that_is_none_is_named(tmp_path, capsys, content, message):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_1 .*{message}.*: get the binary"):
        load("cifar10", tmp_path)
    assert "called" not in capsys.readouterr().out


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="unknown data 'mnist'; choose from digits, fashion-mnist, "
                                         "cifar10"):
        load("mnist")
    with pytest.raises(ValueError, match="cifar10 does not come with gradloom: get the binary"):
        load("cifar10")
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere: get"):
        load("cifar10", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds neither data_batch_1"):
        load("cifar10", tmp_path)


def test_augmentation_moves_and_mirrors():
    rng = np.random.default_rng(1)
    images = np.zeros((400, 9, 9, 2), np.uint8)
    images[:, 4, 4, 0], images[:, 4, 5, 1] = 200, 100
    found = augment(images, rng, shift=2, flip=True)
    count, y, x, channel = np.nonzero(found == 200)
    np.testing.assert_array_equal(count, np.arange(400))
    assert (set(y), set(channel)) == ({2, 3, 4, 5, 6}, {0})
    beside = np.nonzero(found == 100)[2] - x
    assert set(beside) == {-1, 1}
    assert 150 < (beside == 1).sum() < 250
    np.testing.assert_array_equal(augment(images, rng, shift=0, flip=False), images)
