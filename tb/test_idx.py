"""IDX files: what is read, and every way in which a file can be wrong."""

import gzip
import struct

import numpy as np
import pytest

from gradloom_host import idx
from gradloom_host.idx import DEBIAN_FOLDER, load_idx

TRAIN, TEST = 5, 3
IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
REMEDY = "apt-get install dataset-fashion-mnist.* --data DIR"


def idx_bytes(array):
    """Return an unsigned-byte array as an IDX file, written from the format's description."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {
        f"{part}-{kind}": rng.integers(0, high, (count, *shape), dtype=np.uint8)
        for part, count in (("train", TRAIN), ("t10k", TEST))
        for kind, high, shape in (
            ("images-idx3-ubyte", 256, (28, 28)), ("labels-idx1-ubyte", 10, ()))
    }


@pytest.fixture
def folder(tmp_path, arrays):
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx_bytes(array))
    return tmp_path


def compress(path):
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


@pytest.mark.parametrize("compressed", [(), (IMAGES,), "all"])
def test_reads_what_was_written_plain_or_compressed(folder, arrays, compressed):
    for name in arrays if compressed == "all" else compressed:
        compress(folder / name)
    data = load_idx(str(folder))
    for found, name in (
        (data.train_images, IMAGES), (data.train_labels, LABELS),
        (data.test_images, "t10k-images-idx3-ubyte"), (data.test_labels, "t10k-labels-idx1-ubyte"),
    ):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, arrays[name], strict=True)


def test_arrays_are_read_only(folder):
    with pytest.raises(ValueError, match="read-only"):
        load_idx(folder).train_images[0, 0, 0] = 1


def test_of_both_forms_the_plain_file_is_read(folder, arrays):
    (folder / f"{IMAGES}.gz").write_bytes(b"never looked at")
    np.testing.assert_array_equal(load_idx(folder).train_images, arrays[IMAGES])


def test_the_folder_of_debians_package_is_the_default(folder, arrays, monkeypatch):
    assert str(DEBIAN_FOLDER) == "/usr/share/datasets/fashion-mnist"
    monkeypatch.setattr(idx, "DEBIAN_FOLDER", folder)
    np.testing.assert_array_equal(load_idx().train_images, arrays[IMAGES])


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_package_holds_fashion_mnist():
    data = load_idx()
    assert data.train_images.shape == (60_000, 28, 28)
    assert data.test_images.shape == (10_000, 28, 28)
    assert np.bincount(data.train_labels).tolist() == [6_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
    # The first training sample is an ankle boot, the second a T-shirt.
    assert data.train_labels[:2].tolist() == [9, 0]
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)


def test_absent_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no folder {tmp_path}/absent: .*{REMEDY}"):
        load_idx(tmp_path / "absent")


def test_absent_default_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "DEBIAN_FOLDER", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=rf"no folder {tmp_path}/absent: .*{REMEDY}"):
        load_idx()


@pytest.mark.parametrize("name", [
    IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_absent_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(
            FileNotFoundError, match=rf"{folder} holds neither {name} nor {name}\.gz: .*{REMEDY}"):
        load_idx(folder)


def header(*words):
    return struct.pack(f">{len(words)}I", *words)


@pytest.mark.parametrize(("name", "content", "words"), [
    (IMAGES, b"", "has 0 bytes, fewer than its header's 16"),
    (IMAGES, header(0x803, 1, 28), "has 12 bytes, fewer than its header's 16"),
    (LABELS, header(0x801), "has 4 bytes, fewer than its header's 8"),
    (IMAGES, header(0x801, 16) + bytes(16), "starts with 0x00000801, not 0x00000803"),
    (IMAGES, header(0xB03, 1, 28, 28) + bytes(784), "starts with 0x00000b03, not 0x00000803"),
    (LABELS, header(0x803, 1, 28, 28) + bytes(784), "starts with 0x00000803, not 0x00000801"),
    (IMAGES, header(0x803, 1, 28, 28) + bytes(783), "has 799 bytes, not the 800"),
    (IMAGES, header(0x803, 1, 28, 28) + bytes(785), "has 801 bytes, not the 800"),
    # A product of lengths that would wrap in 64 bits.
    (IMAGES, header(0x803, 1 << 31, 1 << 31, 4), "has 16 bytes, not the 18446744073709551632"),
    (LABELS, header(0x801, TRAIN) + bytes(TRAIN - 1), "has 12 bytes, not the 13"),
    (IMAGES, header(0x803, 0, 28, 28), "holds nothing"),
    (LABELS, header(0x801, 0), "holds nothing"),
    (IMAGES, header(0x803, TRAIN, 27, 28) + bytes(TRAIN * 756), "holds images of 27x28 pixels"),
    (IMAGES, header(0x803, TRAIN, 28, 32) + bytes(TRAIN * 896), "holds images of 28x32 pixels"),
    (LABELS, header(0x801, 4) + bytes(4), f"holds 4 labels for {TRAIN} images"),
    (LABELS, header(0x801, TRAIN) + bytes([0, 9, 10, 1, 2]), "holds label 10, above 9"),
])
@pytest.mark.parametrize("compressed", [False, True])
def test_wrong_content_is_named_with_its_file(folder, name, content, words, compressed):
    (folder / name).write_bytes(content)
    path = folder / name
    if compressed:
        compress(path)
        path = folder / f"{name}.gz"
    with pytest.raises(ValueError, match=rf"^{path} {words}[^\n]*: .*{REMEDY}$"):
        load_idx(folder)


@pytest.mark.parametrize("damage", [
    lambda data: b"no gzip at all",
    lambda data: data[:-9],
    lambda data: data[:10] + b"\xff" + data[11:],    # a kind of block that deflate does not have
    lambda data: data[:-8] + bytes(8),
], ids=["magic", "truncated", "stream", "checksum"])
def test_damaged_compression_is_named_with_its_file(folder, damage):
    compress(folder / IMAGES)
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"^{path} cannot be decompressed \(.*\): .*{REMEDY}$"):
        load_idx(folder)
