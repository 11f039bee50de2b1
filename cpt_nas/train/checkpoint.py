"""A training's state as plain data, and back: what is written of it, in which order, and resumed.

Everything goes by the plain model's parameter names: gates being in or out does not matter. The
last checkpoint is written first. Everything else in the folder follows from it, and is written
again when the training goes on, so it does not matter where a training is killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import nn

from cpt_nas.data.batches import Batches
from cpt_nas.pruning import surgery
from cpt_nas.pruning.optimizer_state import check_held, optimizers_of
from cpt_nas.train import checkpoint_file, run_folder
from cpt_nas.train.checkpoint_file import BEST, LAST
from cpt_nas.train.distill import TEACHER
from cpt_nas.train.opening import has_epochs
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.run_rows import HistoryRow
from cpt_nas.train.state import TrainingState
from hwprofiles import Profile
from hwprofiles.messages import naming

OF_THE_MACHINE = ("data.root", "data.workers", "data.download", "train.device", "train.threads")
"""Keys of a recipe that may change between the parts of a training: where it runs, not what."""


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name, and its groups' settings with their members.

    ``wrapped`` holds the same of the optimizers that it wraps, as Lookahead does.
    """
    first, *wrapped = (_state_of(model, each) for each in optimizers_of(optimizer))
    return first | {"wrapped": wrapped}


def _state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    names = {id(p): n for n, p in model.named_parameters()}
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
    parameters = dict(model.named_parameters())
    for each, kept in zip(optimizers_of(optimizer), [saved, *saved["wrapped"]], strict=True):
        for group, members in zip(each.param_groups, kept["groups"], strict=True):
            group.update({k: v for k, v in members.items() if k != "names"})
            group["params"] = [parameters[n] for n in members["names"]]
        each.state.clear()
        for name, values in kept["state"].items():
            parameter = parameters[name]
            each.state[parameter] = {k: _beside(v, parameter) for k, v in values.items()}


def _beside(value: Any, parameter: torch.Tensor) -> Any:
    """A parameter's saved state, a tensor on its device; counts of steps stay on the CPU."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(parameter.device, copy=True) if value.dim() else value.clone()


def begin(
    state: TrainingState,
    saved: dict[str, Any] | None,
    output: Path,
    recipe: Recipe,
    profile: Profile | None,
    data: Batches,
    console: Console,
) -> None:
    """Bring the folder to where the training is: before its first step, or restored.

    There is a checkpoint before the first step, too. So it is known from the beginning whether one
    can be written, and by which recipe the training has begun.

    Args:
        saved: what the training was restored from; None where it begins.
    """
    if state.epoch < recipe.train.epochs:
        law = None if state.search is None else state.search.law
        run_folder.start(output, recipe, profile, state.given, law)
    if saved is None:
        if state.distillation is not None:
            state.distillation.write(output, recipe, dict(state.structure.model_kwargs))
        save_last(state, output, recipe, data)
        return
    for change in state.changes:
        console.print(
            f"from epoch {change['epoch'] + 1} on {change['key']} is {change['now']}, "
            f"was {change['was']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not settle_best(state, output):
        console.print(f"{BEST} of epoch {state.best_epoch} is gone", soft_wrap=True)
    write_rest(state, output, recipe.train.checkpoint_hist)


def save_checkpoint(state: TrainingState, output: Path, recipe: Recipe, data: Batches) -> None:
    """Write down an epoch that has ended: the last checkpoint, then all that follows from it."""
    accuracy = state.history[-1].test_acc
    if accuracy > state.best:
        state.best, state.best_epoch = accuracy, state.epoch
    save_last(state, output, recipe, data)
    write_rest(state, output, recipe.train.checkpoint_hist)


def save_last(state: TrainingState, output: Path, recipe: Recipe, data: Batches) -> None:
    """Write the last checkpoint, from which a resumed training and every table can be told."""
    device = next(state.model.parameters()).device
    saved: dict[str, Any] = {
        "checkpoint_version": checkpoint_file.VERSION,
        "arch": recipe.model.name,
        "epoch": state.epoch,
        "step": state.step,
        "metric": state.history[-1].test_acc if state.history else None,
        "state_dict": dict(state.model.state_dict()),
        "state_dict_ema": None,
        "optimizer": optimizer_state(state.model, state.optimizer),
        "structure": state.live_structure().model_dump(),
        "search": state.search.state_dict() if state.search is not None else None,
        "data": data.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "macs_spent": state.macs_spent,
        "wall_s": state.wall_s,
        "best": state.best,
        "best_epoch": state.best_epoch,
        "history": [dataclasses.asdict(row) for row in state.history],
        "recipe": recipe.model_dump(mode="json"),
        "profile": profile_of(state),
        "changes": state.changes,
        "weights": state.weights,
        "teacher": state.distillation.identity(output) if state.distillation else None,
    }
    if state.ema is not None:
        saved["state_dict_ema"] = dict(state.ema.module.state_dict())
    checkpoint_file.write(saved, output / LAST)


def write_rest(state: TrainingState, output: Path, kept: int) -> None:
    """What follows from the last checkpoint: copies of it and the tables. Idempotent.

    A training that was killed on the way here does it again when it goes on.

    Args:
        kept: checkpoints of epochs that stay, beside the last and the best.
    """
    last = output / LAST
    if state.history:
        if kept:
            checkpoint_file.copy(last, _of_epoch(output, state.epoch))
        if state.best_epoch == state.epoch:
            checkpoint_file.copy(last, output / BEST)
        run_folder.write_history(output, state.history)
    for path in output.glob("checkpoint-*.pth.tar"):
        number = path.name.removeprefix("checkpoint-").removesuffix(".pth.tar")
        if number.isdecimal() and not state.epoch - kept < int(number) <= state.epoch:
            path.unlink()
    if state.search is not None:
        run_folder.write_trace(output, state.search)
    run_folder.write_structure(output, state.live_structure())


def _of_epoch(output: Path, epoch: int) -> Path:
    return output / f"checkpoint-{epoch}.pth.tar"


def profile_of(state: TrainingState) -> str | None:
    """What tells the search's profile from every other; None without one."""
    if state.search is None or state.search.profile is None:
        return None
    return hashlib.sha256(state.search.profile.model_dump_json().encode()).hexdigest()


def load_last(output: Path, recipe: Recipe) -> dict[str, Any] | None:
    """A run's last checkpoint; None where it was stopped before it had one.

    Raises:
        ValueError: it is damaged or missing, or the recipe is another one by now; one line.
    """
    path = output / LAST
    if not path.exists() and not has_epochs(output):
        return None
    saved = checkpoint_file.read(path)
    with naming(f"resume: {path}: recipe is not one"):
        was = Recipe.model_validate(saved["recipe"]).flat()
    now = recipe.flat()
    if saved["arch"] != was["model.name"]:
        raise ValueError(f"resume: {path}: arch is {saved['arch']}, must be {was['model.name']}")
    differing = sorted(key for key in was | now if was.get(key) != now.get(key))
    wrong = [key for key in differing if key not in OF_THE_MACHINE]
    if wrong:
        shown = "; ".join(f"{k} is {now.get(k)}, was {was.get(k)}" for k in wrong[:3])
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"resume: {output / run_folder.RECIPE} was changed after {saved['epoch']} epochs: "
            f"{shown}{more}; put that back, or start another run"
        )
    saved["changes"] = saved["changes"] + [
        {"epoch": saved["epoch"], "key": key, "was": was[key], "now": now[key]} for key in differing
    ]
    return saved


def restore_checkpoint(
    state: TrainingState,
    saved: dict[str, Any],
    output: Path,
    data: Batches,
    device: torch.device,
) -> None:
    """Bring a freshly built training to the last checkpoint of its folder.

    Args:
        saved: by :func:`load_last`.

    Raises:
        ValueError: the checkpoint does not fit the training; names the entry.
    """
    of = f"resume: {output / LAST} does not fit this run:"
    if saved["profile"] != profile_of(state):
        raise ValueError(
            f"resume: {output / run_folder.PROFILE} is not the profile that the run was searched "
            "under; put that back, or start another run"
        )
    teacher = state.distillation.identity(output) if state.distillation else None
    if saved["teacher"] != teacher:
        raise ValueError(
            f"resume: {output / TEACHER} is not the teacher that the run began with; put that back,"
            " or start another run"
        )
    data.load_state_dict(saved["data"])
    with naming(f"{of} search"):
        if (saved["search"] is None) != (state.search is None):
            raise ValueError("the recipe and the checkpoint differ about it")
        if state.search is not None:
            # Gates first: they bring the model, and a copy made of it, to the saved shapes.
            state.search.load_state_dict(saved["search"])
    with naming(f"{of} state_dict_ema"):
        if state.ema is not None:
            state.ema = ModelEmaV3(state.model, decay=state.ema.decay, use_warmup=True)
            surgery.load_state_dict(state.ema.module, saved["state_dict_ema"])
    with naming(f"{of} state_dict"):
        surgery.load_state_dict(state.model, saved["state_dict"])
    with naming(f"{of} optimizer"):
        load_optimizer_state(state.model, state.optimizer, saved["optimizer"])
        check_held(state.model, [state.optimizer])
    with naming(f"{of} history"):
        state.history = [HistoryRow(**row) for row in saved["history"]]
        state.epoch, state.step = saved["epoch"], saved["step"]
        if [row.epoch for row in state.history] != list(range(1, state.epoch + 1)):
            raise ValueError(f"it must have a row for each of the {state.epoch} epochs")
        if state.step != state.epoch * data.steps:
            raise ValueError(f"{state.step} steps in {state.epoch} epochs of {data.steps}")
    state.scheduler.step_update(state.step)
    state.macs_spent, state.wall_s = saved["macs_spent"], saved["wall_s"]
    state.best, state.best_epoch = saved["best"], saved["best_epoch"]
    state.changes, state.weights = saved["changes"], saved["weights"]
    with naming(f"{of} rng"):
        torch.set_rng_state(saved["rng"])
        if device.type == "cuda" and saved["cuda_rng"] is not None:
            torch.cuda.set_rng_state(saved["cuda_rng"], device)


def settle_best(state: TrainingState, output: Path) -> bool:
    """See to it that the best checkpoint is the best epoch's, or is not there.

    It is wrong where somebody has removed it, or has gone back to an older checkpoint.

    Returns:
        Whether it is there, or none is due yet.
    """
    if state.best_epoch in (0, state.epoch):
        return True  # the rest is written anew then
    best = output / BEST
    for path in (best, _of_epoch(output, state.best_epoch)):
        if _epoch_of(path) == state.best_epoch:
            if path != best:
                checkpoint_file.copy(path, best)
            return True
    best.unlink(missing_ok=True)
    return False


def _epoch_of(path: Path) -> int | None:
    """The epoch of a checkpoint; None where it cannot be read."""
    try:
        return int(checkpoint_file.read(path)["epoch"])
    except ValueError:
        return None
