"""Networks from tables with one layer a line, and the nine tables that come with GradLoom."""

import csv
import difflib
from importlib import resources
from importlib.resources.abc import Traversable
from io import StringIO
from os import PathLike
from pathlib import Path

from ..layers import Layer, Network

__all__ = ["load", "read_csv", "shipped"]

COLUMNS = ("name", "type", "N_out", "C_in", "K_h", "K_w", "stride_h", "stride_w", "pad_h", "pad_w",
           "H_in", "W_in", "groups")
OPTIONAL = ("dilation_h", "dilation_w", "copies")

KINDS = {"conv": "conv", "fc": "linear", "linear": "linear", "gemm": "linear", "matmul": "matmul"}


def read_csv(path: str | PathLike[str]) -> Network:
    """Read a table of layers in forward order.

    Its first line names the columns, in any order: name, type, N_out, C_in, K_h, K_w, stride_h,
    stride_w, pad_h, pad_w, H_in, W_in, groups, and if needed dilation_h, dilation_w and copies
    (1 where absent or empty). Channels are those of all groups. A type is conv, fc, linear or
    gemm (products with weights), or matmul (of two activations); all but conv have H_in x W_in
    rows. The first layer reads the network's input, and needs no gradient of it; the others do.

    Parameters
    ----------
    path : path
        The network is called like the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        Naming file, line, column and value, if the table is not as above.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: name a table of layers to read")
    return _read(path, str(path), path.stem)


def shipped() -> list[str]:
    """Names of the networks that come with GradLoom."""
    return sorted(file.name.removesuffix(".csv") for file in _folder().iterdir()
                  if file.name.endswith(".csv"))


def load(name: str) -> Network:
    """Read a network that comes with GradLoom.

    Raises
    ------
    ValueError
        With the names that there are, if it is none of them.
    """
    names = shipped()
    if name not in names:
        close = difflib.get_close_matches(name.lower(), names, 1)
        raise ValueError(
            f"There is no network {name!r}{f', did you mean {close[0]!r}?' if close else '.'} "
            f"The networks are {', '.join(names)}; a .csv or .onnx file is read by its path")
    return _read(_folder() / f"{name}.csv", f"{name}.csv", name)


def _folder() -> Traversable:
    return resources.files("gradloom_model") / "networks"


def _read(file: Traversable, where: str, name: str) -> Network:
    # Excel starts UTF-8 with a byte order mark.
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not text in UTF-8 ({error}): save it as CSV again") from error
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    layers: list[Layer] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            line = f"{where}, line {reader.line_num}"
            if not columns:
                columns = _columns(line, cells)
            else:
                layers.append(_layer(line, columns, cells, first=not layers))
    except csv.Error as error:
        raise ValueError(
            f"{where}, line {reader.line_num}: {error}; separate cells by commas") from error
    if not layers:
        raise ValueError(f"{where} holds no layer: write a line {','.join(COLUMNS)} "
                         "and below it one line a layer")
    return Network(name, layers)


def _columns(line: str, cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise ValueError(f"{line}: column {', '.join(missing)} is missing among "
                         f"{','.join(columns)!r}; separate the names by commas")
    for column in columns:
        if column not in COLUMNS + OPTIONAL:
            raise ValueError(f"{line}: nothing is known of column {column!r}; remove it, or name "
                             f"it one of {', '.join(OPTIONAL)}")
        if columns.count(column) > 1:
            raise ValueError(f"{line}: column {column!r} is there {columns.count(column)} times; "
                             "keep one")
    return columns


def _layer(line: str, columns: list[str], cells: list[str], *, first: bool) -> Layer:
    if len(cells) != len(columns):
        raise ValueError(f"{line}: there are {len(cells)} cells in {','.join(cells)!r} for "
                         f"{len(columns)} columns; write one for each column")
    row = {column: cell.strip() for column, cell in zip(columns, cells)}
    kind = KINDS.get(row["type"].lower())
    if kind is None:
        raise ValueError(f"{line}, column type: {row['type']!r} is no type of layer; "
                         f"write one of {', '.join(KINDS)}")
    value = {column: _integer(line, column, row.get(column, ""))
             for column in (*COLUMNS[2:], *OPTIONAL)}
    height, width = value["H_in"], value["W_in"]
    try:
        return Layer(
            name=row["name"], kind=kind, outputs=value["N_out"], inputs=value["C_in"],
            kernel=(value["K_h"], value["K_w"]), stride=(value["stride_h"], value["stride_w"]),
            dilation=(value["dilation_h"], value["dilation_w"]),
            padding=(value["pad_h"], value["pad_w"], value["pad_h"], value["pad_w"]),
            size=(height, width) if kind == "conv" else (height * width, 1),
            groups=value["groups"], copies=value["copies"], input_gradient=not first)
    except ValueError as error:
        raise ValueError(f"{line}: {error}") from error


def _integer(line: str, column: str, text: str) -> int:
    if column in OPTIONAL and not text:
        return 1
    # Digits alone: int() would take 1_0, too.
    if not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()):
        raise ValueError(f"{line}, column {column}: {text!r} is not an integer; "
                         "write digits alone")
    return int(text)
