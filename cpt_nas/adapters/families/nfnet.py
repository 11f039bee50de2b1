"""timm.models.nfnet: NormFreeBlock. Its weights are standardised over their inputs: units stay."""

from __future__ import annotations

from timm.models.nfnet import NormFreeBlock
from torch import Tensor, nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal


class _Shortcut(nn.Module):
    """downsample(act1(x) * beta), what is left of a block whose shortcut is projected."""

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
    """act1 - conv1 - act2 - conv2 (- act2b - conv2b) - attn - act3 - conv3."""
    projected = block.downsample is not None

    def remove(now: nn.Module) -> nn.Module:
        if not projected:
            return nn.Identity()
        return _Shortcut(now.act1, now.downsample, now.beta)  # type: ignore[arg-type]

    chain = ("conv1", "act2", "conv2", "act2b", "conv2b", "attn", "act3", "conv3", "attn_last")
    layers: tuple[str, ...] = (*chain, "drop_path", "skipinit_gain", ":add")
    layers += () if projected else ("act1",)
    # Scalings: by beta, by the attention's gain, by skipinit, by alpha; some blocks lack some.
    calls = (":mul", ":mul#1", ":mul#2", ":mul#3")
    layers += calls[1:] if projected else calls
    uncut = "standardised weights, whose scale depends on the inputs that are left"
    on_skip = "downsample" if projected else ""
    return [Branch("", (), (), "drop_path", layers, remove, "", uncut, on_skip)]
