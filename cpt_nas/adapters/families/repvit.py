"""timm.models.repvit: RepViTBlock, whose channel mixer is the branch. Its token mixer stays."""

from __future__ import annotations

from timm.models.repvit import RepViTBlock

from cpt_nas.adapters.residual import chain_block

chain_block(
    RepViTBlock,
    chain=("channel_mixer.conv1", "channel_mixer.act", "channel_mixer.conv2"),
    pre=("token_mixer", "se"),
    shortcut_after_pre="always",
)
