"""Tiny networks of timm's convolutional classes that no entry point builds so small."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import (
    byobnet,
    convmixer,
    convnext,
    cspnet,
    cspnext,
    dla,
    efficientnet,
    fastvit,
    ghostnet,
    hgnet,
    lcnetv2,
    rdnet,
    regnet,
    repghost,
    repvit,
    resnest,
    resnetv2,
    rexnet,
    selecsls,
    senet,
    sknet,
    tresnet,
    vovnet,
    xception_aligned,
)
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.densenet import DenseNet
from timm.models.dpn import DPN
from timm.models.res2net import Bottle2neck
from timm.models.resnet import ResNet
from torch import nn

from tests.support.tiny import tiny


def _byo(*blocks: byobnet.ByoBlockCfg, **kwargs: Any) -> byobnet.ByoModelCfg:
    return byobnet.ByoModelCfg(blocks=blocks, stem_chs=8, stem_pool="", **kwargs)


_Block = byobnet.ByoBlockCfg
tiny(
    "byob",
    byobnet.ByobNet,
    _byo(
        _Block("basic", d=2, c=8, s=1, br=1.0),
        _Block("bottle", d=2, c=16, s=2, gs=4, br=0.5, attn_layer="se"),
        _Block("dark", d=2, c=16, s=1, br=0.5),
        _Block("edge", d=2, c=16, s=2, br=1.0),
        act_layer="silu",
    ),
)
tiny("byob_rep", byobnet.ByobNet, _byo(_Block("rep", 3, 8, 1), _Block("one", 3, 16, 2)))
tiny(
    "byob_attention",
    byobnet.ByobNet,
    _byo(
        _Block("bottle", 2, 16, 2, br=0.25),
        _Block("self_attn", 2, 16, 2, br=0.5),
        self_attn_layer="bottleneck",
        self_attn_kwargs={"num_heads": 2},
        fixed_input_size=True,
    ),
)
_norm = {"norm_layer": BatchNormAct2d, "conv_layer": create_conv2d}
_v2 = partial(resnetv2.ResNetV2, layers=(1, 2), channels=(16, 32), stem_chs=8, **_norm)
tiny("resnetv2", _v2)
tiny("resnetv2_basic", _v2, basic=True, bottle_ratio=1.0)
tiny("resnetv2_post", _v2, preact=False)
tiny("resnetv2_bit", resnetv2.ResNetV2, layers=(1, 2), channels=(128, 128), stem_chs=32)


def _csp(block: str) -> cspnet.CspModelCfg:
    return cspnet.CspModelCfg(
        stem=cspnet.CspStemCfg(out_chs=8),
        stages=cspnet.CspStagesCfg(
            depth=(2, 1),
            out_chs=(16, 32),
            block_ratio=0.5,
            bottle_ratio=0.5,
            expand_ratio=1.0,
            stage_type="cs3",
            block_type=block,
            attn_layer="se",
        ),
    )


for _kind in ("bottle", "dark", "edge"):
    tiny(f"csp_{_kind}", cspnet.CspNet, _csp(_kind))
tiny(
    "cspnext",
    cspnext.CspNext,
    depths=(2, 1, 1),
    channels=(16, 16, 32),
)
_dla = partial(dla.DLA, levels=(1, 1, 1, 2, 1, 1), channels=(8, 8, 16, 16, 16, 32))
tiny("dla", _dla, block=dla.DlaBasic)
tiny("dla_bottleneck", _dla, block=dla.DlaBottleneck)
tiny("dla_res2", _dla, block=dla.DlaBottle2neck, base_width=28)
_small = {"channels": (8, 8, 16, 16), "stem_width": 8}
tiny("res2net", ResNet, Bottle2neck, (2, 1, 1, 1), base_width=32, block_args={"scale": 2}, **_small)
tiny(
    "resnest",
    ResNet,
    resnest.ResNestBottleneck,
    (2, 1, 1, 1),
    block_args={"radix": 2, "avd": True},
    **_small,
)
tiny("sknet", ResNet, sknet.SelectiveKernelBasic, (2, 1, 1, 1), **_small)
tiny("sknet_bottleneck", ResNet, sknet.SelectiveKernelBottleneck, (2, 1, 1, 1), **_small)
tiny("seresnet", senet.SENet, senet.SEResNetBlock, (2, 1, 1, 1), groups=1, reduction=16)
tiny("seresnext", senet.SENet, senet.SEResNeXtBottleneck, (2, 1, 1, 1), groups=32, reduction=16)
tiny("tresnet", tresnet.TResNet, [1, 2, 2, 1], width_factor=0.25)
tiny("rexnet", rexnet.RexNet, initial_chs=8, final_chs=24, depth_mult=0.5, width_mult=1.0)
_ghosts = [[[3, 8, 8, 0, 1]], [[3, 16, 16, 0.25, 2]], [[3, 16, 16, 0, 1]], [[3, 16, 16, 0, 1]]]
tiny("ghostnet", ghostnet.GhostNet, _ghosts)
tiny("ghostnetv3", ghostnet.GhostNet, _ghosts, version="v3")
tiny("repghost", repghost.RepGhostNet, _ghosts)
tiny("repvit", repvit.RepVit, embed_dim=(8, 16), depth=(2, 2))
tiny(
    "fastvit",
    fastvit.FastVit,
    layers=(1, 1, 1, 2),
    embed_dims=(16, 16, 32, 32),
    token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
)
_vovnet = {
    "stem_chs": [8, 8, 8],
    "stage_conv_chs": [8] * 4,
    "stage_out_chs": [16] * 4,
    "layer_per_block": 2,
    "block_per_stage": [2, 2, 1, 1],
    "residual": True,
    "depthwise": False,
    "attn": "ese",
}
tiny("vovnet", vovnet.VovNet, _vovnet)
_hgnet = {
    "stem_type": "v2",
    "stem_chs": [8, 8],
    "stage1": [8, 8, 16, 2, False, False, 3, 2],
    "stage2": [16, 8, 16, 2, True, True, 3, 2],
    "stage3": [16, 8, 16, 2, True, True, 3, 2],
    "stage4": [16, 8, 16, 1, True, True, 3, 2],
}
tiny("hgnet", hgnet.HighPerfGpuNet, _hgnet, head_hidden_size=16)
_xception = [
    {"in_chs": 64, "out_chs": 16, "stride": 2},
    {"in_chs": 16, "out_chs": 16, "stride": 1},
    {"in_chs": 16, "out_chs": 16, "stride": 1},
    {"in_chs": 16, "out_chs": 32, "stride": 2},
    {"in_chs": 32, "out_chs": (32, 32, 48), "stride": 1, "no_skip": True},
]
tiny("xception", xception_aligned.XceptionAligned, _xception)
tiny("xceptionp", xception_aligned.XceptionAligned, _xception, preact=True)
tiny("densenet", DenseNet, growth_rate=8, block_config=(2, 2))
tiny(
    "dpn",
    DPN,
    k_sec=(1, 2, 1, 1),
    inc_sec=(8, 8, 8, 8),
    k_r=16,
    groups=4,
    small=True,
    num_init_features=8,
)
tiny(
    "rdnet",
    rdnet.RDNet,
    growth_rates=(8, 8, 16),
    num_blocks_list=(2, 1, 2),
    block_type=("Block", "Block", "BlockESE"),
    is_downsample_block=(None, True, True),
    num_init_features=8,
    ls_init_value=0.5,
)
_selecsls = {
    "block": selecsls.SelecSlsBlock,
    "features": [(32, 0, 16, 16, True, 2), (16, 16, 16, 24, False, 1)],
    "head": [(24, 16, 3, 2), (16, 24, 3, 1), (24, 32, 3, 1), (32, 16, 1, 1)],
    "num_features": 16,
    "feature_info": [
        {"num_chs": 32, "reduction": 2, "module": "stem.2"},
        {"num_chs": 24, "reduction": 4, "module": "features.1"},
        {"num_chs": 24, "reduction": 8, "module": "head.1"},
        {"num_chs": 16, "reduction": 8, "module": "head.3"},
    ],
}
tiny("selecsls", selecsls.SelecSls, _selecsls)
tiny("lcnetv2", lcnetv2.LCNetV2, scale=0.125, depths=(1, 2, 3, 2), head_hidden_size=16)
tiny("convmixer", convmixer.ConvMixer, dim=16, depth=3)
_preact = regnet.RegNetCfg(
    depth=7, w0=24, wa=36.44, wm=2.49, group_size=8, stem_width=8, preact=True, se_ratio=0.25
)
tiny("regnetv", regnet.RegNet, _preact)
_mobile = [
    ["cn_r1_k3_s2_e1_c8", "er_r2_k3_s1_e2_c8"],
    ["ir_r2_k3_s2_e3_c16_se0.25", "dsa_r2_k3_s1_c16"],
    ["mqa_r1_k3_h2_s1_d16_c16", "mha_r1_k3_h2_s1_d16_c16", "uir_r2_a3_k3_s1_e2_c16"],
]


def _efficientnet(**kwargs: Any) -> nn.Module:  # the builder uses its definition up
    return efficientnet.EfficientNet(decode_arch_def(_mobile), **kwargs)


tiny("efficientnet", _efficientnet, stem_size=8, num_features=16)
for _se_block in (senet.SEBottleneck, senet.SEResNetBottleneck):
    tiny(_se_block.__name__.lower(), senet.SENet, _se_block, (2, 1, 1, 1), groups=1, reduction=16)
tiny(
    "convnext_grn",
    convnext.ConvNeXt,
    dims=(8, 8, 16, 16),
    depths=(1, 1, 2, 1),
    use_grn=True,
    ls_init_value=None,
)
