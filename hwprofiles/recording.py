"""Recording: the layers that a forward pass calls, and what with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from hwprofiles.batching import BATCHES, follow_batch
from hwprofiles.module_types import DENSE_TYPES, ModuleType, module_type
from hwprofiles.operations import (
    Operation,
    TensorArgument,
    describe_call,
    describe_module,
    map_leaves,
    overwrites,
    plain_name,
)

_PRODUCTS = ("matmul", "scaled_dot_product_attention")
"""Of two tensors of four dimensions: heads by heads, whatever the queries' channels were before."""


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        name: the module's path; of a function '<path of the calling module>:<function>'.
        function: the module or the torch function.
        kind: of a module.
        args: positional arguments, tensors as ``TensorArgument``.
        kwargs: keyword arguments, likewise.
        outputs: all tensors that it returned.
        element_sizes: of the outputs, in bytes.
        parameters: those that it read.
    """

    name: str
    function: Callable[..., Any]
    kind: ModuleType | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[TensorArgument, ...]
    element_sizes: tuple[int, ...]
    parameters: Sequence[nn.Parameter]

    @property
    def is_parametrized(self) -> bool:
        """A module whose parameters are computed from others."""
        return isinstance(self.function, nn.Module) and parametrize.is_parametrized(self.function)

    def operation(self) -> Operation:
        """What was called, to be run alone."""
        if self.kind is None:
            return describe_call(self.function, self.args, self.kwargs)
        assert isinstance(self.function, nn.Module)
        return describe_module(self.function, self.kind, self.args[0])

    def activation_bytes(self) -> int:
        """Bytes of the outputs with one example."""
        return sum(o.elements() * size for o, size in zip(self.outputs, self.element_sizes))


@dataclass
class Recording:
    """What one forward pass called.

    Attributes:
        calls: the layers in order.
        views: the calls that are no layers, by name.
    """

    calls: list[Call] = field(default_factory=list)
    views: set[str] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        """Of the layers, in order."""
        return [call.name for call in self.calls]


def record(model: nn.Module, x: Tensor) -> Recording:
    """Run ``model`` on ``x`` and record what it calls."""
    with _Recorder(model) as recorder:
        model(x)
    return recorder.recording


def merge(first: Recording, second: Recording) -> list[Call]:
    """The calls of two passes, at the two ``BATCHES``, with sizes that follow the batch.

    Raises:
        ValueError: calls that cannot be told for other batch sizes.
    """
    for a, b in zip(first.names, second.names):
        if a != b:
            raise _mixed(a, f"with the other it is {b}")
    if len(first.calls) != len(second.calls):
        longer = max(first.names, second.names, key=len)
        raise _mixed(longer[min(len(first.calls), len(second.calls))], "with the other it is not")
    return [_merged(a, b) for a, b in zip(first.calls, second.calls)]


def _merged(a: Call, b: Call) -> Call:
    try:
        return replace(
            a,
            args=follow_batch(a.args, b.args),
            kwargs=follow_batch(a.kwargs, b.kwargs),
            outputs=follow_batch(a.outputs, b.outputs),
        )
    except ValueError as error:
        raise _mixed(a.name, str(error)) from None


def _mixed(name: str, detail: str) -> ValueError:
    one, other = BATCHES
    return ValueError(
        f"model: layer {name} is not called example by example: with {one} examples and with "
        f"{other} it should have sizes in proportion, but {detail}"
    )


class _Recorder(TorchFunctionMode):
    """Records known modules by hooks, and torch functions called outside them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.recording = Recording()
        self._path: list[str] = [""]
        self._known_depth = 0
        self._handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        for name, module in self.model.named_modules():
            before, after = self._hooks(name, module_type(module))
            self._handles.append(module.register_forward_pre_hook(before))
            self._handles.append(module.register_forward_hook(after, with_kwargs=True))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def _hooks(
        self, name: str, kind: ModuleType | None
    ) -> tuple[Callable[..., None], Callable[..., None]]:
        known = kind is not None

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append(name)
            self._known_depth += known

        def after(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            self._path.pop()
            self._known_depth -= known
            if kind is not None and not self._known_depth:
                # A known module takes one tensor, by position or by name.
                x, y = next(tensors((args, kwargs))), next(tensors(output))
                self._record_module(name, module, kind, x, y)

        return before, after

    def _record_module(
        self, name: str, module: nn.Module, kind: ModuleType, x: Tensor, y: Tensor
    ) -> None:
        axis = _channel_axis(x) if kind.axis is None else kind.axis % x.dim()
        # Only shapes are kept, so an input that was overwritten in place does no harm.
        self._add(name, module, kind, (_argument(x, axis),), {}, [y], list(module.parameters()))
        _set_channel_axis(y, axis)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._known_depth:
            return func(*args, **kwargs)
        inputs = [t for t in tensors((args, kwargs)) if t.numel()]
        given = map_leaves(_argument, args), map_leaves(_argument, kwargs)
        output = func(*args, **kwargs)
        outputs = list(tensors(output))
        if not inputs or not outputs:
            return output
        y = outputs[0]
        own_name = str(getattr(func, "__name__", func))
        name = f"{self._path[-1]}:{plain_name(own_name)}"
        is_view = any(_same_storage(y, t) for t in inputs)
        if max(t.dim() for t in inputs) < 2 or (is_view and not overwrites(own_name, kwargs)):
            self.recording.views.add(name)
            return output
        x = max(inputs, key=lambda t: (not isinstance(t, nn.Parameter), t.numel()))
        axis = _channel_axis(x)
        if own_name in DENSE_TYPES:
            x = args[0] if args else kwargs["input"]
            axis = x.dim() - (3 if own_name == "conv2d" else 1)
        elif plain_name(own_name) in _PRODUCTS and all(t.dim() == 4 for t in inputs[:2]):
            axis = 1
            given = map_leaves(_by_heads, given[0]), map_leaves(_by_heads, given[1])
        parameters = [t for t in inputs if isinstance(t, nn.Parameter)]
        self._add(name, func, None, *given, outputs, parameters)
        if y.dim() == x.dim():
            _set_channel_axis(y, axis)
        return output

    def _add(
        self,
        name: str,
        function: Callable[..., Any],
        kind: ModuleType | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        outputs: Sequence[Tensor],
        parameters: Sequence[nn.Parameter],
    ) -> None:
        seen = tuple(_argument(t) for t in outputs)
        sizes = tuple(t.element_size() for t in outputs)
        call = Call(name, function, kind, args, kwargs, seen, sizes, parameters)
        self.recording.calls.append(call)


def _argument(value: Any, axis: int | None = None) -> Any:
    if not isinstance(value, Tensor):
        return value
    return TensorArgument(
        tuple(value.shape),
        _channel_axis(value) if axis is None else axis,
        None if value.is_floating_point() else value.dtype,
    )


def _by_heads(value: Any) -> Any:
    four = isinstance(value, TensorArgument) and len(value.shape) == 4
    return replace(value, axis=1) if four else value


def tensors(value: Any) -> Iterator[Tensor]:
    """All in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _channel_axis(x: Tensor) -> int:
    """What the layer that made ``x`` said; else 1 for images, the last for tokens."""
    return getattr(x, "_channel_axis", 1 if x.dim() == 4 else max(x.dim() - 1, 0))


def _set_channel_axis(x: Tensor, axis: int) -> None:
    x._channel_axis = axis  # type: ignore[attr-defined]
