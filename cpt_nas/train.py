"""Training as Algorithm 1 of arXiv 2411.09127: weights and gates together, cutting on the way.

`train` reads top-down: set up, then per mini-batch the loss with the gates' price on it, one step
of the weights, one of theta, a cut when something has closed. The rest of the file is what a run
folder needs: evaluation, history, checkpoints that resume to the same result.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from rich.console import Console
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import hwprofiles
from cpt_nas import checkpoint, cut, runfolder
from cpt_nas.config import Recipe
from cpt_nas.cost import Cost, build_cost
from cpt_nas.data import Batches, load_data
from cpt_nas.export import export
from cpt_nas.progress import Progress
from cpt_nas.search import Search
from cpt_nas.structure import Structure, cut_to, dense_structure, load_structure


@dataclass
class State:
    """Everything that changes while training; ``structure`` is the dense network's."""

    model: nn.Module
    search: Search | None
    cost: Cost
    structure: Structure
    given: Structure | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    ema: ModelEmaV3 | None
    epoch: int = 0
    step: int = 0
    macs_spent: float = 0.0
    wall_s: float = 0.0
    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def judged(self) -> nn.Module:
        """The network that is evaluated and exported: the EMA's where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def live_structure(self) -> Structure:
        if self.search is not None:
            return self.search.structure()
        return self.structure if self.given is None else self.given


def train(
    recipe: Recipe, output: Path, *, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Run a recipe; write and return its result.

    Args:
        recipe: checked by :func:`cpt_nas.config.load_recipe`.
        output: the run folder; must be new or empty unless resuming.
        resume: go on from the folder's last checkpoint. On CPU the result is that of an
            uninterrupted run.
        console: where progress goes.

    Raises:
        ValueError: bad data, model, profile or folder; nothing has been written then.
    """
    rank, world = _join_processes()
    device = _device(recipe.train.device)
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    hwprofiles.keep_freed_memory()  # otherwise the kernel clears pages anew in every step
    torch.manual_seed(recipe.train.seed)
    if not resume:
        runfolder.refuse_used(output)
        _check_profile(recipe)
    console = console or Console(stderr=True, quiet=rank > 0)

    data = load_data(recipe.data, recipe.train, rank=rank, world=world, console=console)
    given = recipe.model.structure
    if resume and given is not None:
        given = str(output / "structure.json")
    state = _build(recipe, data, device, load_structure(given) if given is not None else None)
    if resume:
        _restore(state, output, data, device)
    if rank == 0 and not resume:
        runfolder.start(output, recipe, state.search.profile if state.search else None)
    network = _wrap(state.model, world)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.train.smoothing)
    amp = torch.autocast(device.type, torch.bfloat16) if recipe.train.amp else nullcontext()

    with Progress(console, recipe.train.epochs, data.steps) as progress:
        for epoch in range(state.epoch, recipe.train.epochs):
            began = time.perf_counter()
            spent_before = state.macs_spent
            live_macs = state.cost.of_structure(state.live_structure())["macs"]
            meter = Meter(device)
            state.model.train()
            for x, y in data.train(epoch, device):
                with amp:
                    logits = network(x)
                    loss = criterion(logits, y)
                meter.add(loss.detach(), logits.detach(), y)
                if state.search is not None:
                    loss = loss + state.search.penalty()
                state.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.train.clip_grad is not None:
                    nn.utils.clip_grad_norm_(state.model.parameters(), recipe.train.clip_grad)
                state.optimizer.step()
                state.macs_spent += live_macs * len(y) * world
                if state.search is not None and state.search.step(state.optimizer, state.ema):
                    network = _wrap(state.model, world)
                    live_macs = state.cost.of_structure(state.live_structure())["macs"]
                state.step += 1
                state.scheduler.step_update(state.step)
                if state.ema is not None:
                    state.ema.update(state.model, step=state.step)
                progress.advance(meter, state.search, state.structure)
            state.epoch = epoch + 1
            test = evaluate(state.judged(), data, device, amp) if rank == 0 else (0.0, 0.0)
            state.wall_s += time.perf_counter() - began
            row = _row(state, meter, test, time.perf_counter() - began, data, spent_before, world)
            state.history.append(row)
            progress.epoch(row)
            if rank == 0:
                _save(state, output, recipe, data)
            if world > 1:
                dist.barrier()

    return _finish(state, recipe, output, data, device, rank)


class Meter:
    """Mean loss and accuracy of an epoch, kept on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        right = (logits.argmax(1) == y).sum()
        self.sums += torch.stack([loss.double() * len(y), right.double(), right.new_tensor(len(y))])

    def read(self) -> tuple[float, float]:
        """(mean loss, accuracy in percent), over all processes."""
        sums = self.sums.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        loss, right, n = sums.tolist()
        return loss / max(n, 1), 100 * right / max(n, 1)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Batches, device: torch.device, amp: Any = None
) -> tuple[float, float]:
    """(mean cross-entropy, accuracy in percent) on the test pictures."""
    model.eval()
    loss, right, n = 0.0, 0, 0
    for x, y in data.test(device):
        with amp or nullcontext():
            logits = model(x)
        loss += float(nn.functional.cross_entropy(logits.float(), y, reduction="sum"))
        right += int((logits.argmax(1) == y).sum())
        n += len(y)
    return loss / n, 100 * right / n


# ---- setting up -------------------------------------------------------------------------------


def _join_processes() -> tuple[int, int]:
    """(rank, world size); joins torchrun's group where there is one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return int(os.environ.get("RANK", "0")), world


def _device(name: str) -> torch.device:
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"train.device: {name}: no CUDA device here; use cpu")
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(name)
    return torch.device(name)


def create_model(recipe: Recipe, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The recipe's dense model, and the keyword arguments it was made with.

    Raises:
        ValueError: timm has no such model, or it does not take these arguments.
    """
    name = recipe.model.name
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"model.name: timm has no model {name!r}; timm.list_models() lists them")
    kwargs = {"num_classes": num_classes, "in_chans": recipe.data.input_size[0]}
    kwargs |= recipe.model.kwargs
    try:
        return timm.create_model(name, **kwargs), kwargs
    except TypeError as error:
        raise ValueError(f"model.kwargs: {kwargs}: {error}") from None


def _check_profile(recipe: Recipe) -> None:
    """The profile has to be the target's: where the network is to run, not where it trains."""
    search = recipe.search
    if search is not None and search.profile:
        profile = hwprofiles.load(search.profile)
        hwprofiles.require_target(profile, search.target, search.allow_foreign)


def _build(recipe: Recipe, data: Batches, device: torch.device, given: Structure | None) -> State:
    t = recipe.train
    model, kwargs = create_model(recipe, data.num_classes)
    model.to(device)
    if t.channels_last:
        model.to(memory_format=torch.channels_last)
    example = torch.zeros(1, *recipe.data.input_size, device=device)
    structure = dense_structure(model, recipe.model.name, kwargs)
    search = None
    if recipe.search is not None:
        settings = recipe.search.settings(t.epochs * data.steps, t.seed)
        profile = hwprofiles.load(recipe.search.profile) if recipe.search.profile else None
        search = Search(model, example, profile, settings, kwargs)
        structure = search.structure()
    cost = search.price.cost if search is not None else build_cost(model, example).to(device)
    if given is not None:
        same = {"architecture": structure.architecture, "model_kwargs": kwargs}
        given = given.model_copy(update=same)
        cut_to(model, given)
    optimizer = create_optimizer_v2(
        model, opt=t.opt, lr=t.lr, weight_decay=t.weight_decay, momentum=t.momentum
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=t.sched,
        num_epochs=t.epochs,
        min_lr=t.min_lr,
        warmup_epochs=t.warmup_epochs,
        warmup_lr=t.lr / 100,
        updates_per_epoch=data.steps,
        step_on_epochs=False,
    )
    scheduler.step_update(0)
    ema = ModelEmaV3(model, decay=t.model_ema_decay, use_warmup=True) if t.model_ema else None
    return State(model, search, cost, structure, given, optimizer, scheduler, ema)


def _wrap(model: nn.Module, world: int) -> nn.Module:
    """The model under DDP, anew after each cut: its buckets hold the old shapes."""
    return nn.parallel.DistributedDataParallel(model) if world > 1 else model


# ---- the run folder ---------------------------------------------------------------------------


def _row(
    state: State,
    meter: Meter,
    test: tuple[float, float],
    epoch_s: float,
    data: Batches,
    spent_before: float,
    world: int,
) -> dict[str, Any]:
    structure, search = state.live_structure(), state.search
    live, dense = state.cost.of_structure(structure), state.cost.of_structure(state.structure)
    train_loss, train_acc = meter.read()
    dense_spent = dense["macs"] * state.step * data.batch_size * world
    return {
        "epoch": state.epoch,
        "step": state.step,
        "lr": state.optimizer.param_groups[0]["lr"],
        "log_gamma": search.log_gamma if search is not None and not search.frozen else float("nan"),
        "train_loss": train_loss,
        "train_acc": train_acc,
        "test_loss": test[0],
        "test_acc": test[1],
        "expected_cost": search.expected_cost() if search is not None else 1.0,
        "macs": live["macs"],
        "params": live["params"],
        "macs_ratio": live["macs"] / dense["macs"],
        "params_ratio": live["params"] / dense["params"],
        "branches_left": structure.branches_left,
        "units_left": structure.units_left,
        "undecided": search.undecided() if search is not None else 0.0,
        "epoch_s": epoch_s,
        "train_macs": state.macs_spent - spent_before,
        "train_load": state.macs_spent / dense_spent,
    }


def _save(state: State, output: Path, recipe: Recipe, data: Batches) -> None:
    row = state.history[-1]
    saved: dict[str, Any] = {
        "version": 2,
        "arch": recipe.model.name,
        "epoch": state.epoch,
        "step": state.step,
        "metric": row["test_acc"],
        "state_dict": dict(cut.plain_state_dict(state.model)),
        "optimizer": checkpoint.optimizer_state(state.model, state.optimizer),
        "structure": state.live_structure().model_dump(),
        "search": state.search.state_dict() if state.search is not None else None,
        "data": data.state_dict(),
        "rng": torch.get_rng_state(),
        "macs_spent": state.macs_spent,
        "wall_s": state.wall_s,
        "best": max(state.best, row["test_acc"]),
        "history": state.history,
    }
    if torch.cuda.is_available():
        saved["cuda_rng"] = torch.cuda.get_rng_state_all()
    if state.ema is not None:
        saved["state_dict_ema"] = dict(cut.plain_state_dict(state.ema.module))
    runfolder.write_history(output, state.history)
    if state.search is not None:
        runfolder.write_trace(output, state.search)
    state.live_structure().save(output / "structure.json")
    checkpoint.save(saved, output / "last.pth.tar")
    if recipe.train.checkpoint_hist:
        checkpoint.save(saved, output / f"checkpoint-{state.epoch}.pth.tar")
        old = output / f"checkpoint-{state.epoch - recipe.train.checkpoint_hist}.pth.tar"
        old.unlink(missing_ok=True)
    if row["test_acc"] > state.best:
        state.best = row["test_acc"]
        checkpoint.save(saved, output / "model_best.pth.tar")


def _restore(state: State, output: Path, data: Batches, device: torch.device) -> None:
    saved = checkpoint.load(output / "last.pth.tar", torch.device("cpu"))
    if (saved["search"] is None) != (state.search is None):
        raise ValueError(f"resume: {output}: its recipe and its checkpoint differ about the search")
    if state.search is not None:
        # Gates first: they bring the model, and a copy made of it, to the saved shapes.
        state.search.load_state_dict(saved["search"])
    if state.ema is not None:
        fresh = ModelEmaV3(state.model, decay=state.ema.decay, use_warmup=True)
        state.ema = fresh
        cut.load_plain_state_dict(fresh.module, saved["state_dict_ema"])
    cut.load_plain_state_dict(state.model, saved["state_dict"])
    checkpoint.load_optimizer_state(state.model, state.optimizer, saved["optimizer"])
    cut.check_optimizer(state.model, state.optimizer)
    state.epoch, state.step = saved["epoch"], saved["step"]
    state.scheduler.step_update(state.step)
    state.macs_spent, state.wall_s = saved["macs_spent"], saved["wall_s"]
    state.best, state.history = saved["best"], saved["history"]
    data.load_state_dict(saved["data"])
    torch.set_rng_state(saved["rng"])
    if device.type == "cuda" and "cuda_rng" in saved:
        torch.cuda.set_rng_state_all(saved["cuda_rng"])


def _finish(
    state: State, recipe: Recipe, output: Path, data: Batches, device: torch.device, rank: int
) -> dict[str, Any]:
    if state.search is not None:
        state.search.finish(state.optimizer, state.ema)
    if rank != 0:
        return {}
    structure = state.live_structure()
    loss, accuracy = evaluate(state.judged(), data, device)
    structure.save(output / "structure.json")
    export(
        structure,
        cut.plain_state_dict(state.judged()),
        output / "export",
        input_size=list(recipe.data.input_size),
        mean=list(data.mean),
        std=list(data.std),
        label_names=list(data.classes),
    )
    runfolder.write_layers(output, state.cost, state.structure, structure)
    if state.search is not None:
        runfolder.write_trace(output, state.search)
    live, dense = state.cost.of_structure(structure), state.cost.of_structure(state.structure)
    search = state.search
    result = {
        "status": "finished",
        "kind": recipe.kind,
        "model": recipe.model.name,
        "test_acc": accuracy,
        "test_loss": loss,
        "macs": live["macs"],
        "params": live["params"],
        "macs_dense": dense["macs"],
        "params_dense": dense["params"],
        "branches": structure.branches_left,
        "branches_dense": state.structure.branches_left,
        "units": structure.units_left,
        "units_dense": state.structure.units_left,
        "train_load": state.history[-1]["train_load"],
        "wall_s": state.wall_s,
        "seed": recipe.train.seed,
        "epochs": recipe.train.epochs,
        "cost": search.price.cost_name if search is not None else "none",
        "profile": search.profile.name if search is not None and search.profile else None,
        "profile_fingerprint": (
            search.profile.fingerprint_id if search is not None and search.profile else None
        ),
        **_found(search),
        **runfolder.provenance(),
    }
    runfolder.write_result(output, result)
    return result


def _found(search: Search | None) -> dict[str, Any]:
    """What the result says of the search."""
    if search is None:
        return {"log_gamma": None, "alpha": None, "kappa": None}
    live, price = search.live_costs(), search.price
    return {
        "log_gamma": search.log_gamma,
        "alpha": price.alpha,
        "kappa": price.kappa,
        "budgets": price.budgets,
        "binding": price.binding(),
        "reached": {measure: live[measure] for measure in price.budgets},
        "dense_costs": price.dense,
        "forced": search.forced,
        "undecided_at_freeze": search.undecided_at_freeze,
    }
