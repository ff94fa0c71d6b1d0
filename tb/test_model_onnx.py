"""ONNX files: each operator that multiplies gives its layers, whatever surrounds it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import model_count
from gradloom_model.layers import Layer
from gradloom_model.readers.onnx_products import PRODUCTS
from gradloom_model.readers.onnx_reader import KNOWN, KNOWN_MICROSOFT, read_onnx
from gradloom_model.readers.read import network

MICROSOFT = "com.microsoft"


def _node(operator, inputs, outputs="y", *, domain="", name="n", **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), name=name, domain=domain,
                            **attributes)


def _tensor(name, given):
    """Return a stored tensor: zeros of a shape, or an array."""
    array = np.zeros(given, np.float32) if isinstance(given, tuple) else np.asarray(given)
    return numpy_helper.from_array(array, name)


def _graph(nodes, inputs, stored=None, *, types=None, outputs=("y",)):
    types = types or {}
    return helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)
         for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [_tensor(name, given) for name, given in (stored or {}).items()])


def _save(tmp_path, graph, *, opset=21, functions=(), domains=(MICROSOFT, "custom")):
    model = helper.make_model(
        graph, functions=functions, ir_version=10,
        opset_imports=[helper.make_opsetid("", opset),
                       *(helper.make_opsetid(domain, 1) for domain in domains)])
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    return path


def _read(tmp_path, nodes, inputs, stored=None, *, opset=21, types=None, **options):
    return read_onnx(_save(tmp_path, _graph(nodes, inputs, stored, types=types), opset=opset),
                     **options)


def _unknown(net):
    return [operator for operator in net.others if not operator.known]


INT8 = {"types": {"x": TensorProto.INT8}}
SCALES = {"xs": np.float32(1), "xz": np.int8(0), "ws": np.float32(1), "wz": np.int8(0),
          "ys": np.float32(1), "yz": np.int8(0)}

CASES = {
    # node, inputs of the network, stored tensors, layers, options
    "conv": (
        _node("Conv", "x w", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
        {"x": (1, 3, 9, 8)}, {"w": (4, 3, 3, 2)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 2), "stride": (2, 1), "dilation": (1, 2),
          "padding": (1, 0, 2, 1), "size": (9, 8)}], {}),
    "depthwise": (
        _node("Conv", "x w b", group=6, kernel_shape=[3, 3]),
        {"x": (1, 6, 9, 8)}, {"w": (6, 1, 3, 3), "b": (6,)},
        [{"inputs": 6, "outputs": 6, "groups": 6, "kernel": (3, 3), "size": (9, 8)}], {}),
    "conv of one axis": (
        _node("Conv", "x w", pads=[1, 1]), {"x": (1, 3, 9)}, {"w": (4, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 1), "size": (9, 1), "padding": (1, 0, 1, 0)}],
        {}),
    "conv of three axes": (
        _node("Conv", "x w", pads=[1] * 6), {"x": (1, 3, 4, 5, 6)}, {"w": (4, 3, 3, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (9, 3), "size": (20, 6), "padding": (4, 1, 4, 1)}],
        {}),
    "upper": (
        _node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2]),
        {"x": (1, 3, 8, 7)}, {"w": (4, 3, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "stride": (2, 2), "size": (8, 7),
          "padding": (0, 1, 1, 1)}], {}),
    "lower": (
        _node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 2]),
        {"x": (1, 3, 8, 7)}, {"w": (4, 3, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "stride": (2, 2), "size": (8, 7),
          "padding": (1, 1, 0, 1)}], {}),
    "valid": (
        _node("Conv", "x w", auto_pad="VALID"), {"x": (1, 3, 8, 7)}, {"w": (4, 3, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (8, 7)}], {}),
    "computed kernel": (
        _node("Conv", "x w"), {"x": (1, 4, 6, 5), "w": (3, 4, 3, 3)}, {},
        [{"kind": "matmul", "inputs": 36, "outputs": 3, "size": (12, 1)}], {}),
    "transposed conv": (
        _node("ConvTranspose", "x w", group=2, strides=[2, 2]),
        {"x": (1, 4, 5, 6)}, {"w": (4, 3, 2, 2)},
        [{"inputs": 4, "outputs": 24, "groups": 2, "size": (5, 6)}], {}),
    "integer conv": (
        _node("ConvInteger", "x w"), {"x": (1, 3, 8, 7)}, {"w": np.zeros((4, 3, 3, 3), np.int8)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (8, 7)}], INT8),
    "quantized conv": (
        _node("QLinearConv", "x xs xz w ws wz ys yz"), {"x": (1, 3, 8, 7)},
        {"w": np.zeros((4, 3, 3, 3), np.int8), **SCALES},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (8, 7)}], INT8),
    "fused conv": (
        _node("FusedConv", "x w", domain=MICROSOFT, activation="Relu"),
        {"x": (1, 3, 8, 7)}, {"w": (4, 3, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (8, 7)}], {}),
    "deformed conv": (
        _node("DeformConv", "x w o", pads=[1, 1, 1, 1]),
        {"x": (1, 3, 8, 7), "o": (1, 18, 8, 7)}, {"w": (4, 3, 3, 3)},
        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (8, 7), "padding": (1, 1, 1, 1)}],
        {"opset": 19}),
    "gemm": (
        _node("Gemm", "x w c", transB=1), {"x": (1, 5)}, {"w": (3, 5), "c": (3,)},
        [{"kind": "linear", "inputs": 5, "outputs": 3}], {}),
    "gemm of weights and columns": (
        _node("Gemm", "w x", transA=1, transB=1), {"x": (7, 5)}, {"w": (5, 3)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], {"batch": None}),
    "linear": (
        _node("MatMul", "x w"), {"x": (1, 7, 5)}, {"w": (5, 3)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], {}),
    "linear on more axes": (
        _node("MatMul", "x w"), {"x": (1, 2, 7, 5)}, {"w": (1, 5, 3)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (14, 1)}], {}),
    "linear of a vector": (
        _node("MatMul", "x w"), {"x": (5,)}, {"w": (5, 3)},
        [{"kind": "linear", "inputs": 5, "outputs": 3}], {"batch": None}),
    "linear to one": (
        _node("MatMul", "x w"), {"x": (1, 7, 5)}, {"w": (5,)},
        [{"kind": "linear", "inputs": 5, "outputs": 1, "size": (7, 1)}], {}),
    "weights of groups": (
        _node("MatMul", "x w"), {"x": (1, 2, 7, 5)}, {"w": (2, 5, 3)},
        [{"inputs": 10, "outputs": 6, "groups": 2, "size": (7, 1)}], {}),
    "heads": (
        _node("MatMul", "x z"), {"x": (1, 4, 7, 5), "z": (1, 4, 5, 6)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4}], {}),
    "shared keys": (
        _node("MatMul", "x z"), {"x": (1, 4, 7, 5), "z": (1, 1, 5, 6)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (28, 1)}], {}),
    "keys of fewer axes": (
        _node("MatMul", "x z"), {"x": (1, 4, 7, 5), "z": (5, 6)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (28, 1)}], {}),
    "shared queries": (
        _node("MatMul", "x z"), {"x": (7, 5), "z": (1, 4, 5, 6)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 24, "size": (7, 1)}], {"batch": None}),
    "integer product": (
        _node("MatMulInteger", "x w"), {"x": (1, 7, 5)}, {"w": np.zeros((5, 3), np.int8)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], INT8),
    "quantized product": (
        _node("QLinearMatMul", "x xs xz w ws wz ys yz"), {"x": (1, 7, 5)},
        {"w": np.zeros((5, 3), np.int8), **SCALES},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], INT8),
    "fused product": (
        _node("FusedMatMul", "x z", domain=MICROSOFT, transA=1, transB=1),
        {"x": (1, 4, 5, 7), "z": (1, 4, 6, 5)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4}], {}),
    "transposed product": (
        _node("TransposeMatMul", "x z", domain=MICROSOFT, transB=1),
        {"x": (1, 4, 7, 5), "z": (1, 4, 6, 5)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4}], {}),
    "integer product to floats": (
        _node("MatMulIntegerToFloat", "x w s t", domain=MICROSOFT), {"x": (1, 7, 5)},
        {"w": np.zeros((5, 3), np.int8), "s": (1,), "t": (1,)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], INT8),
    "product quantized on the way": (
        _node("DynamicQuantizeMatMul", "x w t", domain=MICROSOFT), {"x": (1, 7, 5)},
        {"w": np.zeros((5, 3), np.int8), "t": (1,)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], {}),
    "packed weights": (
        _node("MatMulNBits", "x w s", domain=MICROSOFT, K=64, N=12, bits=4, block_size=32),
        {"x": (1, 7, 64)}, {"w": np.zeros((12, 2, 16), np.uint8), "s": (24,)},
        [{"kind": "linear", "inputs": 64, "outputs": 12, "size": (7, 1)}], {}),
    "einsum": (
        _node("Einsum", "x z", equation="bhqd, bhkd -> bhqk"),
        {"x": (1, 4, 7, 5), "z": (1, 4, 6, 5)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4}], {}),
    "einsum of weights": (
        _node("Einsum", "x w", equation="btd,dhe->bhte"), {"x": (1, 7, 5)}, {"w": (5, 2, 3)},
        [{"kind": "linear", "inputs": 5, "outputs": 6, "size": (7, 1)}], {}),
    "einsum without a result": (
        _node("Einsum", "x w", equation="ik,kj"), {"x": (7, 5)}, {"w": (5, 3)},
        [{"kind": "linear", "inputs": 5, "outputs": 3, "size": (7, 1)}], {"batch": None}),
    "einsum with an ellipsis": (
        _node("Einsum", "x z", equation="...qd,...kd->...qk"),
        {"x": (1, 4, 7, 5), "z": (1, 4, 6, 5)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4}], {}),
    "attention": (
        _node("Attention", "x k v", q_num_heads=4, kv_num_heads=2),
        {"x": (1, 7, 20), "k": (1, 6, 10), "v": (1, 6, 12)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (14, 1), "copies": 2},
         {"kind": "matmul", "inputs": 6, "outputs": 6, "size": (14, 1), "copies": 2}],
        {"opset": 23}),
    "attention by head": (
        _node("Attention", "x k v  "),
        {"x": (1, 4, 7, 5), "k": (1, 4, 6, 5), "v": (1, 4, 6, 3)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4},
         {"kind": "matmul", "inputs": 6, "outputs": 3, "size": (7, 1), "copies": 4}],
        {"opset": 23}),
    "attention with a past": (
        helper.make_node("Attention", ["x", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"]),
        {"x": (1, 4, 1, 5), "k": (1, 4, 1, 5), "v": (1, 4, 1, 3), "pk": (1, 4, 8, 5),
         "pv": (1, 4, 8, 3)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 9, "copies": 4},
         {"kind": "matmul", "inputs": 9, "outputs": 3, "copies": 4}], {"opset": 23}),
    "projections and attention": (
        _node("Attention", "x w b", domain=MICROSOFT, num_heads=4),
        {"x": (1, 7, 10)}, {"w": (10, 60), "b": (60,)},
        [{"kind": "linear", "inputs": 10, "outputs": 60, "size": (7, 1)},
         {"kind": "matmul", "inputs": 5, "outputs": 7, "size": (7, 1), "copies": 4},
         {"kind": "matmul", "inputs": 7, "outputs": 5, "size": (7, 1), "copies": 4}], {}),
    "attention of ONNX Runtime": (
        _node("MultiHeadAttention", "x k v", domain=MICROSOFT, num_heads=4),
        {"x": (1, 7, 20), "k": (1, 6, 20), "v": (1, 6, 12)}, {},
        [{"kind": "matmul", "inputs": 5, "outputs": 6, "size": (7, 1), "copies": 4},
         {"kind": "matmul", "inputs": 6, "outputs": 3, "size": (7, 1), "copies": 4}], {}),
    "LSTM": (
        _node("LSTM", "x w r", hidden_size=6), {"x": (9, 1, 5)}, {"w": (1, 24, 5), "r": (1, 24, 6)},
        [{"kind": "linear", "inputs": 5, "outputs": 24, "size": (9, 1)},
         {"kind": "linear", "inputs": 6, "outputs": 24, "size": (9, 1)}], {"batch": None}),
    "GRU both ways": (
        _node("GRU", "x w r", hidden_size=6, direction="bidirectional", layout=1),
        {"x": (1, 9, 5)}, {"w": (2, 18, 5), "r": (2, 18, 6)},
        [{"kind": "linear", "inputs": 5, "outputs": 36, "size": (9, 1)},
         {"inputs": 12, "outputs": 36, "groups": 2, "size": (9, 1)}], {}),
    "RNN": (
        _node("RNN", "x w r", hidden_size=6), {"x": (9, 1, 5)}, {"w": (1, 6, 5), "r": (1, 6, 6)},
        [{"kind": "linear", "inputs": 5, "outputs": 6, "size": (9, 1)},
         {"kind": "linear", "inputs": 6, "outputs": 6, "size": (9, 1)}], {"batch": None}),
}


@pytest.mark.parametrize(("node", "inputs", "stored", "layers", "options"), CASES.values(),
                         ids=CASES)
def test_operator(tmp_path, node, inputs, stored, layers, options):
    net = _read(tmp_path, [node], inputs, stored, **options)
    assert net.others == ()
    expected = {tuple(sorted(layer.items())) for layer in layers}
    for layer in net.layers:
        given = {field: getattr(layer, field) for field in
                 ("kind", "inputs", "outputs", "kernel", "stride", "dilation", "padding", "size",
                  "groups", "copies")}
        plain = Layer(name="", inputs=1, outputs=1)
        given = {field: value for field, value in given.items()
                 if field in ("inputs", "outputs") or value != getattr(plain, field)}
        assert tuple(sorted(given.items())) in expected
        assert layer.macs == model_count.layer(layer)
    assert len(net.layers) == len(layers)


def test_every_product_has_a_case():
    tried = {(node.domain, node.op_type) for node, *_ in CASES.values()}
    assert tried == set(PRODUCTS)


# Shapes, batches and symbols.

CNN = [_node("Conv", "x w", "a", name="c"), _node("Relu", "a", "b", name="r"),
       _node("Flatten", "b", "f", name="f"), _node("Gemm", "f v", name="g", transB=1)]
CNN_STORED = {"w": (4, 3, 3, 3), "v": (10, 4 * 6 * 5)}


@pytest.mark.parametrize("first", ["N", "batch_size", None, 1, 6], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_layers_are_those_of_one_sample_whatever_the_batch(tmp_path, first, batch):
    net = _read(tmp_path, CNN, {"x": (first, 3, 8, 7)}, CNN_STORED, batch=batch)
    assert [layer.macs for layer in net.layers] == [4 * 3 * 9 * 6 * 5, 10 * 120]
    assert [layer.name for layer in net.layers] == ["c", "g"]
    assert net.name == "net"


def test_batch_is_the_dimension_called_so(tmp_path):
    net = _read(tmp_path, [_node("MatMul", "x w")], {"x": (9, "Batch", 5)}, {"w": (5, 3)}, batch=4)
    assert net.layers[0].size == (9, 1)


def test_batch_none_leaves_all_dimensions(tmp_path):
    net = _read(tmp_path, [_node("MatMul", "x w")], {"x": (9, 5)}, {"w": (5, 3)}, batch=None)
    assert net.layers[0].size == (9, 1)


def test_heads_are_divided_among_the_samples_of_a_fixed_batch(tmp_path):
    nodes = [_node("Transpose", "x", "t", perm=[0, 2, 1]), _node("MatMul", "x t")]
    net = _read(tmp_path, nodes, {"x": (8, 7, 5)})
    assert (net.layers[0].copies, net.layers[0].size) == (1, (7, 1))


def test_refuses_a_batch_that_does_not_divide(tmp_path):
    nodes = [_node("Reshape", "x s", "r"), _node("MatMul", "r w", name="l")]
    with pytest.raises(ValueError, match=r"net\.onnx: Layer 'l': a batch of 4 does not divide its "
                                         r"10 rows.*pass batch=None.*export the network"):
        _read(tmp_path, nodes, {"x": (4, 25)}, {"s": np.array([10, 10]), "w": (10, 3)})


def test_sizes_bind_symbols_and_dimensions_without(tmp_path):
    nodes = [_node("MatMul", "x w")]
    net = _read(tmp_path, nodes, {"x": ("N", "seq", 5)}, {"w": (5, 3)}, sizes={"seq": 9})
    assert net.layers[0].size == (9, 1)
    net = _read(tmp_path, nodes, {"x": ("N", None, 5)}, {"w": (5, 3)}, sizes={"x:1": 9})
    assert net.layers[0].size == (9, 1)


BINDING_ERRORS = {
    "no size": ({"x": ("N", "seq", 5)}, {}, r"dimension 'seq', axis 1 of input 'x' with shape "
                r"\(N, seq, 5\), has no size; pass sizes=\{'seq': ...\}"),
    "no symbol": ({"x": ("N", None, 5)}, {}, r"pass sizes=\{'x:1': ...\}"),
    "no batch": ({"x": ("N", 9, 5)}, {"batch": None}, r"pass sizes=\{'N': ...\}"),
    "no such symbol": ({"x": ("N", "seq", 5)}, {"sizes": {"len": 3}},
                       "no input has a dimension 'len'; those to be given a size are N, seq"),
    "size": ({"x": ("N", "seq", 5)}, {"sizes": {"seq": 0}},
             "size of 'seq' must be an integer of at least 1, not 0"),
    "batch": ({"x": ("N", 9, 5)}, {"batch": 0}, "batch must be an integer of at least 1.*not 0"),
    "no shape": ({"x": None}, {}, "the shape of input 'x' is unknown; export"),
}


@pytest.mark.parametrize(("inputs", "options", "words"), BINDING_ERRORS.values(),
                         ids=BINDING_ERRORS)
def test_refuses_sizes(tmp_path, inputs, options, words):
    with pytest.raises(ValueError, match=words):
        _read(tmp_path, [_node("MatMul", "x w")], inputs, {"w": (5, 3)}, **options)


def test_reshape_follows_what_computes_its_target(tmp_path):
    nodes = [
        _node("Shape", "x", "s"), _node("Gather", "s zero", "n"), _node("Gather", "s one", "t"),
        _node("Div", "t two", "h"), _node("ConstantOfShape", "l", "ones",
                                          value=numpy_helper.from_array(np.array([1]))),
        _node("Mul", "h ones", "hs"), _node("Unsqueeze", "n axis", "ns"),
        _node("Concat", "ns hs ten", "target", axis=0),
        _node("Reshape", "x target", "r"), _node("MatMul", "r w"),
    ]
    stored = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "l": np.array([1]),
              "axis": np.array([0]), "ten": np.array([10]), "w": (10, 3)}
    net = _read(tmp_path, nodes, {"x": ("N", "seq", 5)}, stored, sizes={"seq": 8})
    assert net.layers[0].size == (4, 1)
    assert not _unknown(net)


def test_refuses_a_batch_inside_that_is_not_that_of_the_input(tmp_path):
    nodes = [_node("Reshape", "x s", "r", name="flat"), _node("MatMul", "r w")]
    stored = {"s": np.array([4, 25]), "w": (25, 3)}
    with pytest.raises(ValueError, match=r"Reshape 'flat' does not fit its inputs x \(1, 5, 5\), s "
                                         r"\(2,\).*pass these as batch or sizes"):
        _read(tmp_path, nodes, {"x": ("N", 5, 5)}, stored)
    assert _read(tmp_path, nodes, {"x": ("N", 5, 5)}, stored, batch=4).layers[0].macs == 75


# Weights.

@pytest.mark.parametrize("nodes", [
    [_node("Identity", "w", "v")],
    [_node("Cast", "w", "v", to=TensorProto.FLOAT)],
    [_node("Transpose", "w", "u"), _node("Transpose", "u", "v")],
    [_node("Reshape", "w s", "u"), _node("Reshape", "u t", "v")],
    [_node("QuantizeLinear", "w q", "u"), _node("DequantizeLinear", "u q", "v")],
    [_node("Constant", "", "v", value=_tensor("", (5, 3)))],
    [_node("Constant", "", "v", value_floats=[1.0] * 15), _node("Reshape", "v t", "v2")],
], ids=["identity", "cast", "transpose", "reshape", "quantized", "constant", "floats"])
def test_weights_behind_operators_are_weights(tmp_path, nodes):
    last = nodes[-1].output[0]
    net = _read(tmp_path, [*nodes, _node("MatMul", f"x {last}")], {"x": (1, 7, 5)},
                {"w": (5, 3), "s": np.array([15]), "t": np.array([5, 3]), "q": np.float32(0.1)})
    assert [(layer.kind, layer.weights) for layer in net.layers] == [("linear", 15)]


def test_product_of_weights_is_no_weight(tmp_path):
    nodes = [_node("MatMul", "q w", "p", name="a"), _node("MatMul", "x p", name="b")]
    net = _read(tmp_path, nodes, {"x": (1, 7, 4)}, {"q": (4, 5), "w": (5, 3)})
    assert [layer.kind for layer in net.layers] == ["linear", "matmul"]


def test_large_weights_stay_outside(tmp_path):
    graph = _graph([_node("Reshape", "w s", "v"), _node("MatMul", "x v")], {"x": ("N", 7, 500)},
                   {"w": (300, 500), "s": np.array([500, 300])})
    path = _save(tmp_path, graph)
    onnx.save_model(onnx.load(str(path)), str(path), save_as_external_data=True, location="data",
                    size_threshold=0)
    assert read_onnx(path).layers[0].weights == 150_000
    # Only shapes are read from the data, so that damage to weights is not noticed.
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no layer is known that multiplies, but n#2 "
                                         r"\(MatMul of unknown shape after Reshape 'n'\)"):
        read_onnx(path)


def test_shared_weights_make_two_layers_that_both_count(tmp_path):
    nodes = [_node("MatMul", "x w", "a"), _node("MatMul", "a w", "b"), _node("MatMul", "b w")]
    net = _read(tmp_path, nodes, {"x": (1, 5)}, {"w": (5, 5)})
    assert [layer.name for layer in net.layers] == ["n", "n#2", "n#3"]
    assert net.weights == 75


def test_nodes_without_names_are_called_like_their_results(tmp_path):
    net = _read(tmp_path, [_node("MatMul", "x w", "a", name=""), _node("Relu", "a", name="")],
                {"x": (1, 5)}, {"w": (5, 5)})
    assert net.layers[0].name == "a"
    assert net.others[0].name == "y"


# Which layers need the gradient of their input.

BEFORE = {
    # operators between input and layer, whether the layer needs a gradient
    "nothing": ([_node("Identity", "x", "a")], False),
    "normalization of the input": ([_node("Sub", "x m", "b"), _node("Div", "b m", "a")], False),
    "scaling by one number": ([_node("Mul", "x one", "a")], False),
    "trained scale": ([_node("Mul", "x m", "a")], True),
    "norm": ([_node("BatchNormalization", "x m m m m", "a")], True),
    "another layer": ([_node("MatMul", "x sq", "b"), _node("Relu", "b", "a")], True),
    "an unknown operator": ([_node("Odd", "x", "a", domain="custom")], True),
    "positions of the largest": ([_node("MatMul", "x sq", "b"), _node("ArgMax", "b", "i", axis=-1),
                                  _node("Cast", "i", "c", to=TensorProto.FLOAT),
                                  _node("Mul", "x c", "a")], False),
    "embedding": ([_node("Cast", "x", "i", to=TensorProto.INT64), _node("Gather", "m i", "b"),
                   _node("Add", "b x", "a")], True),
}


@pytest.mark.parametrize(("nodes", "needed"), BEFORE.values(), ids=BEFORE)
def test_input_gradient(tmp_path, nodes, needed):
    graph = _graph([*nodes, _node("MatMul", "a w")], {"x": (1, 5)},
                   {"w": (5, 3), "sq": (5, 5), "m": (5,), "one": np.float32(2)})
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, (1, 5)))
    layer = read_onnx(_save(tmp_path, graph)).layers[-1]
    assert layer.outputs == 3
    assert layer.input_gradient is needed


def test_gradient_is_that_of_the_input_where_weights_come_first(tmp_path):
    nodes = [_node("MatMul", "w x", "a"), _node("MatMul", "w a")]
    net = _read(tmp_path, nodes, {"x": (1, 5, 7)}, {"w": (5, 5)})
    assert [layer.input_gradient for layer in net.layers] == [False, True]


# What is no layer.

def test_lists_other_operators(tmp_path):
    nodes = [_node("MatMul", "x w", "a"), _node("Relu", "a", "b", name="r"),
             _node("Odd", "b", "c", domain="custom", name="o"),
             _node("Gelu", "a", "d", domain=MICROSOFT, name="g"),
             _node("DFT", "a", "e", name="d"),
             _node("Einsum", "a a", "f", name="e", equation="ij,ij->ij"),
             _node("Einsum", "a a a", "g", name="t", equation="ij,jk,kl->il"),
             _node("Einsum", "sq x", "h", name="q", equation="ii,ij->ij")]
    net = _read(tmp_path, nodes, {"x": (1, 5)}, {"w": (5, 5), "sq": (5, 5)})
    assert [(other.name, other.operator, other.known) for other in net.others] == [
        ("r", "Relu", True), ("o", "custom.Odd", False), ("g", "com.microsoft.Gelu", True),
        ("d", "DFT", False), ("e", "Einsum", True),
        ("t", "Einsum of 3 operands: ij,jk,kl->il", False),
        ("q", "Einsum with a diagonal: ii,ij->ij", False)]


def test_shapes_lost_are_told_with_what_lost_them(tmp_path):
    nodes = [_node("MatMul", "x w", "a", name="first"),
             _node("Odd", "a", "b", domain="custom", name="o"),
             _node("Relu", "b", "c"), _node("MatMul", "c w", name="second")]
    net = _read(tmp_path, nodes, {"x": (1, 5)}, {"w": (5, 5)})
    assert [layer.name for layer in net.layers] == ["first"]
    assert [(other.name, other.operator) for other in _unknown(net)] == [
        ("o", "custom.Odd"), ("second", "MatMul of unknown shape after Odd 'o'")]


def test_shapes_that_the_file_tells_help_behind_unknown_operators(tmp_path):
    graph = _graph([_node("Odd", "x", "b", domain="custom", name="o"), _node("MatMul", "b w")],
                   {"x": ("N", 5)}, {"w": (5, 3)})
    graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ("N", 5)))
    assert read_onnx(_save(tmp_path, graph)).macs == 15


def test_runtime_operators_keep_shapes(tmp_path):
    nodes = [_node("SkipLayerNormalization", "x x s", "a", domain=MICROSOFT),
             _node("BiasGelu", "a s", "b", domain=MICROSOFT), _node("MatMul", "b w")]
    net = _read(tmp_path, nodes, {"x": (1, 7, 5)}, {"s": (5,), "w": (5, 3)})
    assert net.layers[0].size == (7, 1)
    assert not _unknown(net)


def _branch(name, nodes):
    return helper.make_graph(nodes, name, [], [
        helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)])


def _if(condition):
    return helper.make_node(
        "If", [condition], ["b"], name="if",
        then_branch=_branch("then", [_node("MatMul", "a w", "then_y", name="taken")]),
        else_branch=_branch("else", [_node("Relu", "a", "else_y")]))


def test_branch_is_followed_where_shapes_decide(tmp_path):
    nodes = [_node("Relu", "x", "a"), _node("Shape", "a", "s"), _node("Gather", "s zero", "n"),
             _node("Equal", "n one", "c"), _if("c"), _node("MatMul", "b w", name="after")]
    net = _read(tmp_path, nodes, {"x": ("N", 5)},
                {"w": (5, 5), "zero": np.array(0), "one": np.array(1)})
    assert [layer.name for layer in net.layers] == ["taken", "after"]
    assert not _unknown(net)


def test_branch_is_unknown_where_contents_decide(tmp_path):
    nodes = [_node("Cast", "x", "i", to=TensorProto.BOOL), _node("MatMul", "x w", "a"),
             _node("Squeeze", "i", "c"), _if("c")]
    net = _read(tmp_path, nodes, {"x": (1, 1)}, {"w": (1, 5)})
    assert [(other.name, other.operator) for other in _unknown(net)] == [("if", "If")]


@pytest.mark.parametrize(("operator", "known"), [("Relu", True), ("MatMul", False)])
def test_loop_is_unknown_if_its_body_multiplies(tmp_path, operator, known):
    inner = (_node("Relu", "v", "o") if operator == "Relu" else _node("MatMul", "v w", "o"))
    body = helper.make_graph(
        [_node("Identity", "k", "l"), inner], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
         helper.make_tensor_value_info("k", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("l", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])
    nodes = [_node("MatMul", "x w", "a"),
             helper.make_node("Loop", ["t", "", "a"], ["y"], name="loop", body=body)]
    net = _read(tmp_path, nodes, {"x": (1, 5)}, {"w": (5, 5), "t": np.array(3)})
    assert [(other.name, other.known) for other in net.others] == [("loop", known)]


def test_functions_are_opened(tmp_path):
    opset = [helper.make_opsetid("", 21)]
    function = helper.make_function("local", "Block", ["a", "k"], ["o"], [
        _node("MatMul", "a k", "m"), _node("Relu", "m", "o")], opset)
    path = _save(tmp_path, _graph([_node("Block", "x w", domain="local")], {"x": (1, 7, 5)},
                                  {"w": (5, 3)}), functions=[function], domains=("local",))
    net = read_onnx(path)
    assert [(layer.kind, layer.macs) for layer in net.layers] == [("linear", 105)]
    assert [other.operator for other in net.others] == ["Relu"]


def test_tables_know_what_exists():
    schemas = {schema.name for schema in onnx.defs.get_all_schemas_with_history()
               if not schema.domain}
    # Some are newer than the oldest onnx that is supported.
    newer = {"Swish", "TensorScatter", "CumProd", "RotaryEmbedding", "RMSNormalization",
             "Attention"}
    products = {operator for domain, operator in PRODUCTS if not domain}
    assert products | KNOWN <= schemas | newer
    assert products & KNOWN == {"Einsum"}
    assert not KNOWN_MICROSOFT & {operator for domain, operator in PRODUCTS if domain}


# Files.

@pytest.mark.parametrize(("content", "words"), [
    (b"", "net.onnx holds no ONNX graph, or one without nodes: export the network again"),
    (b"name,type\n", "net.onnx is not an ONNX file .*: export the network again"),
], ids=["empty", "no graph"])
def test_refuses_other_files(tmp_path, content, words):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_onnx(path)


def test_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.onnx: name an ONNX"):
        read_onnx(tmp_path / "none.onnx")


def test_network_reads_onnx_by_its_ending(tmp_path):
    path = _save(tmp_path, _graph([_node("MatMul", "x w")], {"x": ("N", "seq", 5)}, {"w": (5, 3)}))
    assert network(path, sizes={"seq": 7}).macs == 105
