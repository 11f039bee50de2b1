"""timm.models.dla: residual blocks whose tree may pass them the shortcut as an argument."""

from __future__ import annotations

from typing import Any

from timm.models.dla import DlaBasic, DlaBottle2neck, DlaBottleneck
from torch import Tensor, nn
from torch.nn import functional

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups
from cpt_nas.adapters.residual import tail

_CHAINS: dict[type[nn.Module], tuple[str, ...]] = {
    DlaBasic: ("conv1", "bn1", "relu", "conv2", "bn2"),
    DlaBottleneck: ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3"),
    DlaBottle2neck: ("conv3", "bn3"),
}


class _Shortcut(nn.Module):
    """A block without its branch, which computes relu(shortcut)."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None, children: Any = None) -> Tensor:
        """[B, C, H, W] -> the same shape; it takes the block's arguments."""
        return functional.relu(x if shortcut is None else shortcut)


@REGISTRY.add(*_CHAINS)
def dla_block(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is conv1 - conv2 (- conv3). DlaBottle2neck splits its channels, so they stay."""
    if type(block.relu) is not nn.ReLU:
        return Refusal(f"relu: {type(block.relu).__name__}, not a ReLU")
    chain = _CHAINS[type(block)]
    groups, uncut = unit_groups(block, chain)
    layers: tuple[str, ...] = tuple(dict.fromkeys(n for n in chain if n != "relu"))
    if isinstance(block, DlaBottle2neck):
        uncut = "its channels are split and joined again"
        layers += ("conv1", "bn1", "convs", "bns", "pool", ":cat")
        adds = len(block.convs) - 1 if not block.is_first else 0
        layers += tuple(":add" + (f"#{i}" if i else "") for i in range(adds + 1))
    else:
        layers += (":add",)
    norm = chain[-1]

    def remove(now: nn.Module) -> nn.Module:
        return _Shortcut()

    return [Branch("", groups, tail(block, (norm,)), norm, layers, remove, uncut=uncut)]
