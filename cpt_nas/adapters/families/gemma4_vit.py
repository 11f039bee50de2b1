"""timm.models.gemma4_vit: Gemma4Block, its heads, and the hidden units of its gated Mlp."""

from __future__ import annotations

from timm.models.gemma4_vit import Gemma4Attention, Gemma4Block, Gemma4GatedMlp
from torch import nn

from cpt_nas.adapters.attention import heads_group
from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal
from cpt_nas.adapters.mlp import gated_units, within
from cpt_nas.adapters.residual import residual_block

residual_block(
    Gemma4Block,
    ("norm1", "attn", "norm2", "drop_path"),
    ("norm3", "mlp", "norm4", "drop_path"),
    takes_args=("attn",),
)


@REGISTRY.add(Gemma4GatedMlp)
def gated_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """act(gate_proj) * up_proj - down_proj. The bounds of clipped layers are single numbers."""
    assert isinstance(block, Gemma4GatedMlp)
    size = block.down_proj.linear.in_features
    makers = ("gate_proj.linear", "up_proj.linear")
    return within((gated_units(block, size, makers, 1, "down_proj.linear"),))


@REGISTRY.add(Gemma4Attention)
def attention(block: nn.Module) -> list[Branch] | Refusal:
    """Queries, keys and values are normed head by head."""
    assert isinstance(block, Gemma4Attention)
    if block.num_kv_groups > 1:
        return Refusal("heads share keys and values")
    makers = dict.fromkeys((f"{n}_proj.linear" for n in "qkv"), 1)
    counts = (Count("", "num_heads"), Count("", "num_kv_heads"))
    group = heads_group(block, block.num_heads, makers, counts, reader="o_proj.linear")
    return within((group,))
