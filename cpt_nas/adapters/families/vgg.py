"""timm.models.vgg: a model is one chain without skips, so it has unit gates only."""

from __future__ import annotations

from dataclasses import replace

from timm.models.vgg import VGG
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Count, Refusal
from cpt_nas.adapters.chains import unit_groups


@REGISTRY.add(VGG)
def vgg(model: nn.Module) -> list[Branch] | Refusal:
    """The chain is all convolutions and the two of the head, whose last outputs are not cut."""
    assert isinstance(model, VGG)
    head = ("pre_logits.fc1", "pre_logits.act1", "pre_logits.drop", "pre_logits.fc2")
    groups, uncut = unit_groups(model, ("features", *head))
    kept = []
    for group in groups:
        counts = list(group.counts)
        if f"features.{len(model.features) - 2}" in group.produced_by:
            counts.append(Count("", "num_features"))
        made = group.produced_by
        if (
            "pre_logits.fc1" in group.consumed_by
        ):  # small images are pooled to the size of its kernel
            made = made | {"pre_logits:adaptive_avg_pool2d": 1}
        kept.append(replace(group, counts=tuple(counts), produced_by=made))
    return [Branch("features", tuple(kept), (), "", (), None, "it has no skip connection", uncut)]
