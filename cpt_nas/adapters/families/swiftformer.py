"""timm.models.swiftformer: the convolutional encoders and the block with additive attention."""

from __future__ import annotations

from timm.models.swiftformer import Block, ConvEncoder, LocalRepresentation, Mlp

from cpt_nas.adapters.chains import CONTAINERS
from cpt_nas.adapters.remainder import Chain
from cpt_nas.adapters.residual import residual_block

CONTAINERS[Mlp] = ("norm1", "fc1", "act", "drop", "fc2")
_ENCODER = ("dwconv", "norm", "pwconv1", "act", "pwconv2", "layer_scale", "drop_path")
residual_block(ConvEncoder, _ENCODER)
residual_block(LocalRepresentation, _ENCODER)
residual_block(
    Block,
    Chain(("attn", "layer_scale_1", "drop_path"), before="local_representation"),
    ("linear", "layer_scale_2", "drop_path"),
)
