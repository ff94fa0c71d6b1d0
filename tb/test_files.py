"""A file appears whole or not at all, and stays untouched when nothing changed."""

import os

import pytest

from gradloom_host import files
from gradloom_host.files import write_file

OLD = 1_000_000_000


@pytest.mark.parametrize("content", ["text\n", b"\x00\xff", ""])
def test_writes_text_and_bytes_into_folders_that_it_makes(tmp_path, content):
    path = tmp_path / "new" / "folder" / "file"
    assert write_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_equal_content_keeps_the_time_of_the_file(tmp_path):
    path = tmp_path / "file"
    write_file(path, "same")
    os.utime(path, (OLD, OLD))
    assert not write_file(path, "same")
    assert path.stat().st_mtime == OLD
    assert write_file(path, "other")
    assert path.stat().st_mtime != OLD
    assert path.read_text() == "other"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_file(tmp_path / "file", "content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("stage", ["chmod", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_file_alone(tmp_path, monkeypatch, stage, error):
    path = tmp_path / "file"
    write_file(path, "old")

    def interrupted(*_):
        raise error

    monkeypatch.setattr(files.os, stage, interrupted)
    with pytest.raises(error):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
