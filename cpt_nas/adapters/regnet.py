"""timm.models.regnet: Bottleneck. Its 3x3 convs have groups, so whole groups are the units."""

from __future__ import annotations

from timm.models.regnet import Bottleneck
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups
from cpt_nas.adapters.residual import tail
from cpt_nas.adapters.resnet import shortcut_remains

CHAIN = ("conv1", "conv2", "se", "conv3")
_remains = shortcut_remains("downsample", "act3")


@REGISTRY.add(Bottleneck)
def bottleneck(block: nn.Module) -> list[Branch] | Refusal:
    """conv1 - grouped conv2 - SE - conv3."""
    groups, uncut = unit_groups(block, CHAIN)
    if block.downsample is None:  # no shortcut at all
        return [Branch("", groups, (), "conv3", (), None, "it has no shortcut", uncut)]
    remove, nothing = _remains(block)
    layers = (*CHAIN, "drop_path", ":add", *(("act3",) if nothing else ()))
    return [Branch("", groups, tail(block, CHAIN), "conv3", layers, remove, uncut=uncut)]
