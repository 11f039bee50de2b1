"""Names this package adds to timm's registry: the CIFAR ResNets of He et al. (2016), section 4.2.

timm has none: its ResNet fixes the 64-channel stem and four stages in the code. ``CifarResNet``
swaps these two and inherits the rest, so everything timm does with a ResNet works on it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import create_classifier, get_act_layer, get_norm_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, ResNet, make_blocks
from torch import nn
from torch.nn import functional as F

__all__ = ["CifarResNet", "PadShortcut"]  # register_model adds the entry points


SHORTCUTS = ("A", "B")


class PadShortcut(nn.Module):
    """Option A of He et al.: every ``stride``-th pixel, zeros for the channels that are missing.

    Half of the zeros come before the channels and half behind them, as in the networks whose
    weights are published; the odd one comes behind.

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        added = self.out_channels - self.in_channels
        return F.pad(x, (0, 0, 0, 0, added // 2, added - added // 2))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


class CifarResNet(ResNet):
    """timm's ResNet for small images: 3x3/1 stem without pooling, three stages, no fourth."""

    def __init__(
        self,
        layers: tuple[int, int, int],
        channels: tuple[int, int, int] = (16, 32, 64),
        shortcut: str = "A",
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        act_layer: Any = nn.ReLU,
        norm_layer: Any = nn.BatchNorm2d,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """
        Args:
            layers: blocks in each of the three stages.
            channels: width of each stage; the first is the stem's too.
            shortcut: where a stage widens, ``A``: zero-padded, without parameters, ``B``: 1x1
                convolution and norm.
            num_classes: outputs; 0 for none.
            in_chans: channels of the input.
            global_pool: timm's pooling type.
            act_layer: activation class or timm's name for it.
            norm_layer: norm class or timm's name for it.
            drop_rate: dropout before the classifier.
            drop_path_rate: stochastic depth of the last block, growing linearly from 0.
            zero_init_last: start every branch's last norm at weight 0. Off, as in the paper: a
                gate multiplied by a zero branch has no gradient.
            device: where parameters are made.
            dtype: of the parameters.

        Raises:
            ValueError: an unknown shortcut, or layers or channels that are not three.
        """
        if shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut: {shortcut!r}, must be one of {', '.join(SHORTCUTS)}")
        for name, values in (("layers", layers), ("channels", channels)):
            if len(values) != 3:
                raise ValueError(f"{name}: {list(values)}, must be three numbers, one a stage")
        nn.Module.__init__(self)  # ResNet's own would build the stem and stages replaced here
        factory = {"device": device, "dtype": dtype}
        act_layer, norm_layer = get_act_layer(act_layer), get_norm_layer(norm_layer)
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False

        width = channels[0]
        self.conv1 = nn.Conv2d(in_chans, width, 3, stride=1, padding=1, bias=False, **factory)
        self.bn1 = norm_layer(width, **factory)
        self.act1 = act_layer(inplace=True)
        self.maxpool = nn.Identity()
        self.feature_info = [{"num_chs": width, "reduction": 1, "module": "act1"}]

        stages, feature_info = make_blocks(
            (BasicBlock,) * 3,
            channels,
            layers,
            width,
            act_layer=act_layer,
            norm_layer=norm_layer,
            drop_path_rate=drop_path_rate,
            **factory,
        )
        for name, stage in stages:
            self.add_module(name, stage)
        # An empty Sequential, not an Identity: gradient checkpointing iterates over it.
        self.layer4 = nn.Sequential()
        # make_blocks takes a stem of stride 4 for granted.
        self.feature_info += [info | {"reduction": info["reduction"] // 4} for info in feature_info]
        if shortcut == "A":
            for block in self.modules():
                if isinstance(block, BasicBlock) and block.downsample is not None:
                    conv = block.downsample[0]
                    block.downsample = PadShortcut(
                        conv.in_channels, conv.out_channels, conv.stride[0]
                    )

        self.num_features = channels[-1]
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **factory
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights(zero_init_last=zero_init_last)

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, **kwargs: Any
    ) -> Any:
        """As timm's, over the stem and three stages."""
        taken, _ = feature_take_indices(len(self.feature_info), indices)
        return super().forward_intermediates(x, indices=taken, **kwargs)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As timm's, over the stem and three stages."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        # timm ends a model at its deepest tap: for the last stage that is the empty layer4.
        deepest = [4] if last == 3 else []
        super().prune_intermediate_layers([*taken, *deepest], prune_norm, prune_head)
        return taken


def cifar_cfg(**kwargs: Any) -> dict[str, Any]:
    """Defaults of a CIFAR model; mean and std are CIFAR-10's training images'."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "first_conv": "conv1",
        "classifier": "fc",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {f"cpt_resnet{depth}.untrained": cifar_cfg() for depth in (20, 32, 44, 56, 110)}
)


def _create(variant: str, depth: int, pretrained: bool, **kwargs: Any) -> nn.Module:
    blocks = (depth - 2) // 6  # two convs a block, three stages, one conv and one linear besides
    return build_model_with_cfg(
        CifarResNet,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3)},
        **({"layers": (blocks,) * 3} | kwargs),
    )


@register_model
def cpt_resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-20 for CIFAR: three stages of three blocks."""
    return _create("cpt_resnet20", 20, pretrained, **kwargs)


@register_model
def cpt_resnet32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-32 for CIFAR: three stages of five blocks."""
    return _create("cpt_resnet32", 32, pretrained, **kwargs)


@register_model
def cpt_resnet44(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-44 for CIFAR: three stages of seven blocks."""
    return _create("cpt_resnet44", 44, pretrained, **kwargs)


@register_model
def cpt_resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-56 for CIFAR: three stages of nine blocks."""
    return _create("cpt_resnet56", 56, pretrained, **kwargs)


@register_model
def cpt_resnet110(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-110 for CIFAR: three stages of eighteen blocks."""
    return _create("cpt_resnet110", 110, pretrained, **kwargs)
