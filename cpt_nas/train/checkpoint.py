"""Checkpoints in timm's layout plus the structure, so that resume can rebuild shapes.

Everything goes by the plain model's parameter names: gates being in or out does not matter.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from cpt_nas.data.batches import Batches
from cpt_nas.pruning import surgery
from cpt_nas.pruning.surgery import plain_name
from cpt_nas.train import run_folder
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.run_rows import HistoryRow
from cpt_nas.train.state import TrainingState


def write(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read(path: Path, device: torch.device) -> dict[str, Any]:
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


def save_checkpoint(state: TrainingState, output: Path, recipe: Recipe, data: Batches) -> None:
    """Write the tables and the checkpoint of an epoch that has ended."""
    row = state.history[-1]
    saved: dict[str, Any] = {
        "arch": recipe.model.name,
        "epoch": state.epoch,
        "step": state.step,
        "metric": row.test_acc,
        "state_dict": dict(surgery.plain_state_dict(state.model)),
        "optimizer": optimizer_state(state.model, state.optimizer),
        "structure": state.live_structure().model_dump(),
        "search": state.search.state_dict() if state.search is not None else None,
        "data": data.state_dict(),
        "rng": torch.get_rng_state(),
        "macs_spent": state.macs_spent,
        "wall_s": state.wall_s,
        "best": max(state.best, row.test_acc),
        "history": [dataclasses.asdict(row) for row in state.history],
    }
    if torch.cuda.is_available():
        saved["cuda_rng"] = torch.cuda.get_rng_state_all()
    if state.ema is not None:
        saved["state_dict_ema"] = dict(surgery.plain_state_dict(state.ema.module))
    run_folder.write_history(output, state.history)
    if state.search is not None:
        run_folder.write_trace(output, state.search)
    run_folder.write_structure(output, state.live_structure())
    write(saved, output / "last.pth.tar")
    if recipe.train.checkpoint_hist:
        write(saved, output / f"checkpoint-{state.epoch}.pth.tar")
        old = output / f"checkpoint-{state.epoch - recipe.train.checkpoint_hist}.pth.tar"
        old.unlink(missing_ok=True)
    if row.test_acc > state.best:
        state.best = row.test_acc
        write(saved, output / "model_best.pth.tar")


def restore_checkpoint(
    state: TrainingState, output: Path, data: Batches, device: torch.device
) -> None:
    """Bring a freshly built training to the last checkpoint of its folder.

    Raises:
        ValueError: no checkpoint, a damaged one, or one of another search.
    """
    saved = read(output / "last.pth.tar", torch.device("cpu"))
    if (saved["search"] is None) != (state.search is None):
        raise ValueError(f"resume: {output}: its recipe and its checkpoint differ about the search")
    if state.search is not None:
        # Gates first: they bring the model, and a copy made of it, to the saved shapes.
        state.search.load_state_dict(saved["search"])
    if state.ema is not None:
        fresh = ModelEmaV3(state.model, decay=state.ema.decay, use_warmup=True)
        state.ema = fresh
        surgery.load_plain_state_dict(fresh.module, saved["state_dict_ema"])
    surgery.load_plain_state_dict(state.model, saved["state_dict"])
    load_optimizer_state(state.model, state.optimizer, saved["optimizer"])
    surgery.check_optimizer(state.model, state.optimizer)
    state.epoch, state.step = saved["epoch"], saved["step"]
    state.scheduler.step_update(state.step)
    state.macs_spent, state.wall_s = saved["macs_spent"], saved["wall_s"]
    state.best = saved["best"]
    state.history = [HistoryRow(**row) for row in saved["history"]]
    data.load_state_dict(saved["data"])
    torch.set_rng_state(saved["rng"])
    if device.type == "cuda" and "cuda_rng" in saved:
        torch.cuda.set_rng_state_all(saved["cuda_rng"])
