"""The smallest model of every block family: id -> (timm name, keyword arguments, input size).

All of a family's contract tests together should take a few seconds: choose few, narrow blocks.
"""

from __future__ import annotations

from typing import Any

from tests.support import (
    tiny_convolutional,  # noqa: F401  registers cpt_tiny_*
    tiny_transformers,  # noqa: F401
)

Families = dict[str, tuple[str, dict[str, Any], int]]

# The networks of tiny_convolutional.py and their input sizes in pixels.
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
    "cspnext": 64,
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
    "ghostnetv3": 64,
    "repghost": 64,
    "repvit": 32,
    "fastvit": 64,
    "vovnet": 64,
    "hgnet": 64,
    "xception": 64,
    "xceptionp": 64,
    "densenet": 32,
    "rdnet": 64,
    "selecsls": 64,
    "lcnetv2": 64,
    "dpn": 64,
    "convmixer": 56,
    "regnetv": 64,
}

LENET300 = {"hidden": (12, 8), "in_chans": 3}
LENET5 = {"channels": ((6,), (8,)), "hidden": (10,), "in_chans": 3}
VGG16 = {"channels": ((6, 6), (8, 8, 8), (8,)), "hidden": (8, 10), "img_size": 16}

CHAINS: Families = {
    "lenet300": ("cpt_lenet300", LENET300, 28),
    "lenet300_skip": ("cpt_lenet300", LENET300 | {"skip": True}, 28),
    "lenet5": ("cpt_lenet5", LENET5, 28),
    "lenet5_skip": ("cpt_lenet5", LENET5 | {"skip": True}, 28),
    "vgg16": ("cpt_vgg16", VGG16, 16),
    "vgg16_skip": ("cpt_vgg16", VGG16 | {"skip": True}, 16),
}

CONVOLUTIONAL: Families = {
    "resnet": ("test_resnet", {}, 32),
    "efficientnet": ("test_efficientnet", {}, 32),
    "efficientnet_gn": ("test_efficientnet_gn", {}, 32),
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
    "senet154": ("cpt_tiny_sebottleneck", {}, 32),
    "seresnet_bottleneck": ("cpt_tiny_seresnetbottleneck", {}, 32),
    "convnext_grn": ("cpt_tiny_convnext_grn", {}, 64),
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.01}, 32),
    **CHAINS,
}

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
QKNORM = {"img_size": 32, "init_values": 0.5, "qk_norm": True}
LEVIT = {"img_size": 64, "embed_dim": [16, 16, 32], "num_heads": [2, 2, 4], "depth": [1, 1, 1]}
CONVIT = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 4}
SWIN = {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4]}
SWIN |= {"img_size": 32, "patch_size": 2, "window_size": 4}

TRANSFORMERS: Families = {
    "vit": ("test_vit", {"img_size": 32}, 32),
    "vit_layerscale_qknorm": ("test_vit", QKNORM, 32),
    "vit_post": ("cpt_tiny_vit_post", {"img_size": 32}, 32),
    "eva": ("eva_giant_patch14_224", SMALL | {"img_size": 28, "mlp_ratio": 2.0}, 28),
    "eva02": ("eva02_tiny_patch14_224", SMALL | {"img_size": 28}, 28),
    "eva02_sub_ln": ("eva02_base_patch14_224", SMALL | {"img_size": 28}, 28),
    "eva_rope": ("vit_small_patch16_dinov3", SMALL | {"img_size": 32}, 32),
    "eva_rope_mixed": ("vit_small_patch16_rope_224", SMALL | {"img_size": 32}, 32),
    "eva_post": ("cpt_tiny_eva_post", {"img_size": 32}, 32),
    "maxxvit": ("cpt_tiny_maxxvit", {"img_size": 64}, 64),
    "beit": ("beit_base_patch16_224", SMALL | {"img_size": 32}, 32),
    "maxvit": ("test_maxvit", {"img_size": 64}, 64),
    "coatnet": ("test_coatnet", {"img_size": 64}, 64),
    "xcit": ("xcit_nano_12_p8_224", SMALL, 32),
    "levit": ("levit_128s", LEVIT, 64),
    "poolformer": ("cpt_tiny_poolformer", {}, 64),
    "caformer": ("cpt_tiny_caformer", {}, 64),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 32),
    "swinv2": ("swinv2_tiny_window8_256", SWIN, 32),
    "swinv2_cr": ("swinv2_cr_tiny_ns_224", SWIN, 32),
    "mixer": ("cpt_tiny_mixer", {"img_size": 32}, 32),
    "resmlp": ("cpt_tiny_resmlp", {"img_size": 32}, 32),
    "gmlp": ("cpt_tiny_gmlp", {"img_size": 32}, 32),
    "focalnet": ("cpt_tiny_focalnet", {}, 64),
    "focalnet_post": ("cpt_tiny_focalnet_post", {}, 64),
    "cait": ("cait_xxs24_224", SMALL | {"img_size": 32}, 32),
    "convit": ("convit_tiny", CONVIT, 32),
    "efficientformer": ("cpt_tiny_efficientformer", {}, 224),
    "efficientformerv2": ("efficientformerv2_s0", {"img_size": 64}, 64),
    "gcvit": ("cpt_tiny_gcvit", {"img_size": 64}, 64),
    "mobilevitv2": ("mobilevitv2_050", {}, 64),
    "nest": ("cpt_tiny_nest", {"img_size": 32}, 32),
    "pvt": ("cpt_tiny_pvt", {}, 64),
    "twins": ("cpt_tiny_twins", {"img_size": 64}, 64),
    "visformer": ("cpt_tiny_visformer", {"img_size": 64}, 64),
    "volo": ("cpt_tiny_volo", {"img_size": 64}, 64),
    "tiny_vit": ("cpt_tiny_tinyvit", {}, 64),
    "vit_relpos": ("test_vit_relpos", {"img_size": 32}, 32),
    "vit_relpos_post": ("vit_relpos_small_patch16_rpn_224", SMALL | {"img_size": 32}, 32),
}

# Of tiny_transformers.py: id -> input size.
TINY_TRANSFORMERS = {
    "msra": 128,
    "shvit": 128,
    "lowformer": 64,
    "lowformer_separate": 64,
    "cpubone": 64,
    "iformer": 64,
    "swiftformer": 64,
    "efficientvim": 128,
    "gemma4": 64,
    "efficientvit": 64,
    "efficientvit_large": 64,
}
TRANSFORMERS |= {n: (f"cpt_tiny_{n}", {}, size) for n, size in TINY_TRANSFORMERS.items()}

FAMILIES = CONVOLUTIONAL | TRANSFORMERS

SLOW = {"senet154"}
"""Families whose smallest model is large: their tests are marked slow."""
