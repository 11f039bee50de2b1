"""Operations: what a layer executes, and how to run it alone at other widths.

A layer is either a module of a type in ``MODULE_TYPES``, timed as one, or a torch function that any
other module calls (an addition, a padding, a softmax). Both become an ``Operation``: a type, the
tensors that it takes, and a way to make it again with other channel counts. A type is recognised by
its forward function: a parametrized convolution is a convolution, and a subclass that computes
something else is taken apart into the functions that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNorm2d
from timm.layers import LayerNorm as TimmLayerNorm
from torch import Tensor, nn

NewTensor = Callable[[tuple[int, ...], bool], Tensor]
Options = dict[str, Any]
MakeModule = Callable[[Options, int, int, int], nn.Module]


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that an operation takes.

    Attributes:
        shape: without the batch dimension when ``batched``.
        axis: which entry of ``shape`` holds the channels; None when the shape does not follow them.
        batched: the first dimension is the batch.
        dtype: of a tensor that is not floating point; None follows the workload's.
    """

    shape: tuple[int, ...]
    axis: int | None
    batched: bool
    dtype: torch.dtype | None = None

    def at(self, channels: int, batch_size: int) -> tuple[int, ...]:
        """The full shape with ``channels`` channels."""
        shape = list(self.shape)
        if self.axis is not None:
            shape[self.axis] = channels
        return (batch_size, *shape) if self.batched else tuple(shape)


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

    def tensors(self) -> list[TensorArgument]:
        """The tensor arguments in calling order."""
        return [a for a in _leaves((self.arguments, self.keywords)) if _is_tensor_argument(a)]

    def main(self) -> TensorArgument:
        """The largest tensor argument: the one whose channels are the layer's input channels."""
        return max(self.tensors(), key=lambda argument: torch.Size(argument.shape).numel())


@dataclass(frozen=True)
class ModuleType:
    """How a module type is described and made again.

    Attributes:
        name: the layer type's name.
        options: attributes that decide the cost; they are the constructor's keywords, too.
        make: (options, in_channels, out_channels, the dense in_channels) -> a new module.
        axis: the channel dimension of its input and output; None is as its input says.
    """

    name: str
    options: tuple[str, ...]
    make: MakeModule
    axis: int | None = None


def _conv2d(options: Options, cin: int, cout: int, dense_cin: int) -> nn.Module:
    options = dict(options)
    groups = options.pop("groups")
    if groups > 1:  # groups are removed, their width stays
        groups = cin * groups // dense_cin
    return nn.Conv2d(cin, cout, groups=groups, **options)


def _linear(options: Options, cin: int, cout: int, dense_cin: int) -> nn.Module:
    return nn.Linear(cin, cout, **options)


def _norm(cls: type[nn.Module], affine: str = "affine") -> MakeModule:
    return lambda options, cin, cout, dense_cin: cls(cin, **{affine: options[affine]})


def _batch_norm_act(options: Options, cin: int, cout: int, dense_cin: int) -> nn.Module:
    return BatchNormAct2d(cin, affine=options["affine"], act_layer=options["act"])


def _layer_norm2d(options: Options, cin: int, cout: int, dense_cin: int) -> nn.Module:
    return LayerNorm2d(cin, affine=options["elementwise_affine"])


def _group_norm(options: Options, cin: int, cout: int, dense_cin: int) -> nn.Module:
    return nn.GroupNorm(options["num_groups"], cin, affine=options["affine"])


def _group_norm_act(options: Options, cin: int, cout: int, dense_cin: int) -> nn.Module:
    return GroupNormAct(
        cin, options["num_groups"], affine=options["affine"], act_layer=options["act"]
    )


def _plain(cls: type[nn.Module]) -> MakeModule:
    return lambda options, cin, cout, dense_cin: cls(**options)


_CONV = ("kernel_size", "stride", "padding", "dilation", "groups", "bias")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_LAYER_NORM = ("elementwise_affine",)
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

MODULE_TYPES: dict[type[nn.Module], ModuleType] = {
    nn.Conv2d: ModuleType("conv2d", _CONV, _conv2d, axis=1),
    nn.Linear: ModuleType("linear", ("bias",), _linear, axis=-1),
    nn.BatchNorm2d: ModuleType("batch_norm2d", ("affine",), _norm(nn.BatchNorm2d), axis=1),
    BatchNormAct2d: ModuleType("batch_norm_act2d", ("affine", "act"), _batch_norm_act, axis=1),
    nn.GroupNorm: ModuleType("group_norm", ("num_groups", "affine"), _group_norm, axis=1),
    GroupNormAct: ModuleType(
        "group_norm_act", ("num_groups", "affine", "act"), _group_norm_act, axis=1
    ),
    nn.LayerNorm: ModuleType("layer_norm", _LAYER_NORM, _norm(nn.LayerNorm, *_LAYER_NORM), axis=-1),
    TimmLayerNorm: ModuleType("layer_norm", _LAYER_NORM, _norm(nn.LayerNorm, *_LAYER_NORM), -1),
    LayerNorm2d: ModuleType("layer_norm2d", _LAYER_NORM, _layer_norm2d, axis=1),
    nn.MaxPool2d: ModuleType("max_pool2d", _MAX_POOL, _plain(nn.MaxPool2d), axis=1),
    nn.AvgPool2d: ModuleType("avg_pool2d", _AVG_POOL, _plain(nn.AvgPool2d), axis=1),
    nn.AdaptiveAvgPool2d: ModuleType(
        "adaptive_avg_pool2d", ("output_size",), _plain(nn.AdaptiveAvgPool2d), axis=1
    ),
    nn.ReLU: ModuleType("relu", ("inplace",), _plain(nn.ReLU)),
    nn.ReLU6: ModuleType("relu6", ("inplace",), _plain(nn.ReLU6)),
    nn.SiLU: ModuleType("silu", ("inplace",), _plain(nn.SiLU)),
    nn.Hardswish: ModuleType("hardswish", ("inplace",), _plain(nn.Hardswish)),
    nn.Hardsigmoid: ModuleType("hardsigmoid", ("inplace",), _plain(nn.Hardsigmoid)),
    nn.GELU: ModuleType("gelu", ("approximate",), _plain(nn.GELU)),
    nn.Sigmoid: ModuleType("sigmoid", (), _plain(nn.Sigmoid)),
    nn.Tanh: ModuleType("tanh", (), _plain(nn.Tanh)),
}
DENSE_TYPES = ("conv2d", "linear")
COPIES = ("reshape", "flatten", "contiguous", "clone")
"""Functions that give the input's elements in another order in memory."""
_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def module_type(module: nn.Module) -> ModuleType | None:
    """The entry of ``MODULE_TYPES`` that computes what ``module`` computes, or None."""
    for cls in type(module).__mro__:
        if cls in MODULE_TYPES and type(module).forward is cls.forward:
            kind = MODULE_TYPES[cls]
            # Only a norm over the channels alone can be made narrower.
            return None if len(getattr(module, "normalized_shape", (1,))) > 1 else kind
    return None


def describe_module(module: nn.Module, kind: ModuleType, x: Tensor, axis: int) -> Operation:
    """The operation of a known module called with ``x`` ([B, ...], channels at ``axis``)."""
    options = {name: _option(module, name) for name in kind.options}
    argument = TensorArgument(tuple(x.shape[1:]), axis - 1, batched=True)
    dense_cin = x.shape[axis]
    return Operation(
        kind.name,
        make=lambda cin, cout: kind.make(options, cin, cout, dense_cin).eval(),
        arguments=(argument,),
        options=tuple(options.items()),
        in_place=bool(options.get("inplace", False)),
        is_module=True,
    )


def describe_call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_size: int,
    axis: int,
    channels: int,
) -> Operation:
    """The operation of a torch function that is called outside any known module.

    Args:
        function: what is called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        batch_size: the batch size that the model is traced with.
        axis: the channel dimension of the largest tensor.
        channels: its size there. Other tensors follow the channels when they have as many there.
    """
    name = str(getattr(function, "__name__", function))
    if name in DENSE_TYPES:
        return _describe_dense_call(name, args, kwargs, axis)
    in_place = bool(kwargs.get("inplace", False)) or name.startswith("__i") or _ends_in_place(name)
    rank = max(t.dim() for t in _leaves((args, kwargs)) if isinstance(t, Tensor))

    def argument(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        # Counted from the end, as in broadcasting.
        at = value.dim() - (rank - axis)
        batched = value.dim() > 1 and len(value) == batch_size and _is_activation(value)
        own = at if at >= int(batched) and value.shape[at] == channels else None
        return TensorArgument(
            tuple(value.shape[int(batched) :]),
            None if own is None else own - int(batched),
            batched,
            None if value.is_floating_point() else value.dtype,
        )

    arguments = _map(argument, args)
    if name in COPIES:
        # Only one that is no view is a layer: it copies its input, whatever shape comes out.
        return Operation(name, make=lambda cin, cout: torch.clone, arguments=arguments[:1])
    return Operation(
        _plain_name(name),
        make=lambda cin, cout: function,
        arguments=arguments,
        keywords=tuple((key, _map(argument, value)) for key, value in kwargs.items()),
        options=(("inplace", True),) if in_place else (),
        in_place=in_place,
    )


def _describe_dense_call(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], axis: int
) -> Operation:
    """F.conv2d or F.linear, described as the module that does the same."""
    given = dict(zip(_CONV_ARGUMENTS, args)) | kwargs
    x, weight = given["input"], given["weight"]
    kind = MODULE_TYPES[nn.Conv2d if name == "conv2d" else nn.Linear]
    options: Options = {"bias": given.get("bias") is not None}
    if name == "conv2d":
        options |= {
            "kernel_size": tuple(weight.shape[2:]),
            "stride": _pair(given.get("stride", 1)),
            "padding": _pair(given.get("padding", 0)),
            "dilation": _pair(given.get("dilation", 1)),
            "groups": given.get("groups", 1),
        }
    dense_cin = x.shape[axis]
    return Operation(
        name,
        make=lambda cin, cout: kind.make(options, cin, cout, dense_cin).eval(),
        arguments=(TensorArgument(tuple(x.shape[1:]), axis - 1, batched=True),),
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
        batch_size: of the batched tensors.
        dtype: of floating-point tensors and parameters.
        device: where.
        channels_last: memory format of four-dimensional tensors.
        new_tensor: (shape, whether of zeros) -> a floating-point tensor; default is uniform in
            [0, 1), or zeros for what is overwritten.
    """
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
        return built.get(id(value), value)

    args = _map(real, operation.arguments)
    kwargs = {key: _map(real, value) for key, value in operation.keywords}
    x = built[id(main)]
    if len(args) == 1 and args[0] is x and not kwargs:
        return made, x
    return (lambda _: made(*args, **kwargs)), x


def _option(module: nn.Module, name: str) -> object:
    value = getattr(module, name)
    if name == "bias":
        return value is not None
    return type(value) if isinstance(value, nn.Module) else value


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _is_tensor_argument(value: object) -> bool:
    return isinstance(value, TensorArgument)


def _is_activation(value: Tensor) -> bool:
    return not isinstance(value, nn.Parameter)


def _ends_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _plain_name(name: str) -> str:
    """'add' for add, add_, __add__, __radd__ and __iadd__ alike."""
    plain = name.strip("_")
    if name.startswith("__") and plain[:1] in "ir" and hasattr(Tensor, f"__{plain[1:]}__"):
        plain = plain[1:]
    return plain


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_map(function, item) for item in value)
    return function(value)
