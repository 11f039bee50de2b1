"""Checkpoints in timm's layout plus the structure, so that resume can rebuild shapes.

Everything goes by the plain model's parameter names: gates being in or out does not matter.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpt_nas.cut import plain_name


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain data only, no code is run.

    Raises:
        ValueError: no checkpoint there, or it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"resume: {path.parent} has no {path.name}")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise ValueError(
            f"resume: {path} is damaged: {' '.join(str(error).split())[:100]}"
        ) from None
    return state


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name, and its groups' settings with their members."""
    names = {id(p): plain_name(n) for n, p in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        settings = {k: v for k, v in group.items() if k != "params"}
        groups.append(settings | {"names": [names[id(p)] for p in group["params"]]})
    state = {names[id(p)]: dict(values) for p, values in optimizer.state.items()}
    return {"groups": groups, "state": state}


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Any]
) -> None:
    """Give a fresh optimizer over ``model`` the saved state and the saved order of parameters."""
    parameters = {plain_name(n): p for n, p in model.named_parameters()}
    for group, kept in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({k: v for k, v in kept.items() if k != "names"})
        group["params"] = [parameters[n] for n in kept["names"]]
    optimizer.state.clear()
    for name, values in saved["state"].items():
        optimizer.state[parameters[name]] = {
            k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in values.items()
        }
