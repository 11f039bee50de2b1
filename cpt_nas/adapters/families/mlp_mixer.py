"""timm.models.mlp_mixer: the blocks of Mixer, ResMLP and gMLP.

Both branches call the same drop path, so a gate scales the output of the module before it.
"""

from __future__ import annotations

from timm.models.mlp_mixer import MixerBlock, ResBlock, SpatialGatingBlock
from torch import Tensor

from cpt_nas.adapters.residual import residual_block


def _swap(x: Tensor) -> Tensor:
    """[B, N, C] -> [B, C, N]."""
    return x.transpose(1, 2)


residual_block(
    MixerBlock,
    ("norm1", _swap, "mlp_tokens", _swap, "drop_path"),
    ("norm2", "mlp_channels", "drop_path"),
)
residual_block(
    ResBlock,
    ("norm1", _swap, "linear_tokens", _swap, "ls1", "drop_path"),
    ("norm2", "mlp_channels", "ls2", "drop_path"),
)
residual_block(SpatialGatingBlock, ("norm", "mlp_channels", "drop_path"))
