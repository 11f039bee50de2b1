"""The unit groups of a chain of modules, such as conv - norm - act - depthwise conv - SE - conv.

Most blocks call a chain of modules one after the other. A dense layer is a linear layer or a
convolution without groups. Where the modules between two dense layers keep the channels apart, the
first layer's outputs are units that can be cut. The units' entries in the modules between, and the
second layer's inputs, are cut with them. Where a convolution with groups lies between, the units
are whole groups of channels.

The gate acts where the units are read: in the second layer, and in a squeeze-and-excitation (SE)
between the two. A closed unit therefore gives exactly the outputs of a missing one, in training
and in evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import timm.layers as tl
from timm.layers import activations, activations_me
from timm.layers.conv_bn_act import ConvNormAct
from timm.layers.squeeze_excite import SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.metaformer import StarReLU
from torch import nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _BatchNorm

from cpt_nas.adapters.base import Count, Slice, UnitGroup, is_sequence
from cpt_nas.adapters.known import changed_inside, unlike_its_class

_SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, tl.DropPath, type(None))
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(tl.BatchNormAct2d, tl.SyncBatchNormAct, tl.GroupNorm, tl.GroupNormAct),
)
"""Norms that treat every channel, or every group of channels, by itself."""
# These mix the elements of the input, or need parameters of their own.
_NOT_ELEMENTWISE = (
    activation.Softmax,
    activation.Softmax2d,
    activation.LogSoftmax,
    activation.Softmin,
    activation.GLU,
    activation.MultiheadAttention,
)
_EXCITES: dict[type[nn.Module], tuple[str, str]] = {
    SqueezeExcite: ("conv_reduce", "conv_expand"),
    SEModule: ("fc1", "fc2"),
}
CONTAINERS: dict[type[nn.Module], tuple[str, ...]] = {ConvNormAct: ("conv", "bn", "aa")}
"""Classes that call their parts in turn, with the parts in order. Families add their own."""
_DENSE = (nn.Conv2d, nn.Linear, tl.Conv2dSame)


def is_silent(module: nn.Module | None) -> bool:
    """Whether a module is missing or changes nothing that matters to timing or cutting."""
    if module is None:
        return True
    if unlike_its_class(module):
        return False
    return type(module) in _SILENT or (is_sequence(module) and all(map(is_silent, module)))


def is_activation(module: nn.Module) -> bool:
    """Whether a module maps every element by itself."""
    if isinstance(module, _NOT_ELEMENTWISE) or unlike_its_class(module):
        return False
    if isinstance(module, (nn.PReLU, StarReLU)):
        return all(p.numel() == 1 for p in module.parameters())
    known = (activation.__name__, activations.__name__, activations_me.__name__)
    return type(module).__module__ in known


def is_dense(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a convolution without groups."""
    plain = type(module) in _DENSE and getattr(module, "groups", 1) == 1
    return plain and not unlike_its_class(module)


def flatten(block: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """The names and modules of a chain. Containers are opened; what does nothing is left out."""
    for name in names:
        module = block.get_submodule(name) if has(block, name) else None
        if module is None or is_silent(module):
            continue
        if unlike_its_class(module):
            yield name, module
        elif type(module) in CONTAINERS:
            yield from flatten(block, [f"{name}.{part}" for part in CONTAINERS[type(module)]])
        elif is_sequence(module):
            yield from flatten(block, [f"{name}.{part}" for part, _ in module.named_children()])
        else:
            yield name, module


def has(block: nn.Module, name: str) -> bool:
    """Whether the block holds a module of that dotted name; None is not a module."""
    try:
        block.get_submodule(name)
    except AttributeError:
        return False
    return True


@dataclass
class _Open:
    """A group whose first layer was met, but not yet the dense layer that reads it.

    Attributes:
        producer: the name of the first layer.
        channels: the output channels of the first layer.
        linear: whether the first layer is a linear layer.
        through: the modules met since then, with their names.
        trouble: why these units cannot be cut; '' where nothing prevents it.
    """

    producer: str
    channels: int
    linear: bool
    through: list[tuple[str, nn.Module]] = field(default_factory=list)
    trouble: str = ""


def unit_groups(block: nn.Module, names: Sequence[str]) -> tuple[tuple[UnitGroup, ...], str]:
    """The unit groups of a chain of modules.

    Args:
        block: the module that holds the chain.
        names: the chain's modules in the order in which they are called. Names that the block
            lacks, or that are None, are skipped.

    Returns:
        The groups, and why other units of the chain cannot be cut ('' where all can). A group has
        the name of the last module before its reader, pooling and SE left out. Where an earlier
        group has that name, it has the name of its first layer.
    """
    groups: list[UnitGroup] = []
    reasons: list[str] = []
    current: _Open | None = None
    for name, module in flatten(block, names):
        if is_dense(module):
            if current is not None and current.trouble:
                reasons.append(current.trouble)
            elif current is not None:
                made = _close(block, current, name, module)
                if isinstance(made, UnitGroup):
                    if any(made.name == g.name for g in groups):
                        made = replace(made, name=current.producer)
                    groups.append(made)
                else:
                    reasons.append(made)
            outputs, linear = outputs_of(module), isinstance(module, nn.Linear)
            current = _Open(name, outputs, linear)
            continue
        if unlike_its_class(module):
            reasons.append(f"{name}: {unlike_its_class(module)}")
        if current is not None:
            current.trouble = current.trouble or _trouble(name, module)
            current.through.append((name, module))
    return tuple(groups), "; ".join(dict.fromkeys(reasons))


def outputs_of(module: nn.Module) -> int:
    """The number of output channels or features of a dense layer."""
    outputs: int = module.out_features if isinstance(module, nn.Linear) else module.out_channels  # type: ignore[assignment]
    return outputs


def inputs_of(module: nn.Module) -> int:
    """The number of input channels or features of a dense layer."""
    inputs: int = module.in_features if isinstance(module, nn.Linear) else module.in_channels  # type: ignore[assignment]
    return inputs


def _trouble(name: str, module: nn.Module) -> str:
    """Why no unit can be cut across this module; '' where one can."""
    cls = type(module).__name__
    why = unlike_its_class(module)
    if why or changed_inside(module):
        return f"{name}: {why}" if why else f"{name}.{changed_inside(module)}"
    if type(module) in _NORMS:
        if isinstance(module, nn.GroupNorm) and module.num_groups == 1:
            return f"{name}: a norm over all the units"
        inside = [n for n, m in module.named_children() if not (is_silent(m) or is_activation(m))]
        return f"{name}.{inside[0]}: it mixes the units or is not known" if inside else ""
    if type(module) in _EXCITES:
        reduce, expand = map(module.get_submodule, _EXCITES[type(module)])
        plain = is_dense(reduce) and is_dense(expand) and is_activation(module.gate)  # type: ignore[arg-type]
        return "" if plain else f"{name}: a part of it mixes the units or is not known"
    if type(module) in (nn.Conv2d, tl.Conv2dSame, tl.BlurPool2d):
        return ""
    if isinstance(module, _POOLS) or is_activation(module):
        return ""
    if "Frozen" in cls:
        return f"{name}: {cls}, a frozen norm, which is not cut: search first, freeze afterwards"
    if cls.startswith(("InstanceNorm", "SplitBatchNorm")):
        return f"{name}: {cls}, a norm that is not cut"
    if "Norm" in cls:
        return f"{name}: {cls}, a norm over all the units"
    if "Std" in cls:
        return f"{name}: standardised weights, whose scale depends on the inputs that are left"
    return f"{name}: {cls} mixes the units or is not known"


def _close(block: nn.Module, chain: _Open, reader: str, module: nn.Module) -> UnitGroup | str:
    """The finished group, or the reason why there is none."""
    ways = [chain.channels]
    for _, passed in chain.through:
        if isinstance(passed, nn.Conv2d):
            ways.append(passed.groups)
        elif isinstance(passed, nn.GroupNorm):
            ways.append(passed.num_groups)
    size = math.gcd(*ways)
    inputs = inputs_of(module)
    if size == 1 or inputs % size:
        return f"{chain.producer}: its channels are one group"
    build = GroupBuilder(block, size)
    build.made(chain.producer)
    width = chain.channels // size
    last = chain.producer
    for name, passed in chain.through:
        if type(passed) in _EXCITES:
            build.excite(name, passed, width)
            continue
        width = build.passed(name, passed, width)
        if not isinstance(passed, (*_POOLS, tl.BlurPool2d)):
            last = name
    build.read(reader, inputs // size)
    kind = "groups" if size < chain.channels else "hidden" if chain.linear else "filters"
    return UnitGroup(
        name=last,
        kind=kind,
        size=size,
        slices=tuple(build.slices),
        counts=tuple(build.counts),
        folds=tuple(build.folds),
        produced_by=build.produced,
        consumed_by=build.consumed,
    )


class GroupBuilder:
    """Collects what one group slices and counts, module by module."""

    def __init__(self, block: nn.Module, size: int) -> None:
        self.block = block
        self.size = size
        self.slices: list[Slice] = []
        self.counts: list[Count] = []
        self.folds: list[Slice] = []
        self.produced: dict[str, int] = {}
        self.consumed: dict[str, int] = {}

    def made(self, name: str) -> None:
        """Add a dense layer whose outputs are the units."""
        module = self.block.get_submodule(name)
        width = outputs_of(module) // self.size
        self._entries(name, ("weight", "bias"), width)
        outputs = "out_features" if isinstance(module, nn.Linear) else "out_channels"
        self.counts.append(Count(name, outputs, width))
        # Conv2dSame also calls a function that pads its input, whose channels are not the units'.
        plain = type(module) in (nn.Conv2d, nn.Linear)
        self.produced[name if plain else f"{name}:conv2d"] = width

    def read(self, name: str, width: int) -> None:
        """Add a dense layer whose inputs are the units."""
        module = self.block.get_submodule(name)
        cut = Slice(f"{name}.weight", 1, width)
        self.slices.append(cut)
        self.folds.append(cut)
        inputs = "in_features" if isinstance(module, nn.Linear) else "in_channels"
        self.counts.append(Count(name, inputs, width))
        self.consumed[name] = width

    def excite(self, name: str, module: nn.Module, width: int) -> None:
        """Add a squeeze-and-excitation, which reads the units and scales them."""
        reduce, expand = _EXCITES[type(module)]
        self.read(f"{name}.{reduce}", width)
        self.made(f"{name}.{expand}")
        calls = (".avg_pool", ":mean", ":amax", ":mul", ":mul#1", ":mul#2", ":add", ".gate")
        self.produced.update({f"{name}{call}": width for call in calls})

    def passed(self, name: str, module: nn.Module, width: int) -> int:
        """Add a module that keeps the units apart. Takes and returns the channels of one unit."""
        if isinstance(module, nn.Conv2d):
            after = module.out_channels // self.size
            self._entries(name, ("weight", "bias"), after)
            self.counts += [
                Count(name, "in_channels", width),
                Count(name, "out_channels", after),
                Count(name, "groups", module.groups // self.size),
            ]
            width = after
        elif isinstance(module, _BatchNorm):
            self._entries(name, ("weight", "bias", "running_mean", "running_var"), width)
            self.counts.append(Count(name, "num_features", width))
        elif isinstance(module, nn.GroupNorm):
            self._entries(name, ("weight", "bias"), width)
            self.counts += [
                Count(name, "num_channels", width),
                Count(name, "num_groups", module.num_groups // self.size),
            ]
        elif isinstance(module, tl.BlurPool2d) and module.channels is not None:
            # Its filter is a buffer with one row a channel.
            self._entries(name, ("filt",), width)
            self.counts.append(Count(name, "channels", width))
        self.produced[name] = width
        return width

    def _entries(self, name: str, tensors: Sequence[str], width: int) -> None:
        module = self.block.get_submodule(name)
        self.slices += [
            Slice(f"{name}.{tensor}", 0, width)
            for tensor in tensors
            if getattr(module, tensor, None) is not None
        ]
