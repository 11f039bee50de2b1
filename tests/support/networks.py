"""Small networks with random weights and norm statistics, in float64."""

from __future__ import annotations

import timm
import torch
from torch import nn

import cpt_nas  # noqa: F401  registers its models

torch.set_num_threads(1)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random affines and running statistics: a fresh norm hides mistakes (0 and 1 everywhere)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator, dtype=like.dtype) * (high - low) + low

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data = uniform(module.weight, 0.5, 1.5)
            module.bias.data = uniform(module.bias, -0.5, 0.5)
            module.running_mean = uniform(module.running_mean, -0.5, 0.5)
            module.running_var = uniform(module.running_var, 0.5, 1.5)
    return model


def randomize_all(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norm statistics, and random values for all that is set to a constant at first."""
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        if float(parameter.detach().std(correction=0)) == 0:  # zeros, ones, a small constant
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            mean = 1.0 if float(parameter.detach().mean()) > 0 else 0.0
            parameter.data = mean + 0.6 * noise.to(parameter)
    return randomize(model, seed)


# Each holds something the others do not: identity and projected shortcuts, SE, grouped, ...
CASES = {
    "basic": ("cpt_resnet20", {"layers": (2, 2, 1)}),
    "basic_projected": ("cpt_resnet20", {"layers": (1, 2, 2), "shortcut": "B"}),
    "bottleneck": ("test_resnet", {"block": "bottleneck"}),
    "bottleneck_se": ("test_resnet", {"block": "bottleneck", "attn": "se"}),
    "basic_se": ("test_resnet", {"attn": "se"}),
    "grouped": ("test_resnet", {"block": "bottleneck", "cardinality": 4}),
    "blur": ("test_resnet", {"block": "bottleneck", "aa": True}),
    "basic_blur": ("test_resnet", {"aa": True}),
    "silu": ("test_resnet", {"act_layer": nn.SiLU}),
}


def build(case: str, num_classes: int = 10) -> nn.Module:
    from timm.layers import BlurPool2d
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    name, options = CASES[case]
    torch.manual_seed(0)
    if name.startswith("cpt_"):
        model = timm.create_model(name, num_classes=num_classes, **options)
    else:
        block = Bottleneck if options.get("block") else BasicBlock
        model = ResNet(
            block,
            (1, 2, 1, 1),
            channels=(8, 16, 16, 24),
            num_classes=num_classes,
            cardinality=options.get("cardinality", 1),
            base_width=16 if options.get("cardinality") else 64,
            aa_layer=BlurPool2d if options.get("aa") else None,
            act_layer=options.get("act_layer", nn.ReLU),
            block_args={"attn_layer": "se"} if options.get("attn") else None,
        )
    return randomize(model).double()
