"""timm.models.fastvit: the Mlps and attentions are branches. RepMixer token mixers stay."""

from __future__ import annotations

from timm.models.fastvit import AttentionBlock, ConvMlp, RepMixerBlock
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import unit_groups
from cpt_nas.adapters.mlp import within
from cpt_nas.adapters.residual import chain_block, residual_block


@REGISTRY.add(ConvMlp)
def conv_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """The chain is a depthwise convolution - fc1 - act - fc2."""
    return within(*unit_groups(block, ("conv", "fc1", "act", "fc2")))


chain_block(
    RepMixerBlock,
    chain=("mlp", "layer_scale"),
    pre=("token_mixer",),
    shortcut_after_pre="always",
)
residual_block(
    AttentionBlock,
    ("norm", "token_mixer", "layer_scale_1", "drop_path1"),
    ("mlp", "layer_scale_2", "drop_path2"),
)
