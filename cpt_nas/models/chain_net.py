"""Chains of weight layers, of the papers: LeNet-300-100, LeNet-5, VGG-16 for CIFAR pictures.

A chain is a row of sections, each a weight layer with its norm, activation and pooling. With
``skip`` every section has a linear path around it, so that its nonlinear one can be removed:

    x <- z F(x) + S x                                   (eq. 1 of arXiv 2411.09127, h the identity)

S is the identity where the section keeps the shape, pooling where it shrinks the picture, and a
1x1 convolution behind that where it changes the width. A linear layer that reads a picture has a
pooled picture and a linear map around it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from cpt_nas.models.cifar_resnet import cifar_cfg

__all__ = ["ChainNet", "Section"]  # register_model adds the entry points

WEIGHT_INITS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "kaiming_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "kaiming_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
}
POOLED_PICTURE = 4  # pixels along each side that the path around a linear layer averages


class Section(nn.Module):
    """A nonlinear path and a linear one around it: ``body(x) + skip(x)``."""

    def __init__(self, body: nn.Sequential, skip: nn.Module) -> None:
        super().__init__()
        self.body, self.skip = body, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x) + self.skip(x)
        return y


class ChainNet(nn.Module):
    """Convolutions, linear layers and a classifier, one after the other."""

    def __init__(
        self,
        channels: Sequence[Sequence[int]] = (),
        hidden: Sequence[int] = (),
        kernel_size: int = 3,
        padding: int = 1,
        norm: bool = False,
        skip: bool = False,
        weight_init: str = "xavier_uniform",
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | Sequence[int] = 28,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """
        Args:
            channels: of every convolution, a list a stage; the last of a stage pools 2x2.
            hidden: widths of the linear layers between them and the classifier.
            kernel_size: of every convolution.
            padding: of every convolution.
            norm: a batch norm behind every weight layer but the classifier.
            skip: a linear path around every section.
            weight_init: ``xavier_uniform``, ``kaiming_normal`` or ``kaiming_uniform``. Without
                norms, with the latter two what comes out grows with every pooling and every path
                around a section, and the first steps kill most filters.
            num_classes: outputs; 0 for none.
            in_chans: channels of the input.
            img_size: pixels along each side of the input, or height and width.
            drop_rate: dropout before the classifier.
            device: where parameters are made.
            dtype: of the parameters.

        Raises:
            ValueError: an unknown initialisation, no section at all, a stage or width that is
                empty, or pictures that the stages shrink to nothing.
        """
        super().__init__()
        if weight_init not in WEIGHT_INITS:
            known = ", ".join(WEIGHT_INITS)
            raise ValueError(f"weight_init: {weight_init!r}, must be one of {known}")
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if not [*channels, *hidden] or not all(channels):
            raise ValueError(
                f"channels, hidden: {channels}, {hidden}, must be a section at least, and no stage "
                "empty"
            )
        factory = {"device": device, "dtype": dtype}
        self.num_classes, self.in_chans, self.skip = num_classes, in_chans, skip
        self.features = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        width, reduction = in_chans, 1
        for stage in channels:
            for number, wider in enumerate(stage, 1):
                pool = 2 if number == len(stage) else 1
                size = tuple((s + 2 * padding - kernel_size + 1) // pool for s in size)
                if min(size) < 1:
                    raise ValueError(f"img_size: {img_size}, must be larger for these stages")
                conv = nn.Conv2d(
                    width, wider, kernel_size, padding=padding, bias=not norm, **factory
                )
                parts: list[tuple[str, nn.Module]] = [("conv", conv)]
                parts += [("norm", nn.BatchNorm2d(wider, **factory))] if norm else []
                parts += [("act", nn.ReLU())]
                parts += [("pool", nn.MaxPool2d(pool))] if pool > 1 else []
                # The linear path sees what the convolution and the pooling see together.
                window = kernel_size - 2 * padding + pool - 1
                around: list[tuple[str, nn.Module]] = []
                around += [("pool", nn.AvgPool2d(window, pool))] if window > 1 else []
                if wider != width:
                    around += [("conv", nn.Conv2d(width, wider, 1, bias=False, **factory))]
                self._add(parts, around)
                width, reduction = wider, reduction * pool
            info = {"num_chs": width, "reduction": reduction}
            self.feature_info.append(info | {"module": f"features.{len(self.features) - 1}"})
        flat = 0  # once the picture is a row of numbers: how many
        for wider in hidden:
            inputs = flat or width * size[0] * size[1]
            linear = nn.Linear(inputs, wider, bias=not norm, **factory)
            parts = [] if flat else [("flatten", nn.Flatten())]
            parts += [("linear", linear)]
            parts += [("norm", nn.BatchNorm1d(wider, **factory))] if norm else []
            parts += [("act", nn.ReLU())]
            around = []
            if not flat:
                window = min(POOLED_PICTURE, *size)
                around += [("pool", nn.AvgPool2d(window))] if window > 1 else []
                around += [("flatten", nn.Flatten())]
                inputs = width * (size[0] // window) * (size[1] // window)
            if wider != inputs:
                around += [("linear", nn.Linear(inputs, wider, bias=False, **factory))]
            self._add(parts, around)
            flat = wider
        self.num_features = flat or width * size[0] * size[1]
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(drop_rate)
        self.fc = self._classifier(**factory)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                WEIGHT_INITS[weight_init](module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _add(self, parts: list[tuple[str, nn.Module]], around: list[tuple[str, nn.Module]]) -> None:
        body = nn.Sequential(OrderedDict(parts))
        linear = nn.Sequential(OrderedDict(around)) if around else nn.Identity()
        self.features.append(Section(body, linear) if self.skip else body)

    def _classifier(self, **factory: Any) -> nn.Module:
        if not self.num_classes:
            return nn.Identity()
        return nn.Linear(self.num_features, self.num_classes, **factory)

    @property
    def head_hidden_size(self) -> int:
        """Numbers that the classifier reads."""
        return self.num_features

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Parameter groups for layer-wise rates: a section a group."""
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not supported, as of timm's VGG."""
        assert not enable, "gradient checkpointing not supported"

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Another number of classes.

        Raises:
            ValueError: a pooling type: the last layers read what is there.
        """
        if global_pool:
            raise ValueError(f"global_pool: {global_pool!r}, must be empty: there is no pooling")
        self.num_classes = num_classes
        weight = next(self.parameters())
        self.fc = self._classifier(device=weight.device, dtype=weight.dtype)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """[B, in_chans, H, W] -> [B, num_features]; [B, C, H, W] without linear layers."""
        features: torch.Tensor = self.features(x)
        return features

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Features -> [B, num_classes]."""
        x = self.drop(self.flatten(x))
        logits: torch.Tensor = x if pre_logits else self.fc(x)
        return logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """As timm's, over the stages of convolutions: a feature map behind each.

        Args:
            x: [B, in_chans, H, W].
            indices: of stages; an int for the last ones, None for all.
            norm: not used: there is no norm behind the last stage.
            stop_early: leave out what comes behind the last of these stages.
            output_fmt: 'NCHW'.
            intermediates_only: without what :meth:`forward_features` returns.

        Raises:
            ValueError: there is no stage, or another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: {output_fmt!r}, must be 'NCHW'")
        taken, deepest = self._take(indices)
        ends = {self._end(index): index for index in range(len(self.feature_info))}
        maps = []
        for number, section in enumerate(self.features):
            x = section(x)
            if ends.get(number) in taken:
                maps.append(x)
            if stop_early and number == self._end(deepest):
                break
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As timm's, over the stages: takes away what comes behind the last that is asked for.

        Raises:
            ValueError: there is no stage.
        """
        taken, deepest = self._take(indices)
        if prune_head or deepest < len(self.feature_info) - 1:
            self.features = self.features[: self._end(deepest) + 1]
            self.num_features = self.feature_info[deepest]["num_chs"]
            self.reset_classifier(0)
        return taken

    def _take(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        """The stages that are asked for, and the last of them."""
        if not self.feature_info:
            raise ValueError(
                "features_only: True, must be False: without convolutions there is no feature map"
            )
        given = indices if isinstance(indices, int | None) else list(indices)
        taken, deepest = feature_take_indices(len(self.feature_info), given)
        return list(taken), deepest

    def _end(self, stage: int) -> int:
        """Number of a stage's last section."""
        return int(self.feature_info[stage]["module"].rpartition(".")[2])


def _mnist_cfg() -> dict[str, Any]:
    """Defaults of a network for MNIST; mean and std are those of its training images."""
    return cifar_cfg(
        input_size=(1, 28, 28),
        fixed_input_size=True,
        pool_size=None,
        mean=(0.1307,),
        std=(0.3081,),
        first_conv=None,
    )


default_cfgs = generate_default_cfgs(
    {
        "cpt_lenet300.untrained": _mnist_cfg(),
        "cpt_lenet5.untrained": _mnist_cfg(),
        "cpt_vgg16.untrained": cifar_cfg(fixed_input_size=True, pool_size=None, first_conv=None),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    stages = tuple(range(len(kwargs.get("channels", ()))))
    maps = {"feature_cls": "getter", "out_indices": stages}
    return build_model_with_cfg(ChainNet, variant, pretrained, feature_cfg=maps, **kwargs)


@register_model
def cpt_lenet300(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LeNet-300-100 for MNIST: two hidden linear layers."""
    return _create("cpt_lenet300", pretrained, **({"hidden": (300, 100)} | kwargs))


@register_model
def cpt_lenet5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LeNet-5 for MNIST, 20-50-500: two 5x5 convolutions with pooling, a hidden linear layer."""
    own = {"channels": ((20,), (50,)), "hidden": (500,), "kernel_size": 5, "padding": 0}
    return _create("cpt_lenet5", pretrained, **(own | kwargs))


@register_model
def cpt_vgg16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VGG-16 for CIFAR: 13 convolutions, each with batch norm, and a head 512-512-classes."""
    stages = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
    own: dict[str, Any] = {"channels": stages, "hidden": (512,), "norm": True}
    own |= {"in_chans": 3, "img_size": 32}
    return _create("cpt_vgg16", pretrained, **(own | kwargs))
