"""Where a model comes from: whether timm makes it again from a name and keyword arguments.

What is exported is rebuilt so. A layer swapped by hand, or an argument that was not told, would
come back as another network; so it is tried once, before anything has been trained.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cpt_nas.adapters.chains import is_silent
from cpt_nas.pruning.arguments import fits_json, refuse_strange_name, without_loading
from cpt_nas.pruning.probe import outputs, outputs_of, probe_input, same, shaken
from cpt_nas.pruning.search_space import SearchSpace
from cpt_nas.pruning.structure import Structure, dense_structure
from cpt_nas.pruning.trial import REASON, failures

ONLY = "its state_dict and structure can be saved, but no exported folder"


def explore(
    model: nn.Module,
    space: SearchSpace,
    example_input: Tensor,
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Structure, dict[str, str]]:
    """The dense structure of a model, and which branches of it are not to be gated after all.

    Warns where timm does not make the model again: then its export is refused, and every branch is
    tried (:mod:`cpt_nas.pruning.trial`).

    Args:
        model: uncut, without gates. Copies of it run; it is left as it is.
        space: its whole search space.
        example_input: a batch that it takes.
        model_kwargs: what it was created with; default: what timm remembers of it.

    Returns:
        The structure; branch name -> why it is not gated.
    """
    given = getattr(model, "_model_args", {}) if model_kwargs is None else model_kwargs
    kwargs, loading = without_loading(given)
    if loading and model_kwargs is not None:
        _say(f"model_kwargs: {', '.join(loading)}: where weights come from is left out")
    config = getattr(model, "pretrained_cfg", None)
    name = (config.get("architecture") or "") if isinstance(config, Mapping) else ""
    gated = any(b.branch.groups or b.branch.remove for b in space.branches)
    differs = difference(model, name, kwargs, example_input) if gated else ""
    if differs:
        _say(f"model: {differs}; {ONLY}")
    plain = {key: value for key, value in kwargs.items() if fits_json(value)}
    dense = dense_structure(space, name, json.loads(json.dumps(plain)))
    strange = failures(model, space, example_input) if differs else {}
    if strange:
        name, *more = strange
        others = f" and {len(more)} more branches" if more else ""
        _say(f"model: {name}{others} cannot be gated: {REASON}")
    return dense.model_copy(update={"differs": differs}), strange


def _say(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def difference(
    model: nn.Module, name: str, kwargs: Mapping[str, Any], example_input: Tensor
) -> str:
    """How a model differs from ``timm.create_model(name, **kwargs)``; '' where it does not."""
    for key, value in kwargs.items():
        if not fits_json(value):
            return (
                f"model_kwargs.{key} is {_short(value)}, which no file holds; give numbers, names"
                " (as 'silu' for nn.SiLU) or lists of them"
            )
    if kwargs.get("features_only"):
        return "it is a feature extractor (features_only)"
    try:
        refuse_strange_name("name", name)
    except ValueError:
        return f"{type(model).__name__} is not made by timm under a name"
    arguments = ", ".join([repr(name), *(f"{k}={_short(v)}" for k, v in kwargs.items())])
    try:
        with torch.random.fork_rng(devices=[]):
            again = timm.create_model(name, **json.loads(json.dumps(dict(kwargs))))
    except Exception as error:  # whatever a constructor raises at arguments that do not fit
        return f"timm.create_model({arguments}) fails: {_short(error)}"
    unlike = _unlike(model, again, example_input)
    return f"it is not what timm.create_model({arguments}) makes: {unlike}" if unlike else ""


def _short(value: object) -> str:
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _unlike(model: nn.Module, again: nn.Module, example_input: Tensor) -> str:
    """The first difference of a model and of one made anew; '' where they are the same."""
    for what in (_kinds, _shapes):
        mine, theirs = what(model), what(again)
        for name in dict.fromkeys([*mine, *theirs]):
            if mine.get(name) != theirs.get(name):
                here = mine.get(name) or _silent_kind(model, name)
                there = theirs.get(name) or _silent_kind(again, name)
                return f"{name or 'the model'} is {here}, there {there}"
    dtype = next(model.parameters()).dtype
    twin, x = shaken(model, dtype), probe_input(example_input, dtype)
    again.to(example_input.device, dtype).load_state_dict(twin.state_dict())
    wanted = outputs_of(twin, x)
    if same(outputs(again.eval(), x), wanted):
        return ""
    return "its layers are the same, its output is not"


def _kinds(model: nn.Module) -> dict[str, str]:
    """The modules that do something -> their classes."""
    return {n: type(m).__name__ for n, m in model.named_modules() if not is_silent(m)}


def _silent_kind(model: nn.Module, name: str) -> str:
    found = dict(model.named_modules()).get(name)
    return "missing" if found is None else type(found).__name__


def _shapes(model: nn.Module) -> dict[str, str]:
    return {n: str(tuple(t.shape)) for n, t in model.state_dict().items()}
