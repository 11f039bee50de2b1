"""Training as Algorithm 1 of arXiv 2411.09127: weights and gates together, cutting on the way.

`train` reads top-down: open the folder, set up, learn, finish. `learn` is the algorithm: per
mini-batch the loss plus the regularizer, one step of the weights, one of theta, and a cut when
something has closed.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn

import hwprofiles
from cpt_nas.data.batches import Batches
from cpt_nas.data.load import load_data
from cpt_nas.train import checkpoint, run_folder
from cpt_nas.train.divergence import LossWatch, refuse_diverged, told
from cpt_nas.train.evaluate import Meter, evaluate
from cpt_nas.train.opening import opened
from cpt_nas.train.processes import joined
from cpt_nas.train.progress import Progress
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.results import finish, history_row
from cpt_nas.train.setup import (
    autocast,
    build_training,
    choose_device,
    given_structure,
    load_profile,
    wrap,
)
from cpt_nas.train.state import TrainingState
from hwprofiles.cost_profile import describe_setting
from hwprofiles.streams import PlainConsole


def train(
    recipe: Recipe, output: Path, *, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Run a recipe; write and return its result.

    Args:
        recipe: checked by :func:`cpt_nas.train.recipe.load_recipe`.
        output: the run folder; must be new or empty unless resuming.
        resume: go on from the folder's last checkpoint, or from the beginning where there is none
            yet. On CPU the result is that of an uninterrupted run.
        console: where progress goes.

    Raises:
        ValueError: bad data, model, profile or folder, a folder that another process writes, or a
            checkpoint that does not fit the recipe; nothing has been written then.
        DivergedError: the loss or a weight is not finite; the last good checkpoint stays.
        OSError: the folder cannot be written, or another process of this training has ended.
    """
    with joined() as (rank, world), opened(output, recipe, resume=resume, rank=rank):
        device = choose_device(recipe.train.device)
        if recipe.train.threads is not None:
            torch.set_num_threads(recipe.train.threads)
        hwprofiles.keep_freed_memory()  # otherwise the kernel clears pages anew in every step
        torch.manual_seed(recipe.train.seed)
        console = console or PlainConsole(stderr=True, quiet=rank > 0)

        saved = checkpoint.load_last(output, recipe) if resume else None
        profile = load_profile(recipe, output / run_folder.PROFILE if resume else None)
        if profile is not None:
            of = f"{profile.fingerprint.device.name}, fingerprint {profile.fingerprint_id}"
            line = f"profile {profile.name}: {describe_setting(profile)}; {of}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            for doubt in profile.doubts():
                console.print(f"profile {profile.name} is doubtful: {doubt}", soft_wrap=True)
        data = load_data(recipe.data, recipe.train, rank=rank, world=world, console=console)
        given = given_structure(recipe, saved, output / run_folder.STRUCTURE if resume else None)
        state = build_training(
            recipe,
            data,
            device,
            profile,
            given,
            resumed=output if saved is not None else None,
            console=console if rank == 0 else None,
        )
        if state.search is not None:
            for line in state.search.law.lines():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        if saved is not None:
            checkpoint.restore_checkpoint(state, saved, output, data, device)
        if rank == 0:
            checkpoint.begin(state, saved, output, recipe, profile, data, console)
        with told(state, output):
            learn(state, recipe, output, data, device, console, rank, world)
        return finish(state, recipe, output, data, device, rank, console)


def watching(state: TrainingState) -> AbstractContextManager[dict[str, Tensor]]:
    """Collect the network's features where a teacher has its own."""
    if state.distillation is None:
        return nullcontext({})
    return state.distillation.watching(state.model)


def learn(
    state: TrainingState,
    recipe: Recipe,
    output: Path,
    data: Batches,
    device: torch.device,
    console: Console,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Algorithm 1, from where ``state`` is to the last epoch; a checkpoint after each."""
    watch = LossWatch(output, device)
    network = wrap(state.model, world)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.train.smoothing)
    amp = autocast(recipe, device)
    taught = state.distillation.macs if state.distillation is not None else 0.0

    with Progress(console, recipe.train.epochs, data.steps, done=state.epoch) as progress:
        for epoch in range(state.epoch, recipe.train.epochs):
            began = time.perf_counter()
            spent_before = state.macs_spent
            live_macs = state.cost.of_structure(state.live_structure())["macs"]
            meter = Meter(device)
            state.model.train()
            for x, y in data.train(epoch, device):
                with amp, watching(state) as features:
                    logits = network(x)
                    loss = criterion(logits, y)
                meter.add(loss.detach(), logits.detach(), y)
                if state.distillation is not None:
                    with amp:
                        loss = state.distillation.loss(loss, logits, x, features)
                if state.search is not None:
                    loss = loss + state.search.penalty()
                watch.see(loss, state)
                state.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.train.clip_grad is not None:
                    nn.utils.clip_grad_norm_(state.model.parameters(), recipe.train.clip_grad)
                state.optimizer.step()
                state.macs_spent += (live_macs + taught) * len(y) * world
                if state.search is not None and state.search.step(state.optimizer, state.ema):
                    network = wrap(state.model, world)
                    live_macs = state.cost.of_structure(state.live_structure())["macs"]
                state.step += 1
                state.scheduler.step_update(state.step)
                if state.ema is not None:
                    state.ema.update(state.model, step=state.step)
                progress.advance(meter, state.search, state.structure)
            watch.check(state)
            state.epoch = epoch + 1
            test = evaluate(state.judged(), data, device, amp) if rank == 0 else (0.0, 0.0)
            refuse_diverged(state, test[0], output)
            state.wall_s += time.perf_counter() - began
            row = history_row(
                state, meter, test, time.perf_counter() - began, data, spent_before, world
            )
            state.history.append(row)
            progress.epoch(row)
            if rank == 0:
                checkpoint.save_checkpoint(state, output, recipe, data)
            if world > 1:
                dist.barrier()
