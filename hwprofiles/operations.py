"""Operations: what a layer executes, and how to run it alone at other widths and batch sizes.

A layer is either a module of a type in ``MODULE_TYPES``, timed as one, or a torch function that any
other module calls (an addition, a padding, a softmax). Both become an ``Operation``: a type, the
tensors that it takes, and a way to make it again with other channel counts. A type is recognised by
its forward function: a parametrized convolution is a convolution, and a subclass that computes
something else is taken apart into the functions that it calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hwprofiles.module_types import DENSE_TYPES, MODULE_TYPES, ModuleType, Options

NewTensor = Callable[[tuple[int, ...], bool], Tensor]

COPIES = ("reshape", "flatten", "contiguous", "clone")
"""Functions that give the input's elements in another order in memory."""
_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class PerExample:
    """A whole number that is ``each`` times the batch size, 64 windows an image for example."""

    each: int

    def __str__(self) -> str:
        return f"{self.each}b" if self.each != 1 else "b"


Size = int | PerExample


def at_batch(size: Size, batch_size: int) -> int:
    """The number that ``size`` is at this batch size."""
    return size.each * batch_size if isinstance(size, PerExample) else size


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that an operation takes.

    Attributes:
        shape: every dimension; those that follow the batch are ``PerExample``, wherever they are.
        axis: which entry of ``shape`` holds the channels; None when the shape does not follow them.
        dtype: of a tensor that is not floating point; None follows the workload's.
    """

    shape: tuple[Size, ...]
    axis: int | None
    dtype: torch.dtype | None = None

    @property
    def follows_batch(self) -> bool:
        """Whether any dimension does."""
        return any(isinstance(size, PerExample) for size in self.shape)

    def at(self, channels: int | None, batch_size: int) -> tuple[int, ...]:
        """The shape with ``channels`` channels (None: as many as there are)."""
        shape = [at_batch(size, batch_size) for size in self.shape]
        if self.axis is not None and channels is not None:
            shape[self.axis] = channels
        return tuple(shape)

    def elements(self) -> int:
        """How many there are at one example."""
        return math.prod(self.at(None, 1))


@dataclass(frozen=True)
class Operation:
    """What is executed, without its place in the network.

    Attributes:
        type: for example 'conv2d', 'batch_norm2d', 'add'.
        make: (in_channels, out_channels) -> the module or function, on the CPU.
        arguments: the positional arguments; tensors as ``TensorArgument``.
        keywords: the keyword arguments, likewise.
        options: what else decides the cost, for the signature.
        in_place: the first tensor is overwritten.
        is_module: ``make`` gives a module, which exists at every width.
    """

    type: str
    make: Callable[[int, int], Callable[..., Any]]
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, object], ...] = ()
    in_place: bool = False
    is_module: bool = False

    @property
    def is_dense(self) -> bool:
        """A convolution or linear layer, with input and output channels of their own."""
        return self.is_module and self.type in DENSE_TYPES

    def tensors(self) -> list[TensorArgument]:
        """The tensor arguments in calling order."""
        return tensor_arguments((self.arguments, self.keywords))

    def main(self) -> TensorArgument:
        """The tensor argument whose channels are the layer's input channels."""
        return main_argument(self.tensors())


def tensor_arguments(value: Any) -> list[TensorArgument]:
    """All in nested arguments, in calling order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, TensorArgument)]


def main_argument(arguments: list[TensorArgument]) -> TensorArgument:
    """The largest of those that follow the batch, else of all: not a weight, but its input."""
    return max(arguments, key=lambda a: (a.follows_batch, a.elements()))


def describe_module(module: nn.Module, kind: ModuleType, x: TensorArgument) -> Operation:
    """The operation of a known module called with ``x``, whose axis is the module's."""
    assert x.axis is not None
    options = {name: _option(module, name) for name in kind.options}
    dense_cin = at_batch(x.shape[x.axis], 1)
    if isinstance(x.shape[x.axis], PerExample):  # an activation on images laid side by side
        x = replace(x, axis=None)
    return Operation(
        kind.name,
        make=lambda cin, cout: kind.make(options, cin, cout, dense_cin).eval(),
        arguments=(x,),
        options=tuple(options.items()),
        in_place=bool(options.get("inplace", False)),
        is_module=True,
    )


def describe_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Operation:
    """The operation of a torch function that is called outside any known module.

    Args:
        function: what is called.
        args: its positional arguments, tensors as ``TensorArgument``. The axis of the main one
            counts: others follow its channels when they have as many there, from the end.
        kwargs: its keyword arguments, likewise.
    """
    name = str(getattr(function, "__name__", function))
    dense = _dense_call(name, args, kwargs) if name in DENSE_TYPES else None
    if dense is not None:
        return dense
    in_place = overwrites(name, kwargs)
    main = main_argument(tensor_arguments((args, kwargs)))
    assert main.axis is not None
    channels, from_end = main.shape[main.axis], len(main.shape) - main.axis

    def argument(value: Any) -> Any:
        if not isinstance(value, TensorArgument):
            return value
        axis = len(value.shape) - from_end
        follows = axis >= 0 and value.shape[axis] == channels and isinstance(channels, int)
        return replace(value, axis=axis if follows else None)

    arguments = map_leaves(argument, args)
    if name in COPIES:
        # Only one that is no view is a layer: it copies its input, whatever shape comes out.
        return Operation(name, make=lambda cin, cout: torch.clone, arguments=arguments[:1])
    return Operation(
        plain_name(name),
        make=lambda cin, cout: function,
        arguments=arguments,
        keywords=tuple((key, map_leaves(argument, value)) for key, value in kwargs.items()),
        options=(("inplace", True),) if in_place else (),
        in_place=in_place,
    )


def _dense_call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operation | None:
    """F.conv2d or F.linear as the module that does the same; None where none does."""
    given = dict(zip(_CONV_ARGUMENTS, args)) | dict(kwargs)
    x, weight, groups = given["input"], given["weight"], given.get("groups", 1)
    axis = len(x.shape) - (3 if name == "conv2d" else 1)
    if weight.follows_batch or len(weight.shape) < 2 or isinstance(x.shape[axis], PerExample):
        return None  # every example has weights of its own
    kind = MODULE_TYPES[nn.Conv2d if name == "conv2d" else nn.Linear]
    options: Options = {"bias": given.get("bias") is not None}
    if name == "conv2d":
        options |= {
            "kernel_size": tuple(weight.shape[2:]),
            "stride": _pair(given.get("stride", 1)),
            "padding": _pair(given.get("padding", 0)),
            "dilation": _pair(given.get("dilation", 1)),
            "groups": groups,
        }
    dense_cin = x.shape[axis]
    return Operation(
        name,
        make=lambda cin, cout: kind.make(options, cin, cout, dense_cin).eval(),
        arguments=(replace(x, axis=axis),),
        options=tuple((option, options[option]) for option in kind.options),
        is_module=True,
    )


def build_operation(
    operation: Operation,
    in_channels: int,
    out_channels: int,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    channels_last: bool,
    new_tensor: NewTensor | None = None,
) -> tuple[Callable[[Tensor], Any], Tensor]:
    """A stand-alone runnable of ``operation`` and its input: call the first with the second.

    Args:
        operation: what to run.
        in_channels: channels of its input.
        out_channels: channels of its output (for a convolution or a linear layer).
        batch_size: examples in the tensors that follow the batch.
        dtype: of floating-point tensors and parameters.
        device: where.
        channels_last: memory format of four-dimensional tensors.
        new_tensor: (shape, whether of zeros) -> a floating-point tensor; default is uniform in
            [0, 1), or zeros for what is overwritten.
    """
    with torch.device("cpu"):  # whatever the default device is
        made = operation.make(in_channels, out_channels)
    if isinstance(made, nn.Module):
        made = made.to(device=device, dtype=dtype)
        if channels_last:
            made = made.to(memory_format=torch.channels_last)
    main = operation.main()

    def tensor(argument: TensorArgument) -> Tensor:
        shape = argument.at(in_channels, batch_size)
        if argument.dtype is not None:
            return torch.zeros(shape, dtype=argument.dtype, device=device)
        # Repeated in place, other values than 0 would run off to infinity or to denormals.
        if new_tensor is not None:
            value = new_tensor(shape, operation.in_place)
        elif operation.in_place:
            value = torch.zeros(shape, dtype=dtype, device=device)
        else:
            value = torch.rand(shape, dtype=dtype, device=device)
        if channels_last and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    built = {id(argument): tensor(argument) for argument in operation.tensors()}

    def real(value: Any) -> Any:
        if isinstance(value, PerExample):
            return at_batch(value, batch_size)
        return built.get(id(value), value)

    args = map_leaves(real, operation.arguments)
    kwargs = {key: map_leaves(real, value) for key, value in operation.keywords}
    x = built[id(main)]
    if len(args) == 1 and args[0] is x and not kwargs:
        return made, x
    return (lambda _: made(*args, **kwargs)), x


def overwrites(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function of this name works in place."""
    ends = name.endswith("_") and not name.endswith("__")
    return bool(kwargs.get("inplace", False)) or name.startswith("__i") or ends


def plain_name(name: str) -> str:
    """'add' for add, add_, __add__, __radd__ and __iadd__ alike."""
    plain = name.strip("_")
    if name.startswith("__") and plain[:1] in "ir" and hasattr(Tensor, f"__{plain[1:]}__"):
        plain = plain[1:]
    return plain


def leaves(value: Any) -> Iterator[Any]:
    """What nested tuples, lists, mappings and slices hold, in order."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value


def map_leaves(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """The same nesting with ``function`` applied to what it holds, as ``map`` does.

    Raises:
        ValueError: the others are nested in another way.
    """
    if isinstance(value, dict):
        if any(other.keys() != value.keys() for other in others):
            raise ValueError("other keys")
        return {k: map_leaves(function, v, *(o[k] for o in others)) for k, v in value.items()}
    if isinstance(value, slice):
        ends = [(x.start, x.stop, x.step) for x in (value, *others)]
        return slice(*map_leaves(function, *ends))
    if isinstance(value, (tuple, list)):
        if any(len(other) != len(value) for other in others):
            raise ValueError("another number of items")
        items = [map_leaves(function, *row) for row in zip(value, *others)]
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    return function(value, *others)


def _option(module: nn.Module, name: str) -> object:
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    return type(value) if isinstance(value, nn.Module) else value


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value
