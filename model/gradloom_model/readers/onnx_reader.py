"""Networks from ONNX files, whoever wrote them."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, NodeProto

from ..layers import Layer, Network, Operator
from .onnx_products import PRODUCTS, Product
from .onnx_values import SCALARS, STANDARD, Unknown, Value, Values
from .products import Names

__all__ = ["KNOWN", "KNOWN_MICROSOFT", "read_onnx"]

KNOWN = frozenset("""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil
    Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Cos
    Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg
    NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement
    OptionalHasElement Or PRelu Pad Pow QuantizeLinear RMSNormalization RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round Scan Scatter
    ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub
    Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze
    Upsample Where Xor
""".split())
"""Operators of ONNX that multiply nothing on the array; so do If, Loop and Scan in some cases."""

KNOWN_MICROSOFT = frozenset("""
    BiasAdd BiasGelu BiasSoftmax BiasSplitGelu FastGelu Gelu QLinearAdd QLinearLeakyRelu QLinearMul
    QLinearSigmoid QLinearSoftmax QuickGelu RotaryEmbedding SkipLayerNormalization
    SkipSimplifiedLayerNormalization DequantizeLinear QuantizeLinear GroupNorm
""".split())
"""Operators of ONNX Runtime, in domain com.microsoft, whose first result is shaped like the first
input, and that multiply nothing on the array."""

TRAINS = frozenset("""
    Add BatchNormalization BiasAdd BiasGelu Concat FastGelu Gather GatherElements GroupNorm
    GroupNormalization InstanceNormalization LayerNormalization Mul PRelu RMSNormalization
    SkipLayerNormalization SkipSimplifiedLayerNormalization Sum Where
""".split())
"""Operators whose stored operands are trained: a layer behind them needs its input's gradient.

Those of others are constants; Sub and Div by stored numbers are how exporters write the
normalization of the input.
"""


def read_onnx(path: str | PathLike[str], batch: int | None = 1,
              sizes: Mapping[str, int] | None = None) -> Network:
    """Read the layers of an ONNX file, for one sample.

    The batch is the dimension of an input whose symbol contains "batch", or else the first
    dimension of the first input that has any. If the file fixes it, what a layer does is divided by
    it. Weights are what the file stores, also behind operators that multiply nothing on the
    array; weights that two nodes share count twice. Weights outside the file are not loaded.

    Some operators become more, or other, than one layer: ConvTranspose is the product of each
    pixel with all taps; a convolution along three axes, or of several images a sample, is folded
    to two axes with the same products, weights, inputs and outputs; attention is two products;
    of LSTM, GRU and RNN "name.inputs" and "name.states" hold the products of all time steps, as
    if those with the states did not wait for each other.

    A layer needs no gradient of its input if only inputs of the network lie before it, and
    operators without weights.

    Parameters
    ----------
    path : path
        The network is called like the file.
    batch : int, optional
        What a symbolic batch is bound to while shapes are inferred: the layers are those of one
        sample anyway. None if the inputs have no such dimension.
    sizes : mapping, optional
        Of the other symbolic dimensions; "input:1" is the second dimension of an input that has
        no symbol there.

    Returns
    -------
    Network
        `others` lists all other nodes but constants; those are unknown that may multiply on the
        array, or whose shapes are, with the reason beside the operator.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no ONNX graph that multiplies, a symbolic dimension has no size, the batch does
        not divide what a layer does, or a node does not fit its inputs.
    """
    path = Path(path)
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ValueError(f"The batch must be an integer of at least 1, or None, not {batch!r}")
    model = _model(path)
    binding = _bind(path, model.graph, batch, dict(sizes or {}))
    values = Values(model, path.parent, binding.symbols)
    for name, shape in binding.inputs.items():
        element = next(info.type.tensor_type.elem_type for info in model.graph.input
                       if info.name == name)
        values[name] = Value(type=onnx.helper.make_tensor_type_proto(element, shape))
    reader = _Reader(values, binding.batch)
    try:
        reader.walk(model.graph)
        unknown = [f"{other.name} ({other.operator})" for other in reader.others if not other.known]
        if unknown and not reader.layers:
            raise ValueError(f"no layer is known that multiplies, but {', '.join(unknown)}")
        return Network(path.stem, reader.layers, reader.others)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _model(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: name an ONNX file to read")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX file ({error}): export the network again, with "
                         "torch.onnx.export for one") from error
    if not model.graph.node:
        raise ValueError(f"{path} holds no ONNX graph, or one without nodes: export the network "
                         "again, with torch.onnx.export for one")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class _Binding:
    """Shapes of the inputs, sizes of the symbols, and the samples in a batch."""

    inputs: dict[str, tuple[int, ...]]
    symbols: dict[str, int]
    batch: int


def _bind(path: Path, graph: GraphProto, batch: int | None, sizes: dict[str, int]) -> _Binding:
    for symbol, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{path}: the size of {symbol!r} must be an integer of at least 1, "
                             f"not {size!r}")
    stored = {tensor.name for tensor in graph.initializer}
    shapes: dict[str, list[int | str]] = {}
    for info in graph.input:
        if info.name in stored or not info.type.HasField("tensor_type"):
            continue
        if not info.type.tensor_type.HasField("shape"):
            raise ValueError(f"{path}: the shape of input {info.name!r} is unknown; export the "
                             "network with an example, or add it with onnx.helper")
        shapes[info.name] = [
            dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{info.name}:{axis}"
            for axis, dim in enumerate(info.type.tensor_type.shape.dim)]
    symbols = dict.fromkeys(dim for shape in shapes.values() for dim in shape
                            if isinstance(dim, str))
    for symbol in sizes:
        if symbol not in symbols:
            raise ValueError(f"{path}: no input has a dimension {symbol!r}; those to be given a "
                             f"size are {', '.join(symbols) or 'none'}")
    samples: int | str = 1
    if batch is not None:
        samples = next((symbol for symbol in symbols if "batch" in symbol.lower()),
                       next((shape[0] for shape in shapes.values() if shape), 1))
        if isinstance(samples, str):
            sizes.setdefault(samples, batch)
            samples = sizes[samples]
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and dim not in sizes:
                raise ValueError(
                    f"{path}: dimension {dim!r}, axis {axis} of input {name!r} with shape "
                    f"({', '.join(map(str, shape))}), has no size; pass "
                    f"sizes={{{dim!r}: ...}}")
    return _Binding(
        inputs={name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)
                for name, shape in shapes.items()},
        symbols=sizes, batch=samples)


class _Reader:
    """Walks a graph in its order and collects layers and other operators."""

    def __init__(self, values: Values, batch: int):
        self.layers: list[Layer] = []
        self.others: list[Operator] = []
        self._values = values
        self._batch = batch
        self._names = Names()

    def walk(self, graph: GraphProto) -> None:
        for node in graph.node:
            domain = "" if node.domain in STANDARD else node.domain
            if (domain, node.op_type) == ("", "Constant"):
                self._constant(node)
            elif (domain, node.op_type) in PRODUCTS:
                self._product(node, domain)
            elif not self._branch(node):
                self._other(node, domain)

    def _name(self, node: NodeProto) -> str:
        return self._names.unique(node.name or next(filter(None, node.output), node.op_type))

    def _constant(self, node: NodeProto) -> None:
        attribute = node.attribute[0]
        if attribute.name == "value":
            self._values.store(node.output[0], attribute.t, trained=False)
        else:
            self._values.follow(node, trained=False, stored=True)

    def _product(self, node: NodeProto, domain: str) -> None:
        inputs = tuple(self._values[name] if name else Value() for name in node.input)
        name = self._name(node)
        product = Product(node=node, name=name, inputs=inputs, batch=self._batch)
        shape = None
        try:
            layers, shape = PRODUCTS[domain, node.op_type](product)
        except Unknown as reason:
            self.others.append(Operator(name=name, operator=f"{node.op_type} {reason}",
                                        known=False))
        else:
            self.layers += layers
            if not layers:
                self.others.append(Operator(name=name, operator=node.op_type))
        self._values.follow(node, trained=any(value.trained or value.stored for value in inputs),
                            stored=False, shape=shape if domain else None)

    def _branch(self, node: NodeProto) -> bool:
        """Follow the branch of an If whose condition depends on shapes alone."""
        if node.op_type != "If" or node.domain not in STANDARD:
            return False
        condition = self._values[node.input[0]].data
        if condition is None:
            return False
        taken = "then_branch" if condition.all() else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == taken)
        self._values.add_graph(branch)
        self.walk(branch)
        for name, result in zip(node.output, branch.output):
            self._values[name] = self._values[result.name]
        return True

    def _other(self, node: NodeProto, domain: str) -> None:
        inputs = [self._values[name] for name in node.input if name]
        stored = all(value.stored for value in inputs) or (
            not domain and node.op_type in SCALARS)
        trained = node.op_type not in SCALARS and any(
            value.trained for value in inputs
            if stored or not value.stored or node.op_type in TRAINS)
        shape = None
        if domain == "com.microsoft" and node.op_type in KNOWN_MICROSOFT:
            known = True
            try:
                shape = inputs[0].shape
            except Unknown:
                pass
        else:
            known = not domain and node.op_type in KNOWN and not _multiplies(node)
        operator = f"{domain}.{node.op_type}" if domain else node.op_type
        self.others.append(Operator(name=self._name(node), operator=operator, known=known))
        self._values.follow(node, trained=trained or not known, stored=stored, shape=shape)


def _multiplies(node: NodeProto) -> bool:
    """Whether a body of a node may multiply on the array."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH]
    return any(inner.op_type not in KNOWN or _multiplies(inner)
               or inner.op_type == "Einsum" for body in bodies for inner in body.node)
