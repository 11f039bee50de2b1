"""timm.layers.attention: heads of Attention and AttentionRope, in whatever block they stand.

A head is cut at the input of ``proj``: rows of query, key and value go with it. Nothing but the
heads' values passes there, so a closed head is exactly a missing one.
"""

from __future__ import annotations

from timm.layers import Attention, AttentionRope
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup
from cpt_nas.adapters.chains import is_silent
from cpt_nas.adapters.mlp import within

# What the attention calls itself between its linear layers: one channel a head.
CALLS = (":scaled_dot_product_attention", ":mul", ":mul#1", ":matmul", ":matmul#1", ":softmax")


@REGISTRY.add(Attention, AttentionRope)
def attention(block: nn.Module) -> list[Branch] | Refusal:
    """Heads of packed or separate query, key and value."""
    if not is_silent(block.norm):  # type: ignore[arg-type]
        return Refusal("norm: a norm over all the heads")
    if getattr(block, "num_kv_groups", 1) > 1:
        return Refusal("heads share keys and values")
    heads: int = block.num_heads  # type: ignore[assignment]
    width: int = block.head_dim  # type: ignore[assignment]
    if heads == 1:
        return Refusal("it has one head")
    makers = {"qkv": 3} if getattr(block, "qkv", None) is not None else {}
    makers = makers or {"q_proj": 1, "k_proj": 1, "v_proj": 1}
    if getattr(block, "gate", None) is not None:
        makers["gate"] = 1
    slices: list[Slice] = []
    for name, parts in makers.items():
        slices.append(Slice(f"{name}.weight", 0, width, parts))
        if getattr(block.get_submodule(name), "bias", None) is not None:
            slices.append(Slice(f"{name}.bias", 0, width, parts))
    read = Slice("proj.weight", 1, width)
    counts = [Count(name, "out_features", width * parts) for name, parts in makers.items()]
    counts += [Count("proj", "in_features", width), Count("", "num_heads")]
    counts += [Count("", "attn_dim", width)]
    if isinstance(block, AttentionRope):
        counts += [Count("", "num_kv_heads"), Count("", "kv_dim", width)]
    group = UnitGroup(
        name="heads",
        kind="heads",
        size=heads,
        slices=(*slices, read),
        counts=tuple(counts),
        folds=(read,),
        produced_by={n: width * p for n, p in makers.items()} | dict.fromkeys(CALLS, 1),
        consumed_by={"proj": width},
    )
    return within((group,))
