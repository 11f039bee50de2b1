"""Putting a search onto a model: what is refused before anything has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hwprofiles
from cpt_nas.gates.mount import is_gated
from cpt_nas.search.search import Search
from cpt_nas.search.settings import SearchConfig, SearchSettings
from hwprofiles import Profile


def attach(
    model: nn.Module,
    example_input: Tensor,
    profile: Profile | str | Path | None = None,
    *,
    total_steps: int | None = None,
    model_kwargs: dict[str, Any] | None = None,
    allow_foreign: bool = False,
    **settings: Any,
) -> Search:
    """Put gates into a timm model, in place, and return the search that drives them.

    Args:
        model: an uncut model with an adapter for its blocks (``cpt-nas inspect`` tells).
        example_input: one input batch, for tracing layer sizes; values do not matter.
        profile: a cost profile, or its file or shipped name. Needed for ``cost="latency"`` and
            for ``latency_budget``.
        total_steps: optimizer steps of the whole training. With it the settings are those of a
            recipe's search section, with warmup, ramp and freeze as shares of the training and
            their defaults; without it, warmup_steps, ramp_steps and freeze_step.
        allow_foreign: the profile may be of another machine: the network is to run there.
        model_kwargs: what the model was created with, kept in the structure for rebuilding;
            default: what timm remembers. Whether timm makes the model again is tried, and a
            warning says what differs.
        **settings: see :class:`cpt_nas.search.settings.SearchSettings`: latency_budget and the
            like, or log_gamma (pruning level); alpha (computation against parameters), kappa
            (layers against units), estimator, ...

    Raises:
        ValueError: a setting out of range, nothing to gate, a model that is wrapped or has gates
            already, an input that it cannot be run on, a profile that lacks layers or is of
            another machine, or a budget that cannot be met. The model is as it was then.
    """
    check_model(model)
    check_input(example_input)
    if model_kwargs is not None and not isinstance(model_kwargs, dict):
        raise ValueError(f"model_kwargs: a {type(model_kwargs).__name__}; must be a dictionary")
    if total_steps is None:
        checked = SearchSettings.from_mapping(settings)
    elif isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(f"total_steps: {total_steps!r}, must be a whole number of at least 1")
    else:
        seed = settings.pop("seed", 0)
        checked = SearchConfig.from_mapping(settings).settings(total_steps, seed)
    if isinstance(profile, str | Path):
        profile = hwprofiles.load(profile)
    if not isinstance(profile, Profile | None):
        raise ValueError(f"profile: a {type(profile).__name__}; must be a Profile or its file")
    if profile is not None:
        hwprofiles.require_target(profile, allow_foreign=allow_foreign)
    return Search(model, example_input, profile, checked, model_kwargs)


def check_model(model: object) -> None:
    """A plain module that gates can be put into.

    Raises:
        ValueError: it is none, is wrapped or compiled, or has gates already.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model: a {type(model).__name__}; must be a model, as timm.create_model makes it"
        )
    for name, module in model.named_modules():
        where = f"{name}: " if name else ""
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ValueError(
                f"model: {where}wrapped in {type(module).__name__}; attach to what is inside "
                "(.module) and wrap it afterwards"
            )
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ValueError(f"model: {where}compiled; attach to the model that it was made from")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"model: {where}a {type(module).__name__}; attach before scripting")
    if not any(True for _ in model.parameters()):
        raise ValueError(f"model: {type(model).__name__} has no parameters")
    if is_gated(model):
        raise ValueError(
            "model: it has the gates of a search already; finish that search, or make it anew"
        )


def check_input(example_input: object) -> None:
    """A batch of inputs.

    Raises:
        ValueError: it is no tensor, holds no example, or lacks the dimension of the batch.
    """
    if not isinstance(example_input, Tensor):
        raise ValueError(
            f"example_input: a {type(example_input).__name__}; must be a tensor, one batch "
            "[B, C, H, W]"
        )
    shape = tuple(example_input.shape)
    if len(shape) not in (2, 4) or 0 in shape:
        raise ValueError(f"example_input: shape {shape}; must be one batch [B, C, H, W]")
