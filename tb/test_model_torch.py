"""PyTorch modules: whatever multiplies in the forward pass is a layer, wherever it is called."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import model_count
from gradloom_model.layers import Layer
from gradloom_model.readers.csv_reader import read_csv
from gradloom_model.readers.onnx_reader import read_onnx
from gradloom_model.readers.read import network

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: run pip install 'gradloom[torch]'")

from torch import nn  # noqa: E402 - only with PyTorch
from torch.nn import functional  # noqa: E402

from gradloom_model.readers.torch_reader import read_torch  # noqa: E402

# On tensors this small more threads only wait for each other.
torch.set_num_threads(1)


class Call(nn.Module):
    """A module that calls a function of itself and its arguments."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            if isinstance(value, nn.Module):
                self.add_module(name, value)
            else:
                self.register_parameter(name, nn.Parameter(torch.zeros(value)))

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def _facts(layer):
    """Return what is not as it is by default, without the name and the gradient."""
    plain = Layer(name="", inputs=1, outputs=1)
    fields = ("kind", "kernel", "stride", "dilation", "padding", "size", "groups", "copies")
    return {"inputs": layer.inputs, "outputs": layer.outputs} | {
        field: getattr(layer, field) for field in fields
        if getattr(layer, field) != getattr(plain, field)}


def _linear(inputs, outputs, rows=1):
    facts = {"kind": "linear", "inputs": inputs, "outputs": outputs}
    return facts if rows == 1 else facts | {"size": (rows, 1)}


def _matmul(rows, inputs, outputs, copies=1):
    facts = {"kind": "matmul", "inputs": inputs, "outputs": outputs, "size": (rows, 1)}
    return facts if copies == 1 else facts | {"copies": copies}


ATTENTION = [_matmul(7, 5, 6, 4), _matmul(7, 6, 5, 4)]

CASES = {
    # module, shapes of its arguments, layers
    "conv": (nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)), [(2, 3, 9, 8)],
             [{"inputs": 3, "outputs": 4, "kernel": (3, 2), "stride": (2, 1), "dilation": (1, 2),
               "padding": (1, 0, 1, 0), "size": (9, 8)}]),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), [(2, 6, 9, 8)],
                  [{"inputs": 6, "outputs": 6, "groups": 6, "kernel": (3, 3), "size": (9, 8)}]),
    "conv of one axis": (nn.Conv1d(3, 4, 3), [(2, 3, 9)],
                         [{"inputs": 3, "outputs": 4, "kernel": (3, 1), "size": (9, 1)}]),
    "conv of three axes": (nn.Conv3d(3, 4, 3, padding=1), [(2, 3, 4, 5, 6)],
                           [{"inputs": 3, "outputs": 4, "kernel": (9, 3), "size": (20, 6),
                             "padding": (4, 1, 4, 1)}]),
    "transposed conv": (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), [(2, 4, 5, 6)],
                        [{"inputs": 4, "outputs": 24, "groups": 2, "size": (5, 6)}]),
    "frames": (Call(lambda self, x: self.c(x.flatten(0, 1)), c=nn.Conv2d(3, 4, 3, padding=1)),
               [(2, 5, 3, 8, 7)],
               [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (40, 7),
                 "padding": (1, 1, 1, 1)}]),
    "computed kernel": (Call(lambda _, x, w: functional.conv2d(x, w[0])),
                        [(2, 4, 6, 5), (2, 3, 4, 3, 3)], [_matmul(12, 36, 3)]),
    "functional conv": (Call(lambda self, x: functional.conv2d(x, self.w), w=(4, 3, 3, 3)),
                        [(2, 3, 8, 7)],
                        [{"inputs": 3, "outputs": 4, "kernel": (3, 3), "size": (8, 7)}]),
    "linear": (nn.Linear(5, 3), [(2, 5)], [_linear(5, 3)]),
    "linear on more axes": (nn.Linear(5, 3), [(2, 7, 6, 5)], [_linear(5, 3, 42)]),
    "functional linear": (Call(lambda self, x: functional.linear(x, self.w), w=(3, 5)),
                          [(2, 7, 5)], [_linear(5, 3, 7)]),
    "at": (Call(lambda self, x: x @ self.w, w=(5, 3)), [(2, 7, 5)], [_linear(5, 3, 7)]),
    "weights first": (Call(lambda self, x: self.w @ x, w=(3, 5)), [(2, 5, 7)],
                      [_linear(5, 3, 7)]),
    "standardized weights": (Call(lambda self, x: x @ (self.w - self.w.mean(0)), w=(5, 3)),
                             [(2, 7, 5)], [_linear(5, 3, 7)]),
    "weights of heads": (Call(lambda self, x: torch.matmul(x, self.w), w=(4, 5, 3)),
                         [(2, 4, 7, 5)],
                         [{"inputs": 20, "outputs": 12, "groups": 4, "size": (7, 1)}]),
    "weights for all heads": (Call(lambda self, x: torch.bmm(x[0], self.w.expand(4, 5, 3)),
                                   w=(5, 3)), [(2, 4, 7, 5)], [_linear(5, 3, 28)]),
    "vector": (Call(lambda self, x: x @ self.w, w=(5,)), [(2, 7, 5)], [_linear(5, 1, 7)]),
    "products": (Call(lambda _, x, y: x @ y), [(2, 4, 7, 5), (2, 4, 5, 6)], [_matmul(7, 5, 6, 4)]),
    "bmm": (Call(lambda _, x, y: torch.bmm(x[0], y[0])), [(2, 4, 7, 5), (2, 4, 5, 6)],
            [_matmul(7, 5, 6, 4)]),
    "baddbmm": (Call(lambda _, x, y: torch.baddbmm(x[0] @ y[0], x[0], y[0])),
                [(2, 4, 7, 5), (2, 4, 5, 6)], [_matmul(7, 5, 6, 4)] * 2),
    "addbmm": (Call(lambda _, x, y: torch.addbmm(torch.zeros(7, 6), x[0], y[0])),
               [(2, 4, 7, 5), (2, 4, 5, 6)], [_matmul(7, 20, 6)]),
    "einsum": (Call(lambda _, x, y: torch.einsum("bhqd,bhkd->bhqk", x, y)),
               [(2, 4, 7, 5), (2, 4, 6, 5)], [_matmul(7, 5, 6, 4)]),
    "einsum of weights": (Call(lambda self, x: torch.einsum("btd,dhe->bthe", x, self.w),
                               w=(5, 2, 3)), [(2, 7, 5)], [_linear(5, 6, 7)]),
    "attention": (Call(lambda _, q, k, v: functional.scaled_dot_product_attention(q, k, v)),
                  [(2, 4, 7, 5), (2, 4, 6, 5), (2, 4, 6, 5)], ATTENTION),
    "masked attention": (
        Call(lambda _, q, k, v: functional.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(7, 6, dtype=torch.bool))),
        [(2, 4, 7, 5), (2, 4, 6, 5), (2, 4, 6, 5)], ATTENTION),
    "multihead attention": (
        Call(lambda self, q, k: self.a(q, k, k)[0],
             a=nn.MultiheadAttention(20, 4, batch_first=True)),
        [(2, 7, 20), (2, 6, 20)],
        [_linear(20, 20, 7), _linear(20, 40, 6), *ATTENTION, _linear(20, 20, 7)]),
    "multihead attention's fast path": (
        Call(lambda self, q: self.a(q, q, q, need_weights=False)[0],
             a=nn.MultiheadAttention(20, 4, batch_first=True)), [(2, 7, 20)],
        [_linear(20, 60, 7), _matmul(7, 5, 7, 4), _matmul(7, 7, 5, 4), _linear(20, 20, 7)]),
    "LSTM": (nn.LSTM(5, 6, batch_first=True), [(2, 9, 5)], [_linear(5, 24, 9), _linear(6, 24, 9)]),
    "GRU both ways": (nn.GRU(5, 6, batch_first=True, bidirectional=True), [(2, 9, 5)],
                      [_linear(5, 18, 9), _linear(6, 18, 9)] * 2),
    "RNN cell": (Call(lambda self, x: self.r(x[:, 1], self.r(x[:, 0])), r=nn.RNNCell(5, 6)),
                 [(2, 9, 5)], [_linear(6, 6, 2), _linear(5, 6, 2)]),
}


@pytest.mark.parametrize(("module", "shapes", "layers"), CASES.values(), ids=CASES)
def test_call(module, shapes, layers):
    net = read_torch(module, tuple(torch.zeros(shape) for shape in shapes))
    assert [_facts(layer) for layer in net.layers] == layers
    for layer in net.layers:
        assert layer.macs == model_count.layer(layer)
    assert all(other.known for other in net.others)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_layers_are_those_of_one_sample(samples):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 5, 10))
    net = read_torch(module, torch.zeros(samples, 3, 8, 7))
    assert [layer.macs for layer in net.layers] == [4 * 27 * 30, 1200]


def test_batch_may_be_another_axis_or_none():
    module = nn.Linear(5, 3)
    assert read_torch(module, torch.zeros(7, 2, 5), batch_axis=1).layers[0].size == (7, 1)
    assert read_torch(module, torch.zeros(7, 5), batch_axis=None).layers[0].size == (7, 1)


def test_only_what_has_as_many_samples_is_cut():
    module = Call(lambda self, x, other, scale: self.l(x) + self.l(other) * scale,
                  l=nn.Linear(5, 3))
    net = read_torch(module, {"x": torch.zeros(4, 7, 5), "other": torch.zeros(7, 5), "scale": 2.0})
    assert [layer.size for layer in net.layers] == [(7, 1), (7, 1)]


# Names.

def test_layers_are_called_like_modules_parameters_or_functions():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(5, 5)
            self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
            self.kernel = nn.Parameter(torch.zeros(5, 5))

        def forward(self, x):
            x = self.first(self.first(x))
            x = self.attention(x, x, x, need_weights=False)[0] @ self.kernel
            return x @ x.transpose(1, 2)

    net = read_torch(nn.Sequential(Block()), torch.zeros(2, 7, 5))
    assert [layer.name for layer in net.layers] == [
        "0.first", "0.first#2", "0.attention.in_proj_weight", "0.attention.scores",
        "0.attention.values", "0.attention.out_proj", "0.kernel", "0.bmm"]
    assert net.name == "Sequential"
    assert read_torch(nn.Linear(5, 5), torch.zeros(1, 5), name="x").layers[0].name == "Linear"


def test_tied_weights_count_twice():
    first, second = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    second.weight = first.weight
    net = read_torch(nn.Sequential(first, second), torch.zeros(1, 5))
    assert [layer.name for layer in net.layers] == ["0", "1"]
    assert net.weights == 50


# Which layers need the gradient of their input.

BEFORE = {
    "nothing": (nn.Identity(), False),
    "operators": (nn.Sequential(nn.ReLU(), nn.Dropout()), False),
    "another layer": (nn.Linear(5, 5), True),
    "norm": (nn.LayerNorm(5), True),
    "norm without parameters": (nn.LayerNorm(5, elementwise_affine=False), False),
    "statistics of a norm": (nn.BatchNorm1d(5, affine=False), False),
    "scale": (Call(lambda self, x: x * self.s, s=(5,)), True),
    "scale in place": (Call(lambda self, x: x.clone().mul_(self.s), s=(5,)), True),
    "written in part": (Call(lambda self, x: _write_scaled(x.clone(), self.s), s=(5,)), True),
    "positions": (Call(lambda self, x: x * (x @ self.w).argmax(), w=(5, 5)), False),
    "detached": (Call(lambda self, x: (x * self.s).detach(), s=(5,)), False),
}


def _write_scaled(x, scale):
    x[:, :2] = scale[:2]
    return x


@pytest.mark.parametrize(("module", "needed"), BEFORE.values(), ids=BEFORE)
def test_input_gradient(module, needed):
    layer = read_torch(nn.Sequential(module, nn.Linear(5, 3)), torch.zeros(1, 5)).layers[-1]
    assert layer.outputs == 3
    assert layer.input_gradient is needed


def test_gradient_is_that_of_the_input_where_weights_come_first():
    net = read_torch(Call(lambda self, x: self.w @ (self.w @ x), w=(5, 5)), torch.zeros(5, 7),
                     batch_axis=None)
    assert [layer.input_gradient for layer in net.layers] == [False, True]


def test_input_written_to_a_buffer_is_no_weight():
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.keys = nn.Buffer(torch.zeros(9, 5))

        def forward(self, x):
            self.keys[:7] = x[0]
            return x @ self.keys.T

    module = Cache()
    assert [_facts(layer) for layer in read_torch(module, torch.ones(2, 7, 5)).layers] == [
        _matmul(7, 5, 9)]
    assert not module.keys.any()


# What is no layer.

def test_lists_other_operators_once_with_where_they_are():
    @torch.library.custom_op("gradloom_test::odd", mutates_args=())
    def odd(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    odd.register_fake(torch.empty_like)
    module = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(),
                           Call(lambda _, x: odd(x)), Call(lambda _, x: torch.linalg.inv(x @ x.T)))
    net = read_torch(module, torch.zeros(1, 5))
    others = {other.operator: (other.name, other.known) for other in net.others}
    assert others["aten.relu"] == ("1 and 1 more", True)
    assert others["gradloom_test.odd"] == ("4", False)
    assert others["aten.linalg_inv_ex"] == ("5", False)
    assert sum(not known for _, known in others.values()) == 2


# The module is as it was.

class Counter(nn.Module):
    """Changes whatever a module can change in its forward pass."""

    def __init__(self, *, ask=False):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.linear = nn.Linear(5, 5)
        self.steps = nn.Buffer(torch.zeros(()))
        self.plain = torch.zeros(3)
        self.calls = 0
        self.ask = ask

    def forward(self, x):
        self.steps += 1
        self.plain += 1
        self.calls += 1
        if self.ask and x.sum().item() > 0:
            x = x * 2
        return self.linear(self.norm(x))


@pytest.mark.parametrize("ask", [False, True])
def test_module_is_as_before(ask):
    module = Counter(ask=ask)
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    example = torch.ones(4, 5)
    assert read_torch(module, example).macs == 25
    assert module.training
    assert module.linear.training
    assert not module.norm.training
    assert not module.plain.any()
    assert module.calls == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled
    assert not module.linear._forward_hooks
    assert not module.linear._forward_pre_hooks
    assert torch.equal(example, torch.ones(4, 5))


def test_module_is_as_before_if_it_fails():
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(6, 6))
    with pytest.raises(RuntimeError) as caught:
        read_torch(module, torch.zeros(3, 5))
    assert caught.value.__notes__ == [
        "The module was called with one sample, of shapes [(1, 5)], cut from the example along "
        "batch_axis=0."]
    assert module.training
    assert not module[0]._forward_hooks


def test_weights_may_be_on_the_meta_device():
    with torch.device("meta"):
        module = nn.Linear(100_000, 100_000)
    assert read_torch(module, torch.zeros(2, 100_000)).macs == 10 ** 10


def test_asking_for_contents_needs_contents():
    with torch.device("meta"):
        module = Counter(ask=True)
    with pytest.raises(ValueError, match=r"Module Counter asks for the contents of tensors "
                                         r"\(aten._local_scalar_dense.default\), but its weights "
                                         "are on the meta device; build it on the CPU"):
        read_torch(module, torch.ones(2, 5))


ERRORS = {
    "no module": (nn.Linear, torch.zeros(1), {}, TypeError, "A torch.nn.Module is needed, not"),
    "no tensor": (nn.Linear(5, 3), (3,), {}, TypeError, r"must hold a tensor, not only \(3,\)"),
    "text": (nn.Linear(5, 3), "x", {}, TypeError, "must be a tensor, or a tuple or dict"),
    "axis": (nn.Linear(5, 3), torch.zeros(5), {"batch_axis": 1}, ValueError,
             r"of shape \(5,\), has no axis 1; pass batch_axis=None"),
    "no sample": (nn.Linear(5, 3), torch.zeros(0, 5), {}, ValueError,
                  r"of shape \(0, 5\), holds no sample along axis 0; give it at least one"),
    "no layer": (nn.ReLU(), torch.zeros(1, 5), {}, ValueError,
                 "network 'ReLU' has no layer that multiplies"),
}


@pytest.mark.parametrize(("module", "example", "options", "kind", "words"), ERRORS.values(),
                         ids=ERRORS)
def test_refuses(module, example, options, kind, words):
    with pytest.raises(kind, match=words):
        read_torch(module, example, **options)


def test_network_reads_modules():
    assert network(nn.Linear(5, 3), torch.zeros(7, 2, 5), batch_axis=1).macs == 105
    with pytest.raises(TypeError, match="The module Linear needs an example of its input"):
        network(nn.Linear(5, 3))


def test_says_how_to_install_pytorch():
    code = ("import sys; sys.modules['torch'] = None\n"
            "from gradloom_model.readers import read\n"
            "class Module:\n    named_modules = print\n"
            "try:\n    read.network(Module(), 1)\n"
            "except ImportError as error:\n    print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("Module 'torch' is not installed; run: pip install 'gradloom[torch]'\n")


# The same networks, three times.

HEADER = "name,type,N_out,C_in,K_h,K_w,stride_h,stride_w,pad_h,pad_w,H_in,W_in,groups"


def _onnx(tmp_path, nodes, inputs, stored):
    graph = helper.make_graph(
        [helper.make_node(operator, taken.split(), [given], **attributes)
         for operator, taken, given, attributes in nodes], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(given, np.float32) if isinstance(given, tuple)
                                 else np.array(given), name) for name, given in stored.items()])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]),
              str(path))
    return read_onnx(path)


def _csv(tmp_path, *lines):
    path = tmp_path / "net.csv"
    path.write_text("\n".join((HEADER + ",copies", *lines)), "utf-8")
    return read_csv(path)


def _same(live, graph, table, macs, weights):
    assert ([_facts(layer) for layer in live.layers] == [_facts(layer) for layer in graph.layers]
            == [_facts(layer) for layer in table.layers])
    gradients = [[layer.input_gradient for layer in net.layers] for net in (live, graph, table)]
    assert gradients[0] == gradients[1] == gradients[2]
    assert live.macs == graph.macs == table.macs == macs
    assert live.weights == graph.weights == table.weights == weights


def test_same_cnn(tmp_path):
    live = read_torch(nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 12, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 10, bias=False)), torch.zeros(2, 3, 20, 16))
    graph = _onnx(tmp_path, [
        ("Conv", "x a", "c", {"strides": [2, 2], "pads": [1, 1, 1, 1]}), ("Relu", "c", "r", {}),
        ("Conv", "r b", "d", {"group": 8}), ("Conv", "d p", "e", {}),
        ("GlobalAveragePool", "e", "f", {}), ("Flatten", "f", "g", {}),
        ("Gemm", "g w", "y", {"transB": 1})],
        ("N", 3, 20, 16),
        {"a": (8, 3, 3, 3), "b": (8, 1, 3, 3), "p": (12, 8, 1, 1), "w": (10, 12)})
    table = _csv(tmp_path, "a,conv,8,3,3,3,2,2,1,1,20,16,1,1", "b,conv,8,8,3,3,1,1,0,0,10,8,8,1",
                 "p,conv,12,8,1,1,1,1,0,0,8,6,1,1", "w,fc,10,12,1,1,1,1,0,0,1,1,1,1")
    macs = (model_count.convolution([20, 16], [3, 3], inputs=3, outputs=8, stride=[2, 2],
                                    pads=[1] * 4)
            + model_count.convolution([10, 8], [3, 3], inputs=8, outputs=8, groups=8)
            + model_count.einsum("cp,oc->op", (8, 48), (12, 8)) + 120)
    _same(live, graph, table, macs, 216 + 72 + 96 + 120)


def test_same_transformer_encoder(tmp_path):
    live = read_torch(
        nn.TransformerEncoderLayer(20, 4, 48, batch_first=True, bias=False), torch.zeros(2, 7, 20))
    graph = _encoder(tmp_path)
    table = _csv(tmp_path, "qkv,linear,60,20,1,1,1,1,0,0,7,1,1,1",
                 "s,matmul,7,5,1,1,1,1,0,0,7,1,1,4", "v,matmul,5,7,1,1,1,1,0,0,7,1,1,4",
                 "out,linear,20,20,1,1,1,1,0,0,7,1,1,1", "up,linear,48,20,1,1,1,1,0,0,7,1,1,1",
                 "down,linear,20,48,1,1,1,1,0,0,7,1,1,1")
    macs = (model_count.einsum("td,de->te", (7, 20), (20, 60 + 20 + 48 + 48))
            + 2 * model_count.einsum("hqd,hkd->hqk", (4, 7, 5), (4, 7, 5)))
    _same(live, graph, table, macs, 20 * (60 + 20 + 48 + 48))


def _encoder(tmp_path):
    heads = {"perm": [0, 2, 1, 3]}
    return _onnx(tmp_path, [
        ("MatMul", "x qkv", "p", {}), ("Reshape", "p split", "p5", {}),
        *((step, taken, given, attributes) for at, part in enumerate("qkv") for
          step, taken, given, attributes in (
            ("Gather", f"p5 i{at}", f"{part}4", {"axis": 2}),
            ("Transpose", f"{part}4", f"{part}h",
             {"perm": [0, 2, 3, 1]} if part == "k" else heads))),
        ("MatMul", "qh kh", "s", {}), ("Softmax", "s", "a", {}), ("MatMul", "a vh", "o", {}),
        ("Transpose", "o", "ot", heads), ("Reshape", "ot join", "oj", {}),
        ("MatMul", "oj out", "z", {}), ("Add", "x z", "r", {}),
        ("LayerNormalization", "r g", "n", {}), ("MatMul", "n up", "h", {}),
        ("Relu", "h", "hr", {}), ("MatMul", "hr down", "y", {})],
        ("N", 7, 20),
        {"qkv": (20, 60), "split": [0, 7, 3, 4, 5], "i0": 0, "i1": 1, "i2": 2,
         "join": [0, 7, 20], "out": (20, 20), "g": (20,), "up": (20, 48), "down": (48, 20)})
