"""The input that trained weights want, for a recipe that does not say another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

KEYS = ("input_size", "mean", "std")


def with_trained_input(values: Any) -> Any:
    """A recipe's values, with size and normalisation where the weights' own are not overruled.

    They are those of timm's pretrained config, or of a config.json beside the checkpoint. A key
    that is there is stated, null included. What is wrong with the values is not said here.

    Args:
        values: of a whole recipe, before they are checked.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), Mapping):
        return values
    model, data = values["model"], values.get("data", {})
    if not isinstance(data, Mapping) or not isinstance(model.get("name"), str):
        return values
    if model.get("pretrained") is not True and model.get("checkpoint") is None:
        return values
    own = _config_of(model["name"]) | _config_beside(model.get("checkpoint"))
    size = data.get("input_size", own.get("input_size"))
    if isinstance(size, list | tuple) and size and size[0] == 1:  # grey: the colours' average
        for key in ("mean", "std"):
            if len(own.get(key, ())) == 3:
                own[key] = (round(sum(own[key]) / 3, 4),)
    return {**values, "data": own | dict(data)}


def _config_of(name: str) -> dict[str, Any]:
    """What timm says of the weights of a name."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm's word for a tag that it does not know
        return {}
    return {} if config is None else {key: getattr(config, key) for key in KEYS}


def _config_beside(checkpoint: Any) -> dict[str, Any]:
    """What a folder says of the weights in it, as timm's hub and exports have it."""
    if not isinstance(checkpoint, str) or "\0" in checkpoint:
        return {}
    try:
        content = (Path(checkpoint).parent / "config.json").read_text(encoding="utf-8")
        config = json.loads(content)["pretrained_cfg"]
        return {key: tuple(config[key]) for key in KEYS if config.get(key) is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's file
        return {}
