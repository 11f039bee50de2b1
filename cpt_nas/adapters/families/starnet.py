"""timm.models.starnet: Block, whose units are the channels of the product of f1 and f2."""

from __future__ import annotations

from timm.models.starnet import Block
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.mlp import gated_units, strangers
from cpt_nas.adapters.residual import tail


@REGISTRY.add(Block)
def star_block(block: nn.Module) -> list[Branch] | Refusal:
    """The branch is dwconv - act(f1) * f2 - g - dwconv2."""
    chain = ("dwconv", "f1", "f2", "act", "g", "dwconv2")
    strange = strangers(block, ("f1.conv", "f2.conv", "g.conv"))
    if strange or len(block.f1) > 1 or len(block.f2) > 1:  # type: ignore[arg-type]
        return Refusal(strange or "a norm lies between its layers and their product")
    size: int = block.get_submodule("g.conv").in_channels  # type: ignore[assignment]
    group = gated_units(block, size, ("f1.conv", "f2.conv"), 1, "g.conv")

    def remove(now: nn.Module) -> nn.Module:
        return nn.Identity()

    layers = (*chain, ":mul", "drop_path", ":add")
    return [Branch("", (group,), tail(block, ("dwconv2",)), "dwconv2", layers, remove)]
