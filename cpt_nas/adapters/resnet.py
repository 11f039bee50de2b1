"""timm.models.resnet: BasicBlock and Bottleneck (SE/ECA, anti-aliasing, grouped convs too).

The unit gate sits after norm and activation, so a zero is exactly a missing unit in eval and in
train mode. A grouped 3x3 conv has whole groups as its units: they take their share of conv1,
conv2 and conv3 with them.
"""

from __future__ import annotations

from collections import OrderedDict

from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup


def _norm_slices(name: str, norm: nn.Module, width: int = 1) -> tuple[Slice, ...]:
    tensors = ("weight", "bias", "running_mean", "running_var")
    return tuple(
        Slice(f"{name}.{t}", 0, width) for t in tensors if getattr(norm, t, None) is not None
    )


def _blur(block: nn.Module, width: int = 1) -> tuple[tuple[Slice, ...], tuple[Count, ...]]:
    """The anti-aliasing filter is a buffer with one row a channel."""
    aa = getattr(block, "aa", None)
    if getattr(aa, "filt", None) is None:
        return (), ()
    return (Slice("aa.filt", 0, width),), (Count("aa", "channels", width),)


def _filters(conv: str, norm: str, act: str, consumer: str, block: nn.Module) -> UnitGroup:
    """The filters of one plain conv, read by the next."""
    blurred = act == ("act2" if isinstance(block, Bottleneck) else "act1")
    slices, counts = _blur(block) if blurred else ((), ())
    produced = dict.fromkeys((conv, norm, act, *(["aa"] if blurred else [])), 1)
    return UnitGroup(
        name=act,
        kind="filters",
        size=block.get_submodule(conv).out_channels,  # type: ignore[arg-type]
        slices=(
            Slice(f"{conv}.weight", 0),
            *_norm_slices(norm, block.get_submodule(norm)),
            *slices,
            Slice(f"{consumer}.weight", 1),
        ),
        counts=(
            Count(conv, "out_channels"),
            Count(norm, "num_features"),
            *counts,
            Count(consumer, "in_channels"),
        ),
        folds=(Slice(f"{consumer}.weight", 1),),
        multiply=act,
        produced_by=produced,
        consumed_by={consumer: 1},
    )


def _whole_groups(block: Bottleneck) -> UnitGroup:
    """Groups of the grouped 3x3 conv: conv1's filters that feed them, conv2's own."""
    groups = block.conv2.groups
    before, after = block.conv1.out_channels // groups, block.conv2.out_channels // groups
    slices, counts = _blur(block, after)
    return UnitGroup(
        name="act2",
        kind="groups",
        size=groups,
        slices=(
            Slice("conv1.weight", 0, before),
            *_norm_slices("bn1", block.bn1, before),
            Slice("conv2.weight", 0, after),
            *_norm_slices("bn2", block.bn2, after),
            *slices,
            Slice("conv3.weight", 1, after),
        ),
        counts=(
            Count("conv1", "out_channels", before),
            Count("bn1", "num_features", before),
            Count("conv2", "in_channels", before),
            Count("conv2", "out_channels", after),
            Count("conv2", "groups"),
            Count("bn2", "num_features", after),
            *counts,
            Count("conv3", "in_channels", after),
        ),
        folds=(Slice("conv3.weight", 1, after),),
        multiply="act2",
        multiply_width=after,
        produced_by={"conv1": before, "bn1": before, "act1": before}
        | {"conv2": after, "bn2": after, "act2": after, "aa": after},
        consumed_by={"conv3": after},
    )


def _branch(block: nn.Module, groups: tuple[UnitGroup, ...], inner: tuple[str, ...]) -> Branch:
    """What BasicBlock and Bottleneck share: norm, attention, add, activation, shortcut."""
    last = inner[-1]
    act_name = "act3" if isinstance(block, Bottleneck) else "act2"
    act = block.get_submodule(act_name)
    norm = block.get_submodule(last)
    identity = block.downsample is None and isinstance(act, nn.ReLU)
    # An attention after the last norm is not linear: scale its output instead.
    foldable = block.se is None and getattr(norm, "weight", None) is not None

    def remove(block: nn.Module) -> nn.Module:
        # ReLU of what a ReLU made is itself, so an identity shortcut leaves nothing to do.
        if identity:
            return nn.Identity()
        left = OrderedDict()
        if block.downsample is not None:
            left["downsample"] = block.downsample
        left["act"] = block.get_submodule(act_name)
        return nn.Sequential(left)  # type: ignore[arg-type]

    return Branch(
        name="",
        groups=groups,
        folds=(f"{last}.weight", f"{last}.bias") if foldable else (),
        multiply="se" if block.se is not None else last,
        layers=(*inner, "se", "drop_path", ":add", *((act_name,) if identity else ())),
        remove=remove,
    )


@REGISTRY.add(BasicBlock)
def basic_block(block: nn.Module) -> list[Branch] | Refusal:
    """conv1 - bn1 - act1 - conv2 - bn2: one group, conv1's filters."""
    group = _filters("conv1", "bn1", "act1", "conv2", block)
    return [_branch(block, (group,), ("conv1", "bn1", "act1", "aa", "conv2", "bn2"))]


@REGISTRY.add(Bottleneck)
def bottleneck(block: nn.Module) -> list[Branch] | Refusal:
    """1x1 - 3x3 - 1x1: two groups of filters, or one of whole groups."""
    assert isinstance(block, Bottleneck)
    if block.conv2.groups > 1:
        groups: tuple[UnitGroup, ...] = (_whole_groups(block),)
    else:
        groups = (
            _filters("conv1", "bn1", "act1", "conv2", block),
            _filters("conv2", "bn2", "act2", "conv3", block),
        )
    inner = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "aa", "conv3", "bn3")
    return [_branch(block, groups, inner)]
