"""timm.models._efficientnet_blocks: the blocks of MobileNet V1-V4, EfficientNet and MNASNet.

The units of an inverted residual are its expanded channels. With a unit go its filter in the
expansion, its depthwise filter and its share of the squeeze-and-excitation (SE) and the projection.
The gate acts after the depthwise convolution's norm and activation and before the SE. Blocks
without a skip connection have no branch gate.
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
    """The block computes ``drop_path(chain(x)) + x``, or ``chain(x)`` where it has no skip."""
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
    """A MobileAttention without its attention, which adds only the position embedding."""

    def __init__(self, conv_cpe_dw: nn.Module) -> None:
        super().__init__()
        self.conv_cpe_dw = conv_cpe_dw

    def forward(self, x):  # type: ignore[no-untyped-def]
        """[B, C, H, W] -> the same shape."""
        return x + self.conv_cpe_dw(x)
