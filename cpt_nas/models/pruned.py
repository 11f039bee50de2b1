"""The name under which timm finds a network that was cut: ``cpt_pruned``."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from cpt_nas.models.cifar_resnet import cifar_cfg
from cpt_nas.pruning.structure import cut_to, load_structure

__all__ = ["cpt_pruned"]

default_cfgs = generate_default_cfgs({"cpt_pruned.untrained": cifar_cfg()})


def _build_pruned(base: str, structure: Any, **kwargs: Any) -> nn.Module:
    model: nn.Module = timm.create_model(base, **kwargs)
    return cut_to(model, load_structure(structure))


@register_model
def cpt_pruned(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A network cut to a structure; what an exported folder names as its architecture.

    Keyword arguments: ``base``, timm's name of the uncut network; ``structure``, a mapping or a
    JSON file (:mod:`cpt_nas.pruning.structure`); the rest goes to ``base``. The class is base's
    own.
    """
    feature_cfg: dict[str, Any] = {"feature_cls": "getter"}
    if kwargs.get("features_only"):  # timm takes five stages for granted
        stages = len(timm.create_model(kwargs["base"]).feature_info)
        feature_cfg["out_indices"] = tuple(range(stages))
    return build_model_with_cfg(
        _build_pruned, "cpt_pruned", pretrained, feature_cfg=feature_cfg, **kwargs
    )
