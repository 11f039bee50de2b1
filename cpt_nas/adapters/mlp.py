"""timm.layers.mlp: the hidden units of Mlp, ConvMlp, GluMlp and SwiGLU, whatever block holds them.

An Mlp with a norm over its hidden units is not cut; GlobalResponseNormMlp always has such a norm.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import ConvMlp, GlobalResponseNormMlp, GluMlp, Mlp, SwiGLU
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup
from cpt_nas.adapters.chains import is_activation, is_dense, is_silent, unit_groups
from cpt_nas.adapters.known import changed_inside

WITHIN = "the branch gate is its block's"


def within(groups: tuple[UnitGroup, ...], uncut: str = "") -> list[Branch] | Refusal:
    """The answer of an adapter for a module inside a branch: units, but no branch gate."""
    if not groups:
        return Refusal(uncut)
    return [
        Branch(
            name="",
            groups=groups,
            folds=(),
            multiply="",
            layers=(),
            remove=None,
            reason=WITHIN,
            uncut=uncut,
        )
    ]


@REGISTRY.add(Mlp)
def mlp(block: nn.Module) -> list[Branch] | Refusal:
    """The units are the hidden features between fc1 and fc2."""
    return within(*unit_groups(block, ("fc1", "act", "drop1", "norm", "fc2")))


@REGISTRY.add(ConvMlp)
def conv_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """The units are the channels between the 1x1 convolutions fc1 and fc2."""
    return within(*unit_groups(block, ("fc1", "norm", "act", "drop", "fc2")))


@REGISTRY.add(GlobalResponseNormMlp)
def grn_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """It is refused, since its norm divides by a mean over all hidden units."""
    return Refusal("grn: a norm over all the units")


@REGISTRY.add(GluMlp)
def glu_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """One layer makes N values and then their N gates: unit k is its rows k and k + N."""
    assert isinstance(block, GluMlp)
    strange = strangers(block, ("fc1", "fc2"), block.norm)
    if strange:
        return Refusal(strange)
    linear = isinstance(block.fc1, nn.Linear)
    size = block.fc2.in_features if linear else block.fc2.in_channels
    return within((gated_units(block, size, ("fc1",), 2),))


@REGISTRY.add(SwiGLU)
def swiglu(block: nn.Module) -> list[Branch] | Refusal:
    """One layer makes the values and another one makes their gates."""
    assert isinstance(block, SwiGLU)
    strange = strangers(block, ("fc1_g", "fc1_x", "fc2"), block.norm)
    if strange:
        return Refusal(strange)
    return within((gated_units(block, block.fc2.in_features, ("fc1_g", "fc1_x"), 1),))


def strangers(
    block: nn.Module, layers: Sequence[str], norm: nn.Module | None = None, act: str = "act"
) -> str:
    """Why the parts of a gated Mlp are not those that its class makes; '' where they are.

    Args:
        block: the Mlp.
        layers: the names of parts that must be linear layers or convolutions without groups.
        norm: the norm over all the units, which must do nothing.
        act: the name of the part that must map every unit by itself.
    """
    if changed_inside(block):
        return changed_inside(block)
    for name in layers:
        if not is_dense(block.get_submodule(name)):
            return f"{name}: {type(block.get_submodule(name)).__name__}, not a linear layer"
    if not is_silent(norm):
        return "norm: a norm over all the units"
    part = block.get_submodule(act)
    if not (is_silent(part) or is_activation(part)):
        return f"{act}: {type(part).__name__} mixes the units or is not known"
    drop = getattr(block, "drop1", None)
    return "" if is_silent(drop) else f"drop1: {type(drop).__name__} may mix the units"


def gated_units(
    block: nn.Module, size: int, makers: tuple[str, ...], parts: int, reader: str = "fc2"
) -> UnitGroup:
    """Hidden units whose values are multiplied by gates; ``reader`` reads the products.

    Args:
        block: the module that holds the layers.
        size: the number of units.
        makers: the names of the layers that make values and gates.
        parts: 2 where one layer makes first all values and then all gates, 1 where each has a
            layer of its own.
        reader: the name of the layer that reads the units.
    """
    linear = isinstance(block.get_submodule(reader), nn.Linear)
    made = "out_features" if linear else "out_channels"
    read = Slice(f"{reader}.weight", 1)
    biased = [m for m in makers if getattr(block.get_submodule(m), "bias", None) is not None]
    slices = [Slice(f"{m}.weight", 0, 1, parts) for m in makers]
    slices += [Slice(f"{m}.bias", 0, 1, parts) for m in biased]
    return UnitGroup(
        name="act",
        kind="hidden",
        size=size,
        slices=(*slices, read),
        counts=(
            *(Count(m, made, parts) for m in makers),
            Count(reader, "in_features" if linear else "in_channels"),
        ),
        folds=(read,),
        produced_by=dict.fromkeys(makers, parts) | {"act": 1, ":mul": 1},
        consumed_by={reader: 1},
    )
