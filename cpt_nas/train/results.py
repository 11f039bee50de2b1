"""What a training has come to: after an epoch, and in the end."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cpt_nas.data.batches import Batches
from cpt_nas.pruning.export import check_export, export
from cpt_nas.train import run_folder
from cpt_nas.train.divergence import doubts, refuse_diverged, refuse_hopeless
from cpt_nas.train.evaluate import Meter, evaluate
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.run_rows import HistoryRow, Result, as_json
from cpt_nas.train.state import TrainingState
from hwprofiles.target import target_of


def history_row(
    state: TrainingState,
    meter: Meter,
    test: tuple[float, float],
    epoch_s: float,
    data: Batches,
    spent_before: float,
    world: int,
) -> HistoryRow:
    """What an epoch has come to."""
    structure, search = state.live_structure(), state.search
    live, dense = state.cost.of_structure(structure), state.cost.of_structure(state.structure)
    train_loss, train_acc = meter.read()
    dense_spent = dense["macs"] * state.step * data.batch_size * world
    return HistoryRow(
        epoch=state.epoch,
        step=state.step,
        lr=state.optimizer.param_groups[0]["lr"],
        log_gamma=search.log_gamma if search is not None and not search.frozen else float("nan"),
        train_loss=train_loss,
        train_acc=train_acc,
        test_loss=test[0],
        test_acc=test[1],
        expected_cost=search.expected_cost() if search is not None else 1.0,
        macs=live["macs"],
        params=live["params"],
        macs_ratio=live["macs"] / dense["macs"],
        params_ratio=live["params"] / dense["params"],
        branches_left=structure.branches_left,
        units_left=structure.units_left,
        undecided=search.undecided() if search is not None else 0.0,
        epoch_s=epoch_s,
        train_macs=state.macs_spent - spent_before,
        train_load=state.macs_spent / dense_spent,
    )


def finish(
    state: TrainingState,
    recipe: Recipe,
    output: Path,
    data: Batches,
    device: torch.device,
    rank: int,
    console: Console,
) -> dict[str, Any]:
    """Freeze, evaluate, export; write and return the result. Other ranks than 0 return {}.

    The result comes last: a run that says it is finished has everything.

    Raises:
        DivergedError: the finished network's weights or its loss are not finite, or it was
            finite and hopeless.
    """
    if state.search is not None:
        state.search.finish(state.optimizer, state.ema)
    if rank != 0:
        return {}
    structure = state.live_structure()
    loss, accuracy = evaluate(state.judged(), data, device)
    refuse_diverged(state, loss, output)
    refuse_hopeless(state, data, output)
    against = doubts(accuracy, data.test_images, data)
    for doubt in against:
        console.print(f"warning: {doubt}", markup=False, highlight=False, soft_wrap=True)
    run_folder.write_structure(output, structure)
    export_network(state, recipe, output, data)
    run_folder.write_layers(output, state.cost, state.structure, structure)
    if state.search is not None:
        run_folder.write_trace(output, state.search)
    live, dense = state.cost.of_structure(structure), state.cost.of_structure(state.structure)
    search = state.search
    profile = search.profile if search is not None else None
    result = Result(
        status="finished",
        kind=recipe.kind,
        model=recipe.model.name,
        test_acc=accuracy,
        test_loss=loss,
        macs=live["macs"],
        params=live["params"],
        macs_dense=dense["macs"],
        params_dense=dense["params"],
        branches=structure.branches_left,
        branches_dense=state.structure.branches_left,
        units=structure.units_left,
        units_dense=state.structure.units_left,
        train_load=state.history[-1].train_load,
        wall_s=state.wall_s,
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
        cost=search.law.cost if search is not None else "none",
        profile=None if profile is None else profile.name,
        profile_fingerprint=None if profile is None else profile.fingerprint_id,
        target=None if profile is None else target_of(profile),
        changes=state.changes,
        doubts=against,
        weights=state.weights,
        **(search.summary() if search is not None else {}),
        **run_folder.provenance(),
    )
    written: dict[str, Any] = as_json(dataclasses.asdict(result))
    run_folder.write_result(output, written)
    return written


def export_network(state: TrainingState, recipe: Recipe, output: Path, data: Batches) -> None:
    """Put the finished network into the run's export folder, whole or not at all.

    Raises:
        ValueError: what is loaded again is not the network that was trained.
    """
    unfinished, exported = output / run_folder.UNFINISHED_EXPORT, output / run_folder.EXPORT
    try:
        export(
            state.live_structure(),
            state.judged().state_dict(),
            unfinished / run_folder.EXPORT,
            input_size=list(recipe.data.input_size),
            mean=list(data.mean),
            std=list(data.std),
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            crop_mode="center",
            label_names=list(data.classes),
        )
        x = torch.randn(2, *recipe.data.input_size, generator=torch.Generator().manual_seed(0))
        device = next(state.judged().parameters()).device
        check_export(unfinished / run_folder.EXPORT, state.judged(), x.to(device))
        if exported.exists():  # of the same run, which is being finished once more
            shutil.rmtree(exported)
        os.replace(unfinished / run_folder.EXPORT, exported)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
