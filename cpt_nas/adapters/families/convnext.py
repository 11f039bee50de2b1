"""timm.models.convnext: ConvNeXtBlock, whose Mlp has hidden units."""

from __future__ import annotations

from timm.models.convnext import ConvNeXtBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.residual import tail


@REGISTRY.add(ConvNeXtBlock)
def convnext_block(block: nn.Module) -> list[Branch] | Refusal:
    """The branch is conv_dw - norm - mlp - gamma; it is added to the shortcut."""
    folds = ("gamma",) if block.gamma is not None else tail(block, ("mlp",))
    layers = ("conv_dw", "norm", "mlp", "gamma", ":mul", "drop_path", ":add")

    def remove(now: nn.Module) -> nn.Module:
        return now.shortcut  # type: ignore[return-value]

    return [Branch("", (), folds, "drop_path", layers, remove, projection="shortcut")]
