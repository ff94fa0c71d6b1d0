"""What is known of the tensors of an ONNX graph: shape, small contents, and where they come from.

Shapes come from onnx's own inference, node by node; each node is given the contents of small
tensors that depend on shapes alone, so that reshapes follow whatever computes their target.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

__all__ = ["SCALARS", "Unknown", "Value", "Values"]

SMALL = 4096
"""Elements above which no contents are kept: those of shapes and scales are far fewer."""

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)

SCALARS = frozenset({"Shape", "Size"})
"""Operators whose result depends on no contents."""

RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike",
                    "RandomUniform", "RandomUniformLike"})

STANDARD = ("", "ai.onnx")


class Unknown(Exception):
    """A cost that cannot be told, with the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor.

    Parameters
    ----------
    type : TypeProto, optional
        None where nothing is known.
    data : array, optional
        Contents, of small tensors that depend on no input.
    stored : bool
        Whether it is a weight, or computed of weights without products.
    trained : bool
        Whether a trained weight lies upstream.
    lost : str
        The operator that hides the shape, if one does.
    """

    type: TypeProto | None = None
    data: np.ndarray | None = None
    stored: bool = False
    trained: bool = False
    lost: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions.

        Raises
        ------
        Unknown
            Naming what hides them.
        """
        shape = _dimensions(self.type)
        if shape is None:
            raise Unknown(f"of unknown shape after {self.lost}")
        return shape

    @property
    def element(self) -> int:
        """Type of the elements, as in TensorProto; 0 if unknown."""
        return self.type.tensor_type.elem_type if self.type is not None else 0


def _dimensions(type_: TypeProto | None) -> tuple[int, ...] | None:
    tensor = type_.tensor_type if type_ is not None and type_.HasField("tensor_type") else None
    if tensor is None or not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if all(dim.HasField("dim_value") for dim in dims):
        return tuple(dim.dim_value for dim in dims)
    return None


class Values:
    """The tensors of a graph, as far as its nodes were followed.

    Parameters
    ----------
    model : ModelProto
        Without local functions; contents of external data are not loaded.
    folder : Path
        Of the external data.
    symbols : dict
        Sizes of symbolic dimensions.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, symbols: dict[str, int]):
        self._opsets = list(model.opset_import)
        self._versions = {"" if opset.domain in STANDARD else opset.domain: opset.version
                          for opset in self._opsets}
        self._ir_version = model.ir_version
        self._folder = folder
        self._symbols = symbols
        self._values: dict[str, Value] = {}
        self._declared: dict[str, TypeProto] = {}
        self.add_graph(model.graph)

    def __getitem__(self, name: str) -> Value:
        return self._values.get(name) or Value(lost=f"{name!r}, which nothing gives")

    def __setitem__(self, name: str, value: Value) -> None:
        self._values[name] = value

    def add_graph(self, graph: onnx.GraphProto) -> None:
        """Take over what a graph or a branch stores and declares."""
        for tensor in graph.initializer:
            self.store(tensor.name, tensor, trained=True)
        for sparse in graph.sparse_initializer:
            self._values[sparse.values.name] = Value(
                type=helper.make_tensor_type_proto(sparse.values.data_type, list(sparse.dims)),
                stored=True, trained=True)
        for info in (*graph.value_info, *graph.output):
            self._declared[info.name] = info.type

    def store(self, name: str, tensor: TensorProto, *, trained: bool) -> None:
        """Take over a tensor of the file."""
        elements = prod(tensor.dims)
        data = None
        if elements <= SMALL and tensor.data_type in FLOATS + INTEGERS:
            data = self._contents(tensor)
        self._values[name] = Value(
            type=helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)), data=data,
            stored=True, trained=trained and tensor.data_type in FLOATS and elements > 1)

    def _contents(self, tensor: TensorProto) -> np.ndarray | None:
        if not uses_external_data(tensor):
            return numpy_helper.to_array(tensor)
        copy = TensorProto()  # since loading changes it
        copy.CopyFrom(tensor)
        try:
            load_external_data_for_tensor(copy, str(self._folder))
            copy.data_location = TensorProto.DEFAULT  # which older versions of onnx forget
            return numpy_helper.to_array(copy)
        except (OSError, ValueError, onnx.checker.ValidationError):
            return None  # only shapes can miss it

    def follow(self, node: onnx.NodeProto, *, trained: bool, stored: bool,
               shape: tuple[int, ...] | None = None) -> None:
        """Infer what a node gives.

        Parameters
        ----------
        node : NodeProto
        trained, stored : bool
            Of its results; those of integers are never trained.
        shape : tuple, optional
            Of its first result, where onnx does not know the operator.

        Raises
        ------
        ValueError
            If the node does not fit its inputs.
        """
        label = f"{node.op_type} {node.name or node.output[0]!r}"
        lost = next((self[name].lost for name in node.input if name and self[name].lost), label)
        types = self._infer(node, label)
        if shape is not None:
            element = self[node.input[0]].element or TensorProto.FLOAT
            types[node.output[0]] = helper.make_tensor_type_proto(element, shape)
        for name in filter(None, node.output):
            type_ = types.get(name)
            if _dimensions(type_) is None:
                declared = self._bound(self._declared.get(name))
                type_ = declared if _dimensions(declared) is not None or type_ is None else type_
            value = Value(type=type_, lost="" if _dimensions(type_) is not None else lost)
            self._values[name] = Value(
                type=type_, lost=value.lost, stored=stored,
                trained=trained and value.element not in (TensorProto.INT64, TensorProto.BOOL))
        self._evaluate(node)

    def _infer(self, node: onnx.NodeProto, label: str) -> dict[str, TypeProto]:
        domain = "" if node.domain in STANDARD else node.domain
        types = {name: self[name].type for name in node.input if name}
        known = {name: type_ for name, type_ in types.items() if type_ is not None}
        subgraphs = any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
                        for attribute in node.attribute)
        if len(known) < len(types) or domain not in self._versions or subgraphs:
            return {}
        try:
            schema = onnx.defs.get_schema(node.op_type, self._versions[domain], domain)
        except onnx.defs.SchemaError:
            return {}
        data = {name: numpy_helper.from_array(contents, name) for name in known
                if (contents := self[name].data) is not None}
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=self._opsets,
                ir_version=self._ir_version)
            _check_reshape(node, known, inferred)
            return inferred
        except (onnx.shape_inference.InferenceError, RuntimeError) as error:
            if all(_dimensions(self._bound(self._declared.get(name))) is not None
                   for name in filter(None, node.output)):
                return {}
            shapes = ", ".join(f"{name} {_dimensions(type_)}" for name, type_ in known.items())
            raise ValueError(
                f"{label} does not fit its inputs {shapes} ({str(error).strip()}); if the graph "
                "holds the batch or the sizes that it was exported with, pass these as batch or "
                "sizes, or export it again with these dimensions dynamic") from error

    def _bound(self, type_: TypeProto | None) -> TypeProto | None:
        """Return a declared type with symbols replaced by their sizes."""
        if type_ is None or not type_.HasField("tensor_type"):
            return None
        bound = TypeProto()
        bound.CopyFrom(type_)
        for dim in bound.tensor_type.shape.dim:
            if dim.dim_param in self._symbols:
                dim.dim_value = self._symbols[dim.dim_param]
        return bound

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Compute the contents of small results that depend on no input."""
        if node.op_type in SCALARS and node.domain in STANDARD:
            shape = _dimensions(self[node.input[0]].type)
            if shape is None:
                return
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            data = (np.array(prod(shape), np.int64) if node.op_type == "Size" else
                    np.array(shape, np.int64)[bounds.get("start", 0):bounds.get("end")])
            self._set_data(node.output[0], data)
            return
        inputs = {name: self[name].data for name in node.input if name}
        sizes = [_dimensions(self[name].type) for name in node.output if name]
        if (node.domain not in STANDARD or node.op_type in RANDOM
                or any(data is None for data in inputs.values())
                or any(size is None or prod(size) > SMALL for size in sizes)
                or any(self[name].element not in FLOATS + INTEGERS for name in node.output if name)
                or any(attribute.HasField("g") for attribute in node.attribute)):
            return
        for name, data in zip(node.output, _run(node, inputs, self._versions)):
            self._set_data(name, np.asarray(data))

    def _set_data(self, name: str, data: np.ndarray) -> None:
        value = self._values[name]
        self._values[name] = Value(type=value.type, data=data, stored=value.stored,
                                   trained=value.trained, lost=value.lost)


def _check_reshape(node: onnx.NodeProto, known: dict[str, TypeProto],
                   inferred: dict[str, TypeProto]) -> None:
    """Raise what onnx, which does not compare the numbers of elements, would have to raise."""
    if node.op_type != "Reshape":
        return
    before = _dimensions(known.get(node.input[0]))
    after = _dimensions(inferred.get(node.output[0]))
    if before is not None and after is not None and prod(before) != prod(after):
        raise onnx.shape_inference.InferenceError(
            f"{prod(before)} elements do not make the shape {after}")


def _run(node: onnx.NodeProto, inputs: dict[str, np.ndarray | None],
         versions: dict[str, int]) -> Iterable[np.ndarray]:
    # Only graphs that compute with shapes need it.
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ReferenceEvaluator(node, opsets=versions).run(None, inputs)  # type: ignore
        except Exception:  # what it cannot compute stays unknown
            return ()
