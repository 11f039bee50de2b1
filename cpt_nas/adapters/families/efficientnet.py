"""timm.models._efficientnet_blocks: MobileNet V1-V4, EfficientNet, MNASNet and their like.

The units are the expanded channels: a unit takes its filters of the expansion, its depthwise
filter, and its share of SE and projection. The gate stands after the depthwise convolution's norm
and activation and before the SE. Blocks without a skip connection have no branch gate.
"""

from __future__ import annotations

from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    MobileAttention,
    UniversalInvertedResidual,
)
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups
from cpt_nas.adapters.residual import tail

CHAINS: dict[type[nn.Module], tuple[str, ...]] = {
    ConvBnAct: ("conv", "bn1", "aa"),
    DepthwiseSeparableConv: ("conv_s2d", "bn_s2d", "conv_dw", "bn1", "aa", "se", "conv_pw", "bn2"),
    InvertedResidual: (
        *("conv_s2d", "bn_s2d", "conv_pw", "bn1", "conv_dw", "bn2", "aa"),
        *("se", "conv_pwl", "bn3"),
    ),
    EdgeResidual: ("conv_exp", "bn1", "aa", "se", "conv_pwl", "bn2"),
    UniversalInvertedResidual: (
        *("dw_start", "pw_exp", "dw_mid", "se", "pw_proj", "dw_end", "layer_scale"),
    ),
    MobileAttention: ("norm", "attn", "layer_scale"),
}


@REGISTRY.add(*CHAINS)
def inverted_residual(block: nn.Module) -> list[Branch] | Refusal:
    """One branch, ``drop_path(chain(x)) + x``, gated where there is a skip."""
    chain = tuple(n for n in CHAINS[type(block)] if getattr(block, n, None) is not None)
    groups, uncut = unit_groups(block, chain)
    if not block.has_skip:
        if not groups:
            return Refusal(uncut or "it has no skip connection, and no units inside")
        return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
    # MobileAttention adds its position embedding to the stream before the branch begins.
    kept = getattr(block, "conv_cpe_dw", None)

    def remove(now: nn.Module) -> nn.Module:
        return nn.Identity() if kept is None else _PositionOnly(now.conv_cpe_dw)  # type: ignore[arg-type]

    add = ":add" if kept is None else ":add#1"
    layers = (*chain, "drop_path", add)
    return [Branch("", groups, tail(block, chain), "drop_path", layers, remove, uncut=uncut)]


class _PositionOnly(nn.Module):
    """What a MobileAttention is without its attention."""

    def __init__(self, conv_cpe_dw: nn.Module) -> None:
        super().__init__()
        self.conv_cpe_dw = conv_cpe_dw

    def forward(self, x):  # type: ignore[no-untyped-def]
        """[B, C, H, W] -> the same shape."""
        return x + self.conv_cpe_dw(x)
