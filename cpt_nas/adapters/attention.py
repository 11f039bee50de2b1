"""timm.layers.attention: the heads of Attention and AttentionRope, whatever block holds them.

A head is cut at the input of ``proj``, and its rows of query, key and value are cut with it. Only
the heads' values reach that input, so a closed head gives exactly the outputs of a missing one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timm.layers import Attention, AttentionRope
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal, Slice, UnitGroup
from cpt_nas.adapters.chains import is_dense, is_silent
from cpt_nas.adapters.known import changed_inside
from cpt_nas.adapters.mlp import within

# The functions that the attention itself calls between its linear layers.
CALLS = (":scaled_dot_product_attention", ":mul", ":mul#1", ":matmul", ":matmul#1", ":softmax")
_OUTPUTS = {
    nn.Linear: "out_features",
    nn.Conv2d: "out_channels",
    nn.BatchNorm1d: "num_features",
    nn.BatchNorm2d: "num_features",
}


@REGISTRY.add(Attention, AttentionRope)
def attention(block: nn.Module) -> list[Branch] | Refusal:
    """The heads, whether one layer makes query, key and value or three layers do."""
    if changed_inside(block):
        return Refusal(changed_inside(block))
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
    strange = strangers(block, (*makers, "proj"), norms={"q_norm": width, "k_norm": width})
    if strange:
        return Refusal(strange)
    counts = [Count("", "num_heads"), Count("", "attn_dim", width)]
    if isinstance(block, AttentionRope):
        counts += [Count("", "num_kv_heads"), Count("", "kv_dim", width)]
    return within((heads_group(block, heads, makers, counts),))


def strangers(
    block: nn.Module,
    layers: Sequence[str],
    norms: Mapping[str, int],
    silent: Sequence[str] = ("attn_drop",),
) -> str:
    """Why the parts of an attention are not those that its class makes; '' where they are.

    Args:
        block: the attention.
        layers: the names of parts that must be linear layers or convolutions without groups.
        norms: the names of parts that may be norms, with the channels of one head they work on.
        silent: the names of parts that must not mix or change the heads.
    """
    parts = dict(block.named_children())
    for name in layers:
        if not is_dense(block.get_submodule(name)):
            return f"{name}: {type(block.get_submodule(name)).__name__}, not a linear layer"
    for name, width in norms.items():
        part = parts.get(name)
        sizes = {tuple(p.shape) for p in part.parameters()} if part is not None else set()
        if not is_silent(part) and ("Norm" not in type(part).__name__ or sizes - {(width,)}):
            return f"{name}: {type(part).__name__}, not a norm over the channels of one head"
    for name in silent:
        if not is_silent(parts.get(name)):
            return f"{name}: {type(parts[name]).__name__} may mix the heads"
    return ""


def heads_group(
    block: nn.Module,
    heads: int,
    makers: Mapping[str, int],
    counts: Sequence[Count] = (Count("", "num_heads"),),
    slices: Sequence[Slice] = (),
    reader: str = "proj",
    calls: Sequence[str] = CALLS,
) -> UnitGroup:
    """The heads of an attention whose output one linear layer (or 1x1 convolution) reads.

    Args:
        block: the attention.
        heads: the number of heads.
        makers: the names of the layers that make queries, keys, values or gates, each with the
            number of equal blocks in its outputs. A layer that makes first all queries, then all
            keys, then all values has 3 blocks; one that makes all that belongs to the first head,
            then all that belongs to the second, has 1.
        counts: the attributes of the attention that count heads or their channels.
        slices: further tensors with entries for each head.
        reader: the name of the layer that reads all the heads.
        calls: the functions and modules that work head by head between makers and reader.
    """
    cuts: list[Slice] = []
    counted, made = list(counts), dict[str, int]()
    for name, parts in makers.items():
        module = block.get_submodule(name)
        width = int(getattr(module, _OUTPUTS[type(module)])) // (heads * parts)
        tensors = ("weight", "bias", "running_mean", "running_var")
        held = [t for t in tensors if getattr(module, t, None) is not None]
        cuts += [Slice(f"{name}.{t}", 0, width, parts) for t in held]
        counted.append(Count(name, _OUTPUTS[type(module)], width * parts))
        made[name] = width * parts
    last = block.get_submodule(reader)
    inputs = "in_features" if isinstance(last, nn.Linear) else "in_channels"
    width = getattr(last, inputs) // heads
    read = Slice(f"{reader}.weight", 1, width)
    return UnitGroup(
        name="heads",
        kind="heads",
        size=heads,
        slices=(*cuts, *slices, read),
        counts=(*counted, Count(reader, inputs, width)),
        folds=(read,),
        produced_by=made | dict.fromkeys(calls, 1),
        consumed_by={reader: width},
    )
