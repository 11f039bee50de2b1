"""What may stand in a structure or an exported folder as an argument of ``timm.create_model``.

Such files come from elsewhere. They say which network to build, with numbers, names and lists, and
nothing that makes timm open a file or the network.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import timm

_FACTORY = {n for n, p in inspect.signature(timm.create_model).parameters.items() if p.kind != 4}
LOADING = frozenset(
    _FACTORY - {"model_name"}
    | {"pretrained_model_args", "pretrained_strict", "pretrained_filter_fn", "pruned"}
)
"""Arguments of timm's factory itself: where weights come from, and how modules are compiled."""


def without_loading(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments that say what the network is, and the names of those that do not."""
    kept = {key: value for key, value in kwargs.items() if key not in LOADING}
    return kept, [key for key in kwargs if key in LOADING]


def refuse_loading(field: str, kwargs: Mapping[str, Any]) -> None:
    """Raise where an argument says where weights come from.

    Raises:
        ValueError: names the field, the argument and its value.
    """
    for key in without_loading(kwargs)[1]:
        raise ValueError(
            f"{field}.{key}: {kwargs[key]!r} says where weights come from, not what the network is;"
            " it is not allowed here"
        )


def refuse_strange_name(field: str, name: str) -> None:
    """Raise where a name is none of timm's registry: an address, a path, a pruned network.

    Raises:
        ValueError: names the field and the value.
    """
    if name.startswith("cpt_pruned") or not timm.is_model(name):
        raise ValueError(f"{field}: {name!r} is not the name of a network in timm's registry")


def fits_json(value: object, depth: int = 8) -> bool:
    """Whether it is made of numbers, strings, lists and mappings only."""
    if value is None or isinstance(value, bool | int | str):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if depth == 0:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and fits_json(v, depth - 1) for k, v in value.items())
    return isinstance(value, list | tuple) and all(fits_json(v, depth - 1) for v in value)
