"""Networks from live PyTorch modules."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from gradloom_host.missing import require

require("torch", "torch")
import torch  # noqa: E402 - where it is missing, the line above says how to install it
from torch._subclasses.fake_tensor import (  # noqa: E402
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402
from torch.utils.weak import WeakIdKeyDictionary  # noqa: E402

from ..layers import Layer, Network, Operator  # noqa: E402
from .products import Names  # noqa: E402
from .torch_products import PRODUCTS, Trace, multiplies  # noqa: E402

__all__ = ["read_torch"]

Example = torch.Tensor | Sequence[Any] | Mapping[str, Any]

NEEDS_CONTENTS = (DataDependentOutputException, DynamicOutputShapeException,
                  UnsupportedFakeTensorException, UnsupportedOperatorException)
"""What a module raises that cannot run on shapes alone."""

FACTORIES = frozenset("""
    empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like rand_like
    randn_like zeros_like
""".split())
"""Operators that take nothing but the shape of a tensor."""


def read_torch(module: torch.nn.Module, example: Example, *, batch_axis: int | None = 0,
               name: str | None = None) -> Network:
    """Run a module on the first sample of an example, and read off the layers of its forward pass.

    Functional calls count like submodules do: what is read are PyTorch's own operators. The module
    runs in evaluation mode without gradients, on shapes alone, so that neither its size nor its
    weights matter (they may be on the meta device); only if it asks for contents does it run
    on numbers. Its attributes are as before when it returns.

    Weights are parameters, buffers and constants, and what is computed of them without
    products; all parameters count as trained. Weights that are used twice make two layers, and
    count twice; within a PyTorch RNN, LSTM or GRU the time steps are one layer with a row
    each, as if they did not wait for each other. Transposed convolutions, those of three axes
    and attention become layers as in `onnx_reader.read_onnx`.

    A layer is called like the module that runs, or the parameter that it multiplies by, and else
    like the module and the operator; "#2" marks a second one.

    Parameters
    ----------
    module : Module
    example : tensor, sequence or mapping
        The argument, the arguments, or the named arguments of the module.
    batch_axis : int, optional
        Of the first tensor of the example: of all tensors with as many entries along it only the
        first is kept. None if the example is one sample that knows no batch.
    name : str, optional
        Of the network; the module's class unless given.

    Returns
    -------
    Network
        `others` has an entry for each of the other operators, called like the module that uses it
        first; unknown are those that may multiply on the array, and custom ones.

    Raises
    ------
    TypeError
        If the module is none, or the example holds no tensor.
    ValueError
        If the first tensor of the example has no such axis or no samples, nothing multiplies, or
        the module asks for contents that the meta device does not have.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"A torch.nn.Module is needed, not {module!r}")
    arguments, named = _one_sample(example, batch_axis)
    name = type(module).__name__ if name is None else name
    try:
        recorder = _run(module, arguments, named, fake=True)
    except NEEDS_CONTENTS as error:
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
            raise ValueError(
                f"Module {name} asks for the contents of tensors ({error}), but its weights are "
                "on the meta device; build it on the CPU") from error
        recorder = _run(module, arguments, named, fake=False)
    except Exception as error:
        shapes = [tuple(leaf.shape) for leaf in tree_leaves((arguments, named))
                  if isinstance(leaf, torch.Tensor)]
        error.add_note(f"The module was called with one sample, of shapes {shapes}, cut from the "
                       f"example along batch_axis={batch_axis}.")
        raise
    return Network(name, recorder.layers, recorder.others())


def _one_sample(example: Example, axis: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, torch.Tensor):
        example = (example,)
    if not isinstance(example, (Sequence, Mapping)) or isinstance(example, str):
        raise TypeError(f"The example must be a tensor, or a tuple or dict of arguments, not "
                        f"{example!r}")
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor)]
    if not tensors:
        raise TypeError(f"The example must hold a tensor, not only {example!r}")
    if axis is not None:
        shape = tuple(tensors[0].shape)
        if axis < 0 or axis >= len(shape):
            raise ValueError(f"The example's first tensor, of shape {shape}, has no axis "
                             f"{axis}; pass batch_axis=None if it has no batch")
        samples = shape[axis]
        if not samples:
            raise ValueError(f"The example's first tensor, of shape {shape}, holds no sample "
                             f"along axis {axis}; give it at least one")

        def first(tensor: torch.Tensor) -> torch.Tensor:
            batched = tensor.dim() > axis and tensor.shape[axis] == samples
            return tensor.narrow(axis, 0, 1) if batched else tensor

        example = tree_map_only(torch.Tensor, first, example)
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example), {}


def _run(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], *,
         fake: bool) -> "_Recorder":
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    # Shapes of meta tensors are taken as if they were where the example is.
    device = next(leaf.device for leaf in tree_leaves((arguments, named))
                  if isinstance(leaf, torch.Tensor))
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    if mode is not None:
        convert = _Converter(mode, device)
        state = {key: convert(tensor) for key, tensor in (parameters | buffers).items()}
        arguments, named = tree_map_only(torch.Tensor, convert, (arguments, named))
    else:
        convert = None
        state = parameters | {key: buffer.clone() for key, buffer in buffers.items()}
        arguments, named = tree_map_only(torch.Tensor, torch.clone, (arguments, named))
    recorder = _Recorder(convert)
    for key in parameters:
        recorder.trace(state[key], Trace(trained=True, origin=key))
    for key in buffers:
        recorder.trace(state[key], Trace(origin=key))
    for leaf in tree_leaves((arguments, named)):
        if isinstance(leaf, torch.Tensor):
            recorder.trace(leaf, Trace(stored=False))
    with ExitStack() as stack:
        stack.enter_context(_restored(module, copy=not fake))
        stack.enter_context(_portable())
        stack.enter_context(torch.no_grad())
        module.eval()
        for path, submodule in module.named_modules():
            recorder.follow(path, submodule, stack)
        if mode is not None:
            stack.enter_context(mode)
        stack.enter_context(recorder)
        torch.func.functional_call(module, state, arguments, named)
    return recorder


@contextmanager
def _restored(module: torch.nn.Module, *, copy: bool) -> Iterator[None]:
    """Give all submodules the attributes back that they had, the training flag among them.

    Shapes alone cannot change a tensor; where numbers run, they get copies.
    """
    before = [(submodule, dict(submodule.__dict__)) for submodule in module.modules()]
    try:
        for submodule, attributes in before if copy else ():
            submodule.__dict__.update((key, value.clone()) for key, value in attributes.items()
                                      if isinstance(value, torch.Tensor))
        yield
    finally:
        for submodule, attributes in before:
            submodule.__dict__.clear()
            submodule.__dict__.update(attributes)


@contextmanager
def _portable() -> Iterator[None]:
    """Keep PyTorch from fusing whole layers into one operator of a library."""
    fast = torch.backends.mha.get_fastpath_enabled()
    # Their flags() would set, and warn about, what is none of our business.
    libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [library.enabled for library in libraries]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for library in libraries:
            library.enabled = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for library, before in zip(libraries, enabled):
            library.enabled = before


class _Converter:
    """Turns a tensor into one that has its shape but no contents; always the same one."""

    def __init__(self, mode: FakeTensorMode, device: torch.device):
        self._mode = mode
        self._device = device
        self._converted = WeakIdKeyDictionary()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor not in self._converted:
            if tensor.is_meta:
                with self._mode:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype,
                                               device=self._device)
            else:
                fake = self._mode.from_tensor(tensor)
            self._converted[tensor] = fake
        return self._converted[tensor]


class _Recorder(TorchDispatchMode):
    """Sees every operator that runs, and keeps the layers and others."""

    def __init__(self, convert: _Converter | None):
        super().__init__()
        self.layers: list[Layer] = []
        self._others: dict[str, tuple[str, int, bool]] = {}
        self._convert = convert
        self._traces = WeakIdKeyDictionary()
        self._running: list[tuple[str, torch.nn.Module]] = []
        self._names = Names()
        self._steps: dict[tuple[int, str], int] = {}

    def others(self) -> list[Operator]:
        return [Operator(name=f"{path} and {count - 1} more" if count > 1 else path,
                         operator=operator, known=known)
                for operator, (path, count, known) in self._others.items()]

    def trace(self, tensor: torch.Tensor, trace: Trace) -> None:
        self._traces[tensor] = trace

    def follow(self, path: str, module: torch.nn.Module, stack: ExitStack) -> None:
        """Know when a module runs, until the stack is left."""
        def enter(*_: Any) -> None:
            self._running.append((path, module))

        def leave(*_: Any) -> None:
            self._running.pop()

        stack.enter_context(_Handle(module.register_forward_pre_hook(enter)))
        stack.enter_context(_Handle(module.register_forward_hook(leave, always_call=True)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._convert is not None:
            args, kwargs = tree_map_only(torch.Tensor, self._convert, (args, kwargs))
        result = func(*args, **kwargs)
        namespace, _, name = func._schema.name.partition("::")
        if namespace != "prim":
            traces = [self._trace(leaf) for leaf in tree_leaves((args, kwargs))
                      if isinstance(leaf, torch.Tensor)]
            if namespace == "aten" and name.removesuffix("_") in PRODUCTS:
                self._product(name.removesuffix("_"), _positional(func, args, kwargs))
                trace = Trace(stored=False, trained=any(of.trained for of in traces))
            else:
                known = namespace in ("aten", "prims") and not multiplies(name)
                self._other(f"{namespace}.{name}", known)
                trace = _derived(name, traces)
            self._follow(func, result, trace)
        return result

    def _trace(self, tensor: torch.Tensor) -> Trace:
        return self._traces.get(tensor) or Trace()

    def _product(self, operator: str, arguments: Sequence[Any]) -> None:
        path, module = self._running[-1]
        layers, origin = PRODUCTS[operator]("", arguments, self._trace)
        steps = isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase))
        if steps and origin and (id(module), origin) in self._steps:
            at = self._steps[id(module), origin]
            before, [layer] = self.layers[at], layers
            self.layers[at] = replace(
                before, size=(before.size[0] + layer.size[0], 1),
                input_gradient=before.input_gradient or layer.input_gradient)
            return
        if steps:
            self._steps[id(module), origin] = len(self.layers)
        name = self._names.unique(self._name(path, module, operator, origin))
        self.layers += [replace(layer, name=f"{name}{layer.name}") for layer in layers]

    def _name(self, path: str, module: torch.nn.Module, operator: str, origin: str) -> str:
        called = path or type(module).__name__
        if origin and not any(True for _ in module.children()) and hasattr(module, "weight"):
            return called
        if origin and origin.startswith(f"{path}." if path else ""):
            return origin.removesuffix(".weight")
        return called if "attention" in operator else f"{called}.{operator.strip('_')}"

    def _other(self, operator: str, known: bool) -> None:
        path, module = self._running[-1] if self._running else ("", None)
        first, count, _ = self._others.get(operator, (path or type(module).__name__, 0, known))
        self._others[operator] = (first, count + 1, known)

    def _follow(self, func: Any, result: Any, trace: Trace) -> None:
        """Note where results come from, and what an operator wrote to."""
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor):
                continue
            new = trace if leaf.is_floating_point() or leaf.is_complex() else replace(
                trace, trained=False)
            if func._schema.is_mutable and leaf in self._traces:
                old = self._trace(leaf)
                new = Trace(stored=old.stored and new.stored, trained=old.trained or new.trained)
                if (new.stored, new.trained) != (old.stored, old.trained):
                    self._overwrite(leaf, new)
            self._traces[leaf] = new

    def _overwrite(self, written: torch.Tensor, trace: Trace) -> None:
        """Note what is written to all that shares its memory."""
        storage = written.untyped_storage()._cdata
        for tensor in list(self._traces.keys()):
            if tensor.untyped_storage()._cdata == storage:
                self._traces[tensor] = trace


def _derived(name: str, traces: Sequence[Trace]) -> Trace:
    """Return the trace of what an operator without products gives."""
    if name in FACTORIES:
        return Trace()
    origins = {trace.origin for trace in traces}
    return Trace(stored=all(trace.stored for trace in traces),
                 trained=name != "detach" and any(trace.trained for trace in traces),
                 origin=origins.pop() if len(origins) == 1 else "")


def _positional(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the arguments in the order of the schema, as far as they are given."""
    values = list(args)
    for argument in func._schema.arguments[len(args):]:
        if argument.name not in kwargs and not argument.has_default_value():
            break
        values.append(kwargs.get(argument.name, argument.default_value))
    return values


class _Handle:
    """Removes a hook on leaving."""

    def __init__(self, handle: Any):
        self._handle = handle

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()
