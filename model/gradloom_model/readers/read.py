"""A network from whatever describes it: a name, a file or a module."""

from os import PathLike
from pathlib import Path
from typing import Any

from ..layers import Network
from .csv_reader import load, read_csv

__all__ = ["network"]


def network(source: Any, example: Any = None, **options: Any) -> Network:
    """Read a network.

    Parameters
    ----------
    source : str, path, Network or torch.nn.Module
        A name of `csv_reader.shipped`; a path that ends in .csv or .onnx; a module.
    example : tensor, tuple, list or dict of tensors, optional
        What the module, and only a module, is called with.
    options
        Of `onnx_reader.read_onnx` or `torch_reader.read_torch`.

    Raises
    ------
    TypeError
        If the source is nothing of the above, or has no such option.
    ValueError
        If there is no such network, with the closest name that there is.
    FileNotFoundError
        If there is no such file.
    """
    if isinstance(source, Network):
        return source
    if not isinstance(source, (str, PathLike)):
        if not callable(getattr(source, "named_modules", None)):
            raise TypeError("A network is read from a name, the path of a .csv or .onnx file, or "
                            f"a torch.nn.Module, not from {source!r}")
        if example is None:
            raise TypeError(f"The module {type(source).__name__} needs an example of its input: "
                            "pass network(module, example)")
        from .torch_reader import read_torch  # noqa: PLC0415 - PyTorch takes seconds to import
        return read_torch(source, example, **options)
    if example is not None:
        raise TypeError(f"Only a torch.nn.Module takes an example, not {source!r}")
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx":
        from .onnx_reader import read_onnx  # noqa: PLC0415 - tables need no onnx
        return read_onnx(source, **options)
    if options:
        raise TypeError(f"{source!r} is no .onnx file, and takes no {', '.join(options)}")
    return read_csv(source) if suffix == ".csv" else load(str(source))
