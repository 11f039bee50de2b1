"""timm.models.rexnet: LinearBottleneck, whose input is added to its first output channels."""

from __future__ import annotations

from timm.models.rexnet import LinearBottleneck
from torch import Tensor, nn
from torch.nn import functional

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import has, unit_groups
from cpt_nas.adapters.residual import tail

_CHAIN = ("conv_exp", "conv_dw", "se", "act_dw", "conv_pwl")


class _Widen(nn.Module):
    """A block without its branch: the input, with zeros for the channels that it lacks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + channels, H, W]."""
        return functional.pad(x, (0, 0, 0, 0, 0, self.channels))


@REGISTRY.add(LinearBottleneck)
def linear_bottleneck(block: nn.Module) -> list[Branch] | Refusal:
    """The branch is conv_exp - conv_dw - SE - act_dw - conv_pwl."""
    assert isinstance(block, LinearBottleneck)
    chain = tuple(n for n in _CHAIN if has(block, n))
    groups, uncut = unit_groups(block, chain)
    if not block.use_shortcut:
        if not groups:
            return Refusal("it has no skip connection, and no units inside")
        return [Branch("", groups, (), "", (), None, "it has no skip connection", uncut)]
    wider = block.out_channels - block.in_channels

    def remove(now: nn.Module) -> nn.Module:
        return _Widen(wider) if wider else nn.Identity()

    layers = (*chain, "drop_path", ":add", ":cat")
    return [Branch("", groups, tail(block, chain), "conv_pwl", layers, remove, uncut=uncut)]
