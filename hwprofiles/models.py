"""Models from timm's registry: made of a user's words, and tried at a user's input size."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn

from hwprofiles.messages import naming


def create_model(name: str, kwargs: Mapping[str, Any], words: str) -> nn.Module:
    """A model with random weights.

    Args:
        name: in timm's registry.
        kwargs: of its constructor.
        words: the fields that say both, for errors.

    Raises:
        ValueError: timm does not make it, or it has a layer without a width.
    """
    with naming(words):
        model: nn.Module = timm.create_model(name, **kwargs)
        empty = [n for n, p in model.named_parameters() if p.numel() == 0]
        if empty:
            raise ValueError(f"{empty[0]} has no elements, widths must be above 0")
    return model


def check_size(model: nn.Module, size: Sequence[int], field: str) -> None:
    """Run a model once on one example of zeros, in eval mode.

    Args:
        size: channels, height, width.
        field: that says the size, for errors.

    Raises:
        ValueError: it does not run.
    """
    training = model.training
    with naming(field), torch.no_grad():
        model.eval()(torch.zeros(1, *size))
    model.train(training)


def check_training(model: nn.Module, shape: Sequence[int], field: str) -> None:
    """Run a copy of a model once in training mode; random state stays as it was.

    Args:
        shape: batch, channels, height, width.
        field: that says what is tried, for errors.

    Raises:
        ValueError: it does not run, such as over a rate above 1 or a statistic of one value.
    """
    with naming(field), torch.no_grad(), torch.random.fork_rng(devices=[]):
        copy.deepcopy(model).train()(torch.zeros(*shape))
