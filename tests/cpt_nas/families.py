"""The smallest model of every block family: id -> (timm name, keyword arguments, input size).

All of a family's contract tests together should take a few seconds: choose few, narrow blocks.
"""

from __future__ import annotations

from typing import Any

import tiny  # noqa: F401  registers cpt_tiny_*

Families = dict[str, tuple[str, dict[str, Any], int]]

# Of tiny.py: id -> input size.
TINY = {
    "byob": 64,
    "byob_rep": 32,
    "resnetv2": 32,
    "resnetv2_basic": 32,
    "resnetv2_post": 32,
    "resnetv2_bit": 32,
    "csp_bottle": 64,
    "csp_dark": 64,
    "csp_edge": 64,
    "dla": 64,
    "dla_bottleneck": 64,
    "dla_res2": 64,
    "res2net": 64,
    "resnest": 64,
    "sknet": 64,
    "sknet_bottleneck": 64,
    "seresnet": 32,
    "seresnext": 32,
    "tresnet": 64,
    "rexnet": 64,
    "ghostnet": 64,
    "repghost": 64,
    "repvit": 32,
    "fastvit": 64,
    "vovnet": 64,
    "hgnet": 64,
    "xception": 64,
    "xceptionp": 64,
    "densenet": 32,
    "dpn": 64,
    "convmixer": 56,
    "regnetv": 64,
}

CONVOLUTIONAL: Families = {
    "resnet": ("test_resnet", {}, 32),
    "efficientnet": ("test_efficientnet", {}, 32),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 32),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}, 64),
    "regnet": ("regnety_002", {}, 64),
    "convnext": ("test_convnext", {}, 32),
    **{n: (f"cpt_tiny_{n}", {}, size) for n, size in TINY.items()},
    "byob_attention": ("cpt_tiny_byob_attention", {"img_size": 64}, 64),
    "mobile_blocks": ("cpt_tiny_efficientnet", {}, 64),
    "nfnet": ("test_nfnet", {}, 64),
    "mambaout": ("test_mambaout", {}, 32),
    "starnet": ("starnet_s050", {"depths": [1, 1, 2, 1]}, 64),
    "fasternet": ("fasternet_t0", {}, 64),
    "inception_next": ("inception_next_atto", {"depths": [1, 1, 1, 1]}, 64),
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.01}, 32),
}

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
SWIN = {"img_size": 32, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4]}
MIXER = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2}
METAFORMER = {"dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}

TRANSFORMERS: Families = {
    "vit": ("test_vit", {"img_size": 32}, 32),
    "vit_layerscale_qknorm": (
        "test_vit",
        {"img_size": 32, "init_values": 0.5, "qk_norm": True},
        32,
    ),
}

FAMILIES = CONVOLUTIONAL | TRANSFORMERS
