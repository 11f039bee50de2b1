"""timm.models.nfnet: NormFreeBlock.

Its weights are standardised over their inputs, so its units are not cut.
"""

from __future__ import annotations

from timm.models.nfnet import NormFreeBlock
from torch import Tensor, nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal


class _Shortcut(nn.Module):
    """A block with a projected shortcut without its branch: downsample(act1(x) * beta)."""

    def __init__(self, act1: nn.Module, downsample: nn.Module, beta: float) -> None:
        super().__init__()
        self.act1 = act1
        self.downsample = downsample
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the downsampled shape."""
        shortcut: Tensor = self.downsample(self.act1(x) * self.beta)
        return shortcut


@REGISTRY.add(NormFreeBlock)
def norm_free_block(block: nn.Module) -> list[Branch] | Refusal:
    """The branch is act1 - conv1 - act2 - conv2 (- act2b - conv2b) - attn - act3 - conv3."""
    projected = block.downsample is not None

    def remove(now: nn.Module) -> nn.Module:
        if not projected:
            return nn.Identity()
        return _Shortcut(now.act1, now.downsample, now.beta)  # type: ignore[arg-type]

    chain = ("conv1", "act2", "conv2", "act2b", "conv2b", "attn", "act3", "conv3", "attn_last")
    layers: tuple[str, ...] = (*chain, "drop_path", "skipinit_gain", ":add")
    layers += () if projected else ("act1",)
    # A block may scale by beta, the attention's gain, skipinit_gain and alpha, in this order.
    calls = (":mul", ":mul#1", ":mul#2", ":mul#3")
    layers += calls[1:] if projected else calls
    uncut = "standardised weights, whose scale depends on the inputs that are left"
    on_skip = "downsample" if projected else ""
    return [Branch("", (), (), "drop_path", layers, remove, "", uncut, on_skip)]
