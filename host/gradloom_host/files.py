"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

__all__ = ["write_file"]


def write_file(path: Path, content: str | bytes) -> bool:
    """Write a file by renaming a finished copy into place; return whether it changed anything.

    A file that has this content already keeps its time, so that what is built from it stays.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(path)
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return True
