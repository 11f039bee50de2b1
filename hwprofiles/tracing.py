"""Tracing: run a model once and list the layers that it executed.

Multiply-adds are fvcore's count of each layer by itself; their sum is fvcore's count of the model.
Not listed, because they cost next to nothing: views (flatten, permute, slices), identities,
and dropout in eval mode.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from hwprofiles.layers import LayerSpec, build
from hwprofiles.operations import (
    DENSE_TYPES,
    Operation,
    describe_call,
    describe_module,
    module_type,
)

with warnings.catch_warnings():  # fvcore warns on import about its own dependencies
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis


# Networks have dimensions of size 2, 3 (query, key and value) and 4, but hardly ever of size 5.
TRACED_BATCH = 5


@dataclass(frozen=True)
class Traced:
    """What one forward pass executed.

    Attributes:
        layers: in the order of execution.
        views: the calls that are no layers, by name.
        bare: name -> size of the parameters that no layer counts: ones that only views or
            untimed calls read (a class token that is expanded and joined), or nothing at all.
    """

    layers: list[LayerSpec]
    views: list[str]
    bare: dict[str, int]


def trace(model: nn.Module, example_input: Tensor) -> list[LayerSpec]:
    """The layers of ``model`` in the order of execution: ``trace_all`` without the views."""
    return trace_all(model, example_input).layers


def trace_all(model: nn.Module, example_input: Tensor) -> Traced:
    """Run ``model`` once in eval mode and list its layers in the order of execution.

    Mode, hooks and random state are left as they were.

    Args:
        model: any module that takes one tensor.
        example_input: [B, ...]. Only its shape and dtype matter; results are per example.

    Raises:
        ValueError: nothing that the model executes is a layer.
    """
    if len(example_input) == 1:  # a batch of 1 cannot be told from a dimension of that size
        example_input = example_input.expand(TRACED_BATCH, *example_input.shape[1:])
    modes = {module: module.training for module in model.modules()}
    devices = [example_input.device] if example_input.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            model.eval()
            with _Recorder(model, len(example_input)) as recorder:
                model(example_input)
            layers, counted = recorder.specs()
            bare = {n: p.numel() for n, p in model.named_parameters() if p not in counted}
            traced = Traced(layers, sorted(recorder.views), bare)
    finally:
        for module, training in modes.items():
            module.training = training
    if not traced.layers:
        raise ValueError(f"{type(model).__name__}: no layer was executed")
    return traced


@dataclass
class _Call:
    name: str
    operation: Operation
    in_channels: int
    out_channels: int
    parameters: list[nn.Parameter]
    activation_bytes: int
    parametrized: bool = False


class _Recorder(TorchFunctionMode):
    """Records known modules by hooks, and torch functions called outside them."""

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.model = model
        self.batch_size = batch_size
        self.calls: list[_Call] = []
        self.views: set[str] = set()
        self._path: list[str] = [""]
        self._known_depth = 0
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        for name, module in self.model.named_modules():
            known = module_type(module) is not None
            before, after = self._hooks(name, known)
            self._handles.append(module.register_forward_pre_hook(before))
            self._handles.append(module.register_forward_hook(after))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def _hooks(self, name: str, known: bool) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append(name)
            self._known_depth += known

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._path.pop()
            self._known_depth -= known
            if known and not self._known_depth:
                self._record_module(name, module, args[0], output)

        return before, after

    def _record_module(self, name: str, module: nn.Module, x: Tensor, y: Tensor) -> None:
        kind = module_type(module)
        assert kind is not None
        axis = _channel_axis(x) if kind.axis is None else kind.axis % x.dim()
        # Only shapes are kept, so an input that was overwritten in place does no harm.
        operation = describe_module(module, kind, x, axis)
        parameters = list(module.parameters())
        self._add(name, operation, x.shape[axis], y.shape[axis], parameters, y)
        self.calls[-1].parametrized = parametrize.is_parametrized(module)
        _set_channel_axis(y, axis)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in _tensors((args, kwargs)) if t.numel()]
        output = func(*args, **kwargs)
        outputs = list(_tensors(output))
        if self._known_depth or not inputs or not outputs:
            return output
        y = outputs[0]
        x = max(inputs, key=Tensor.numel)
        axis = _channel_axis(x)
        if func.__name__ in DENSE_TYPES:  # the largest tensor may be the weight
            x = args[0]
            axis = 1 if func.__name__ == "conv2d" else x.dim() - 1
        operation = describe_call(
            func, args, kwargs, self.batch_size, axis, channels=x.shape[axis] if x.dim() else 0
        )
        is_view = any(_same_storage(y, t) for t in inputs)
        name = f"{self._path[-1]}:{operation.type}"
        if x.dim() < 2 or (is_view and not operation.in_place):
            self.views.add(name)
            return output
        parameters = [t for t in inputs if isinstance(t, nn.Parameter)]
        out = y.shape[axis] if y.dim() == x.dim() else x.shape[axis]
        self._add(name, operation, x.shape[axis], out, parameters, *outputs)
        if y.dim() == x.dim():
            _set_channel_axis(y, axis)
        return output

    def _add(
        self,
        name: str,
        operation: Operation,
        in_channels: int,
        out_channels: int,
        parameters: list[nn.Parameter],
        *outputs: Tensor,
    ) -> None:
        size = sum(t.numel() * t.element_size() for t in outputs) // self.batch_size
        self.calls.append(_Call(name, operation, in_channels, out_channels, parameters, size))

    def specs(self) -> tuple[list[LayerSpec], set[nn.Parameter]]:
        """The layers, counted: multiply-adds once a signature, parameters once a tensor.

        Also the parameters that were counted.
        """
        by_signature: dict[str, LayerSpec] = {}
        used: Counter[str] = Counter()
        counted: set[nn.Parameter] = set()
        specs = []
        for call in self.calls:
            signature = _signature(call)
            if signature not in by_signature:
                by_signature[signature] = _count(_uncounted(call, signature), self.batch_size)
            name = call.name if not used[call.name] else f"{call.name}#{used[call.name]}"
            used[call.name] += 1
            fresh = set(call.parameters) - counted
            counted |= fresh
            spec = by_signature[signature]
            plain = call.parametrized and fresh
            params = _plain_params(spec) if plain else sum(p.numel() for p in fresh)
            specs.append(
                replace(spec, name=name, params=params, activation_bytes=call.activation_bytes)
            )
        return specs, counted


def _uncounted(call: _Call, signature: str) -> LayerSpec:
    options = dict(call.operation.options)
    groups = int(str(options.get("groups", 1)))
    dense = call.operation.type in DENSE_TYPES and groups == 1
    multiple = int(str(options.get("num_groups", 1)))
    if groups > 1:
        multiple = call.in_channels // groups
    return LayerSpec(
        name=call.name,
        type=call.operation.type,
        signature=signature,
        in_channels=call.in_channels,
        out_channels=call.out_channels,
        groups=groups,
        form="dense" if dense else "channel",
        macs=0.0,
        params=0,
        activation_bytes=call.activation_bytes,
        bias=dense and bool(options.get("bias")),
        channel_multiple=multiple,
        operation=call.operation,
    )


def _count(spec: LayerSpec, traced_batch: int) -> LayerSpec:
    """Fill in the multiply-adds, and whether the layer can be narrower."""
    try:
        macs = _macs(spec, 1)
    except (RuntimeError, ValueError, IndexError):
        # A function whose arguments follow the batch in a way of their own: as it was called.
        return replace(spec, macs=_macs(spec, traced_batch) / traced_batch, scalable=False)
    return replace(spec, macs=macs, scalable=_scales(spec))


def _macs(spec: LayerSpec, batch_size: int) -> float:
    function, x = build(spec, spec.in_channels, spec.out_channels, batch_size)
    analysis = FlopCountAnalysis(_AsModule(function), x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(analysis.total())


def _scales(spec: LayerSpec) -> bool:
    """Try a function at half its width: does its output halve, too?"""
    assert spec.operation is not None
    if spec.operation.is_module:
        return True
    half = spec.in_channels // 2
    main = spec.operation.main()
    if not half or main.axis is None or spec.in_channels != spec.out_channels:
        return False
    try:
        function, x = build(spec, half, half)
        y = next(_tensors(function(x)))
    except (RuntimeError, ValueError, IndexError, StopIteration):
        return False
    axis = main.axis + int(main.batched)
    return y.dim() != x.dim() or y.shape[axis] == half


class _AsModule(nn.Module):
    """fvcore counts modules only."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def _plain_params(spec: LayerSpec) -> int:
    """Parameters of a plain layer like this one, without what its parametrization added."""
    assert spec.operation is not None
    with torch.device("meta"):
        made = spec.operation.make(spec.in_channels, spec.out_channels)
    assert isinstance(made, nn.Module)
    return sum(p.numel() for p in made.parameters())


def _signature(call: _Call) -> str:
    operation = call.operation
    shapes = ", ".join(_by_x(t.shape) for t in operation.tensors())
    options = "".join(f", {key}={_text(value)}" for key, value in operation.options)
    if operation.type in DENSE_TYPES:
        channels = f"{call.in_channels}->{call.out_channels}"
    else:
        channels = f"{call.in_channels}"
        if call.out_channels != call.in_channels:
            channels += f"->{call.out_channels}"
    return f"{operation.type}({channels}, {shapes}{options})"


def _text(value: object) -> str:
    if isinstance(value, type):
        return value.__name__
    return _by_x(value) if isinstance(value, (tuple, list)) else str(value)


def _by_x(values: Any) -> str:
    return "x".join(str(value) for value in values)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _channel_axis(x: Tensor) -> int:
    """What the layer that made ``x`` said; else 1 for images, the last for tokens."""
    return getattr(x, "_channel_axis", 1 if x.dim() == 4 else max(x.dim() - 1, 0))


def _set_channel_axis(x: Tensor, axis: int) -> None:
    x._channel_axis = axis  # type: ignore[attr-defined]
