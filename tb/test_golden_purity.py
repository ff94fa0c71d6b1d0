"""The golden model stands alone, and its datapath knows no floating point."""

import ast
import sys
from pathlib import Path

import pytest

import gradloom_golden

FILES = sorted(Path(gradloom_golden.__file__).parent.glob("*.py"))
ALLOWED = {*sys.stdlib_module_names, "numpy", "gradloom_golden"}
# Constants and reports, worked out by the host: no number of a machine passes through these.
FLOATING = {
    "confidence": {"fraction", "threshold_from_probability"},
    "loss": {"cross_entropy", "exponential_table"},
    "precision": {"bound_from_degrees"},
}
FLOATING_NAMES = {
    "cos", "double", "exp", "exp2", "float", "float16", "float32", "float64", "linalg",
    "log", "log2", "math", "mean", "radians", "rint", "round", "sin", "sqrt", "std", "tan",
    "true_divide", "var",
}


def imported(tree):
    """Return the top-level packages that a module imports; none for its siblings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def floating(node):
    """Return what in a syntax tree could make or use a floating-point number."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, (float, complex)):
            yield repr(part.value)
        elif isinstance(part, (ast.BinOp, ast.AugAssign)) and isinstance(part.op, ast.Div):
            yield "/"
        elif isinstance(part, ast.Name) and part.id in FLOATING_NAMES:
            yield part.id
        elif isinstance(part, ast.Attribute) and part.attr in FLOATING_NAMES:
            yield part.attr


def outside(tree, names):
    """Return the tree's top-level statements but for functions called `names`, and imports."""
    kept: list[ast.stmt] = [
        node for node in tree.body
        if not (isinstance(node, ast.FunctionDef) and node.name in names)
        and not isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    return ast.Module(kept, [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_only_numpy_and_the_standard_library(path):
    assert set(imported(ast.parse(path.read_text()))) <= ALLOWED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_has_no_floating_point_in_the_datapath(path):
    tree = ast.parse(path.read_text())
    assert list(floating(outside(tree, FLOATING.get(path.stem, set())))) == []


@pytest.mark.parametrize(("module", "name"), [
    (module, name) for module, names in FLOATING.items() for name in sorted(names)])
def test_the_exceptions_exist_and_need_to_be(module, name):
    path = next(path for path in FILES if path.stem == module)
    functions = {node.name: node for node in ast.parse(path.read_text()).body
                 if isinstance(node, ast.FunctionDef)}
    assert list(floating(functions[name]))


@pytest.mark.parametrize("text", [
    "x = 0.5", "y = a / b", "a /= 2", "z = np.float32(a)", "z = math.log(2)", "z = float(a)",
    "z = a.mean()",
])
def test_floating_point_is_recognised(text):
    assert list(floating(ast.parse(text)))


def test_the_package_offers_what_it_names():
    assert gradloom_golden.__all__ == sorted(
        gradloom_golden.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in gradloom_golden.__all__:
        assert hasattr(gradloom_golden, name)


def test_the_map_mentions_every_module():
    described = gradloom_golden.__doc__ or ""
    for path in FILES:
        if path.stem != "__init__":
            assert f"`{path.stem}`" in described, path.stem
