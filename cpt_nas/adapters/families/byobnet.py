"""timm.models.byobnet and byoanet: the blocks of ByobNet, RepVGG and MobileOne."""

from __future__ import annotations

from collections import OrderedDict

from timm.models.byobnet import (
    BasicBlock,
    BottleneckBlock,
    DarkBlock,
    EdgeBlock,
    MobileOneBlock,
    RepVggBlock,
    SelfAttnBlock,
)
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.residual import chain_block, tail


def _no_shortcut(block: nn.Module) -> str:
    return "" if block.shortcut is not None else "it has no shortcut"


_CHAINS: dict[type[nn.Module], tuple[str, ...]] = {
    BasicBlock: ("conv1_kxk", "attn", "conv2_kxk", "attn_last"),
    BottleneckBlock: ("conv1_1x1", "conv2_kxk", "conv2b_kxk", "attn", "conv3_1x1", "attn_last"),
    DarkBlock: ("conv1_1x1", "attn", "conv2_kxk", "attn_last"),
    EdgeBlock: ("conv1_kxk", "attn", "conv2_1x1", "attn_last"),
    SelfAttnBlock: ("conv1_1x1", "conv2_kxk", "self_attn", "post_attn", "conv3_1x1"),
}
for _class, _chain in _CHAINS.items():
    chain_block(_class, chain=_chain, shortcut="shortcut", act="act", skip=_no_shortcut)


@REGISTRY.add(RepVggBlock, MobileOneBlock)
def rep_block(block: nn.Module) -> list[Branch] | Refusal:
    """Parallel convolutions and a norm read the input; all the convolutions are one branch."""
    if block.reparam_conv is not None:
        return Refusal("its branches are merged into one convolution")
    if block.identity is None:
        return Refusal("it has no skip connection, and no units inside")
    convs = ["conv_1x1", "conv_kxk"] if isinstance(block, RepVggBlock) else ["conv_scale"]
    convs = [c for c in convs if getattr(block, c) is not None]
    if isinstance(block, MobileOneBlock):
        convs += [f"conv_kxk.{i}" for i in range(len(block.conv_kxk))]
    tails = [tail(block, (conv,)) for conv in convs]
    folds = tuple(tensor for tensors in tails for tensor in tensors) if all(tails) else ()
    # The first addition joins two convolutions, or adds one to a plain 0.
    adds = tuple(":add" + (f"#{i}" if i else "") for i in range(len(convs) + 1))

    def remove(now: nn.Module) -> nn.Module:
        names = ("identity", "attn", "act")
        return nn.Sequential(OrderedDict((n, now.get_submodule(n)) for n in names))

    return [Branch("", (), folds, "drop_path", (*convs, "drop_path", *adds), remove)]
