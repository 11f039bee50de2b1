"""A training that starts from trained weights: whose they are, and do they work on these images?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import timm
import torch
from rich.console import Console
from torch import nn

from cpt_nas.data.batches import Batches
from cpt_nas.pretrained.loading import LoadedWeights, load_weights
from cpt_nas.train.evaluate import evaluate
from cpt_nas.train.recipe import Recipe
from hwprofiles.messages import naming
from hwprofiles.yaml_file import shortened


def start_weights(
    model: nn.Module, recipe: Recipe, kwargs: Mapping[str, Any]
) -> LoadedWeights | None:
    """Give a fresh model the weights that its recipe names; None where it names none.

    Args:
        kwargs: of the model.

    Raises:
        ValueError: they cannot be had, or do not fit; names the field.
    """
    if recipe.model.checkpoint is not None:
        return load_weights(model, recipe.model.checkpoint, field="model.checkpoint")
    if not recipe.model.pretrained:
        return None
    name = recipe.model.name
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ValueError(
            f"model.pretrained: timm has no weights of {shortened(name)}; model.checkpoint takes a"
            " file of them"
        )
    with naming(f"model.pretrained: the weights of {shortened(name)} cannot be had or taken"):
        with torch.random.fork_rng(devices=[]):
            trained = timm.create_model(name, pretrained=True, **kwargs)
        mine, theirs = model.state_dict(), trained.state_dict()
        new_head = config.num_classes != kwargs["num_classes"]
        heads = config.classifier if isinstance(config.classifier, tuple) else (config.classifier,)
        for key, tensor in mine.items():
            if not (new_head and key.startswith(tuple(f"{head}." for head in heads))):
                tensor.copy_(theirs[key])
    full = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    return LoadedWeights(source=f"timm's {full}", new_head=new_head)


def tried(
    model: nn.Module, weights: LoadedWeights, data: Batches, amp: Any, console: Console
) -> dict[str, Any]:
    """Run a model with trained weights on the test images, and say what it is.

    Weights may fit in every shape and still be of another network: one that pads, normalises or
    activates otherwise. The accuracy tells.

    Returns:
        Where the weights are from, as plain data, with ``test_acc`` in percent.
    """
    device = next(model.parameters()).device
    _, accuracy = evaluate(model, data, device, amp)
    chance = 100 / data.num_classes
    console.print(
        f"{weights.line()}; {accuracy:.1f} % of the test images right before training "
        f"(guessing: {chance:.1f} %)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return dataclasses.asdict(weights) | {"test_acc": accuracy}
