"""Sixty of timm's models, one or two a family, whose multiply-adds fvcore can count."""

from __future__ import annotations

# fmt: off
MODELS = (
    "test_byobnet", "test_efficientnet", "lcnet_100", "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035", "mobileone_s0", "haloregnetz_b", "hgnetv2_b0", "levit_128s",
    "efficientformerv2_s0", "efficientvim_m1", "test_mambaout", "edgenext_xx_small",
    "gmlp_ti16_224", "efficientvit_b0", "efficientvit_m0", "cait_xxs24_224", "ghostnet_050",
    "lowformer_b0", "cspnext_tiny", "inception_next_atto", "fasternet_t0", "dla46x_c", "dpn48b",
    "efficientformer_l1", "poolformerv2_s12", "iformer_t", "test_coatnet", "convit_tiny",
    "cpubone_nano", "test_convnext", "convnext_femto_ols", "gcvit_xxtiny",
    "deit_tiny_patch16_224", "coat_tiny", "hiera_tiny_224", "crossvit_tiny_240", "mobilevit_xxs",
    "mobilevitv2_075", "fastvit_t8", "densenet121", "davit_tiny", "maxvit_tiny_rw_224",
    "botnet26t_256", "tiny_vit_5m_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_ns_224", "vit_tiny_patch16_224", "resnet18", "regnety_002", "repvit_m0_9",
    "rexnet_100", "shvit_s1", "tnt_s_legacy_patch16_224", "twins_svt_small", "visformer_tiny",
    "xcit_nano_12_p8_224", "pvt_v2_b0", "pit_ti_224",
)
# fmt: on
