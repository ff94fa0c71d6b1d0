"""A wave file that appears whole, when a simulation has ended."""

import os
import tempfile
from pathlib import Path

__all__ = ["KINDS", "Waves"]

KINDS = ("fst", "vcd")


class Waves:
    """A file that the simulator writes beside its place and that is moved there at the end.

    Parameters
    ----------
    path
        Its ending names the format: ``.fst``, small, or ``.vcd``, text.

    Raises
    ------
    ValueError
        If the ending is another.
    FileNotFoundError
        If there is no folder to put it into.
    """

    def __init__(self, path: Path):
        self.path = Path(path).absolute()
        self.kind = self.path.suffix[1:]
        if self.kind not in KINDS:
            raise ValueError(f"waves are written to a file named .fst or .vcd, not {path}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"waves cannot be written to {path}: there is no folder "
                                    f"{self.path.parent}; make it first")
        self._unfinished: str | None = None

    def begin(self) -> str:
        """Return the name to write to."""
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, 0o666 & ~mask)
        os.close(handle)
        self._unfinished = name
        return name

    def end(self, *, complete: bool) -> None:
        """Put the file in its place, or remove what there is of it."""
        if self._unfinished is None:
            return
        if complete:
            os.replace(self._unfinished, self.path)
        else:
            os.unlink(self._unfinished)
        self._unfinished = None
