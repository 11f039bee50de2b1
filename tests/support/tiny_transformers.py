"""Tiny networks of timm's transformer-like classes that no entry point builds so small."""

from __future__ import annotations

from functools import partial

from timm.layers import GatedMlp
from timm.models import (
    cpubone,
    efficientformer,
    efficientvim,
    efficientvit_mit,
    efficientvit_msra,
    eva,
    focalnet,
    gcvit,
    gemma4_vit,
    iformer,
    lowformer,
    maxxvit,
    metaformer,
    mlp_mixer,
    nest,
    pvt_v2,
    shvit,
    swiftformer,
    tiny_vit,
    twins,
    visformer,
    vision_transformer,
    volo,
)
from torch import Tensor, nn

from tests.support.tiny import tiny

_MSRA = {"embed_dim": (16, 32, 32), "depth": (1, 1, 1), "num_heads": (2, 2, 2)}
tiny("msra", efficientvit_msra.EfficientVitMsra, img_size=128, key_dim=(4, 4, 4), **_MSRA)
_SHVIT = {"embed_dim": (16, 32, 32), "partial_dim": (8, 8, 8), "qk_dim": (4, 4, 4)}
tiny("shvit", shvit.SHViT, types=("i", "s", "s"), depth=(1, 1, 1), **_SHVIT)
_STAGES = {"width_list": [8, 8, 16, 16, 32], "depth_list": [1, 1, 1, 1, 1], "head_widths": (16, 16)}
tiny("lowformer", lowformer.LowFormer, **_STAGES)
tiny("lowformer_separate", lowformer.LowFormer, fused_conv=False, **_STAGES)
tiny("cpubone", cpubone.CPUBone, proj_drop_rate=0.0, **_STAGES)
tiny(
    "iformer",
    iformer.IFormer,
    dims=(8, 8, 16, 16),
    depths=(1, 1, 4, 3),
    attn_groups=(0, 0, 1, 1),
    layer_scale_init_value=0.5,
)
tiny(
    "swiftformer",
    swiftformer.SwiftFormer,
    layers=[1, 1, 2, 1],
    embed_dims=[8, 8, 16, 16],
    layer_scale_init_value=0.5,
)
tiny(
    "efficientvim",
    efficientvim.EfficientViM,
    embed_dim=(16, 16, 32),
    depths=(1, 1, 1),
    state_dim=(8, 8, 4),
)


def _gemma4(**kwargs: object) -> nn.Module:
    """With bounds that do clip, and do not leave a zero as it is."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "head_dim": 8, "intermediate_size": 48}
    model = gemma4_vit.Gemma4VitClassifier(
        img_size=64, position_embedding_size=16, use_clipped_linears=True, **sizes, **kwargs
    )
    for module in model.modules():
        if isinstance(module, gemma4_vit.Gemma4ClippableLinear):
            bounds = {"input_min": 0.05, "input_max": 1.0, "output_min": -1.0, "output_max": 0.8}
            for name, value in bounds.items():
                getattr(module, name).fill_(value)
    return model


tiny("gemma4", _gemma4)


def _in_double(self: efficientvit_mit.LiteMLA, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """LiteMLA's attention without its rounding to single precision."""
    out = q @ (k.transpose(-1, -2) @ v)
    return out[..., :-1] / (out[..., -1:] + self.eps)


# Rounding to single precision turns the last digit of a double, which depends on the order of sums,
# into one of a single: nothing could be compared to twelve digits.
efficientvit_mit.LiteMLA._attn = _in_double

_MIT = {"widths": (8, 8, 16, 16, 32), "depths": (1, 2, 2, 2, 2), "head_widths": (16, 16)}
tiny("efficientvit", efficientvit_mit.EfficientVit, head_dim=8, **_MIT)
tiny("efficientvit_large", efficientvit_mit.EfficientVitLarge, head_dim=8, **_MIT)
tiny(
    "vit_post",
    vision_transformer.VisionTransformer,
    patch_size=16,
    embed_dim=32,
    depth=2,
    num_heads=4,
    block_fn=vision_transformer.ResPostBlock,
    init_values=0.5,
)
_stages = {"depths": (1, 1, 1, 1)}
tiny("focalnet", focalnet.FocalNet, embed_dim=16, **_stages)
tiny("focalnet_post", focalnet.FocalNet, embed_dim=16, use_post_norm=True, **_stages)
_former = partial(metaformer.MetaFormer, dims=(16, 16, 32, 32), **_stages)
tiny(
    "poolformer",
    _former,
    token_mixers=metaformer.Pooling,
    mlp_act=nn.GELU,
    norm_layers=metaformer.GroupNorm1,
    layer_scale_init_values=0.1,
    res_scale_init_values=None,
    use_mlp_head=False,
)
tiny(
    "caformer",
    _former,
    token_mixers=[metaformer.SepConv] * 2 + [metaformer.Attention] * 2,
    norm_layers=[metaformer.LayerNorm2dNoBias] * 2 + [metaformer.LayerNormNoBias] * 2,
)
_mixer = partial(mlp_mixer.MlpMixer, mlp_ratio=4.0, patch_size=8, num_blocks=2, embed_dim=32)
tiny("mixer", _mixer, mlp_ratio=(0.5, 4.0))
tiny("resmlp", _mixer, block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine)
tiny("gmlp", _mixer, block_layer=mlp_mixer.SpatialGatingBlock, mlp_layer=GatedMlp)
tiny(
    "gcvit",
    gcvit.GlobalContextVit,
    depths=(1, 1, 1, 1),
    num_heads=(2, 2, 2, 2),
    window_ratio=(32, 32, 16, 32),
    embed_dim=8,
    layer_scale=0.5,
)
tiny(
    "nest",
    nest.Nest,
    num_levels=2,
    embed_dims=(16, 32),
    num_heads=(2, 4),
    depths=(1, 2),
    patch_size=4,
)
tiny(
    "pvt",
    pvt_v2.PyramidVisionTransformerV2,
    depths=(1, 1, 1, 2),
    embed_dims=(8, 16, 16, 32),
    num_heads=(1, 2, 2, 4),
)
tiny(
    "twins",
    twins.Twins,
    embed_dims=(8, 16, 16, 32),
    num_heads=(1, 2, 2, 4),
    depths=(2, 1, 1, 1),
    sr_ratios=(4, 2, 1, 1),
    wss=(4, 4, 2, 2),
)
tiny(
    "visformer",
    visformer.Visformer,
    init_channels=8,
    embed_dim=32,
    depth=(1, 1, 1),
    num_heads=4,
    group=4,
)
tiny(
    "volo",
    volo.VOLO,
    layers=(1, 1, 1, 1),
    embed_dims=(16, 32, 32, 32),
    num_heads=(2, 4, 4, 4),
    use_aux_head=False,
)
tiny(
    "tinyvit",
    tiny_vit.TinyVit,
    embed_dims=(8, 16, 16, 32),
    depths=(2, 1, 1, 1),
    num_heads=(1, 2, 2, 4),
    window_sizes=(4, 4, 4, 2),
)
tiny(
    "efficientformer",
    efficientformer.EfficientFormer,
    depths=(1, 1, 1, 2),
    embed_dims=(8, 16, 16, 32),
    num_vit=1,
    layer_scale_init_value=0.5,
)
tiny(
    "eva_post",
    eva.Eva,
    patch_size=16,
    embed_dim=32,
    depth=2,
    num_heads=4,
    use_post_norm=True,
    swiglu_mlp=True,
)
tiny(
    "maxxvit",
    maxxvit.MaxxVit,
    maxxvit.MaxxVitCfg(
        embed_dim=(8, 16),
        depths=(1, 2),
        block_type=("M", "M"),
        stem_width=8,
        conv_cfg=maxxvit.MaxxVitConvCfg(block_type="convnext"),
        transformer_cfg=maxxvit.MaxxVitTransformerCfg(
            dim_head=8, use_nchw_attn=True, window_size=(4, 4), grid_size=(4, 4)
        ),
    ),
)
