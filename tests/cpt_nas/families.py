"""The smallest model of every block family: id -> (timm name, keyword arguments, input size).

All of a family's contract tests together should take a few seconds: choose few, narrow blocks.
"""

from __future__ import annotations

from typing import Any

Families = dict[str, tuple[str, dict[str, Any], int]]

CONVOLUTIONAL: Families = {
    "resnet": ("test_resnet", {}, 32),
    "efficientnet": ("test_efficientnet", {}, 32),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 32),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}, 64),
    "regnet": ("regnety_002", {}, 64),
    "convnext": ("test_convnext", {}, 32),
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.01}, 32),
}

TRANSFORMERS: Families = {
    "vit": ("test_vit", {}, 32),
    "vit_layerscale_qknorm": ("test_vit", {"init_values": 0.5, "qk_norm": True}, 32),
}

FAMILIES = CONVOLUTIONAL | TRANSFORMERS
