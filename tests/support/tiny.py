"""Registers tiny networks of timm's classes under names of their own, so that they reload."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from timm.models import register_model
from torch import nn


def tiny(name: str, cls: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> None:
    """Register ``cls(*args, **kwargs)`` as 'cpt_tiny_<name>'."""
    full = f"cpt_tiny_{name}"

    def entry(pretrained: bool = False, **more: Any) -> nn.Module:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm adds them
            more.pop(key, None)
        model = cls(*args, **{**kwargs, **more})
        model.pretrained_cfg = {"architecture": full, "input_size": (3, 64, 64), "num_classes": 5}
        model.default_cfg = model.pretrained_cfg
        return model

    entry.__name__ = full
    entry.__module__ = __name__
    setattr(sys.modules[__name__], full, entry)
    register_model(entry)


def lenet(num_classes: int = 10) -> nn.Sequential:
    """A plain chain, ending in linear layers that read whole feature maps."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 32),
        nn.ReLU(),
        nn.Linear(32, num_classes),
    )
