"""timm.models.gemma4_vit: Gemma4Block with its heads and the hidden units of its gated Mlp."""

from __future__ import annotations

from timm.models.gemma4_vit import Gemma4Attention, Gemma4Block, Gemma4GatedMlp
from torch import nn

from cpt_nas.adapters.attention import heads_group
from cpt_nas.adapters.attention import strangers as strangers_in_attention
from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal
from cpt_nas.adapters.known import changed_inside
from cpt_nas.adapters.mlp import gated_units, strangers, within
from cpt_nas.adapters.residual import residual_block

residual_block(
    Gemma4Block,
    ("norm1", "attn", "norm2", "drop_path"),
    ("norm3", "mlp", "norm4", "drop_path"),
    takes_args=("attn",),
)


@REGISTRY.add(Gemma4GatedMlp)
def gated_mlp(block: nn.Module) -> list[Branch] | Refusal:
    """Hidden units of which down_proj reads act(gate_proj(x)) * up_proj(x).

    A clipped layer has single numbers as bounds, so it treats all units alike.
    """
    assert isinstance(block, Gemma4GatedMlp)
    size = block.down_proj.linear.in_features
    makers = ("gate_proj.linear", "up_proj.linear")
    strange = strangers(block, (*makers, "down_proj.linear"))
    if strange:
        return Refusal(strange)
    return within((gated_units(block, size, makers, 1, "down_proj.linear"),))


@REGISTRY.add(Gemma4Attention)
def attention(block: nn.Module) -> list[Branch] | Refusal:
    """The heads, whose queries, keys and values pass norms over the channels of one head."""
    assert isinstance(block, Gemma4Attention)
    if block.num_kv_groups > 1:
        return Refusal("heads share keys and values")
    makers = dict.fromkeys((f"{n}_proj.linear" for n in "qkv"), 1)
    norms = dict.fromkeys((f"{n}_norm" for n in "qkv"), block.head_dim)
    strange = changed_inside(block) or strangers_in_attention(
        block, (*makers, "o_proj.linear"), norms
    )
    if strange:
        return Refusal(strange)
    counts = (Count("", "num_heads"), Count("", "num_kv_heads"))
    group = heads_group(block, block.num_heads, makers, counts, reader="o_proj.linear")
    return within((group,))
