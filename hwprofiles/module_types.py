"""The module types that are timed as one layer, and how each is made again at other widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.layers import BatchNormAct2d, GroupNormAct, LayerNorm2d
from timm.layers import LayerNorm as TimmLayerNorm
from torch import nn

Options = dict[str, Any]
MakeModule = Callable[[Options, int, int, int], nn.Module]


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
    nn.Conv2d: ModuleType("conv2d", _CONV, _conv2d, axis=-3),
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
    nn.MaxPool2d: ModuleType("max_pool2d", _MAX_POOL, _plain(nn.MaxPool2d), axis=-3),
    nn.AvgPool2d: ModuleType("avg_pool2d", _AVG_POOL, _plain(nn.AvgPool2d), axis=-3),
    nn.AdaptiveAvgPool2d: ModuleType(
        "adaptive_avg_pool2d", ("output_size",), _plain(nn.AdaptiveAvgPool2d), axis=-3
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


# Attributes with which a module computes something else than the one that is made again.
_AS_USUAL = {"padding_mode": "zeros", "track_running_stats": True, "return_indices": False}


def module_type(module: nn.Module) -> ModuleType | None:
    """The entry of ``MODULE_TYPES`` that computes what ``module`` computes, or None."""
    if "forward" in vars(module):  # of this instance only
        return None
    for cls in type(module).__mro__:
        if cls in MODULE_TYPES and type(module).forward is cls.forward:
            usual = all(getattr(module, k, value) == value for k, value in _AS_USUAL.items())
            # Only a norm over the channels alone can be made narrower.
            over_channels = len(getattr(module, "normalized_shape", (1,))) == 1
            return MODULE_TYPES[cls] if usual and over_channels else None
    return None
