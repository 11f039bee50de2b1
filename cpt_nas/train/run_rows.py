"""The rows of a run's tables and its result, as types: what is written is what is read."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from hwprofiles import Target


@dataclass(frozen=True)
class HistoryRow:
    """A row of history.csv: one epoch.

    Attributes:
        epoch: epochs done by then, from 1.
        step: optimizer steps done by then.
        lr: learning rate at the end of the epoch.
        log_gamma: pruning level; NaN where no search goes on.
        train_loss: mean cross-entropy on the training images.
        train_acc: percent of the training images that were classified rightly.
        test_loss: mean cross-entropy on the test images.
        test_acc: percent of the test images that were classified rightly.
        expected_cost: the cost that the search lowers, over the dense network's, 0..1.
        macs: multiply-adds of the network as it is cut by then.
        params: parameters of the network as it is cut by then.
        macs_ratio: multiply-adds over the dense network's.
        params_ratio: parameters over the dense network's.
        branches_left: branches that are left.
        units_left: units that are left in them.
        undecided: share of the gates with theta between threshold and 1 - threshold.
        epoch_s: seconds that the epoch took, evaluation included.
        train_macs: multiply-adds of the epoch's forward passes; a third of the teacher's, if any,
            which has no backward pass.
        train_load: multiply-adds of all epochs until then, over the dense network's.
    """

    epoch: int
    step: int
    lr: float
    log_gamma: float
    train_loss: float
    train_acc: float
    test_loss: float
    test_acc: float
    expected_cost: float
    macs: float
    params: float
    macs_ratio: float
    params_ratio: float
    branches_left: int
    units_left: int
    undecided: float
    epoch_s: float
    train_macs: float
    train_load: float


@dataclass(frozen=True)
class LayerRow:
    """A row of layers.csv: one traced layer.

    Attributes:
        name: the layer's path in the model.
        type: what it is, such as conv2d.
        branch: the branch that it vanishes with; empty where there is none.
        projection: whether it is on a skip connection.
        macs_dense: multiply-adds before the search.
        params_dense: parameters before the search.
        macs: multiply-adds after it; 0 where the branch is gone.
        params: parameters after it; 0 where the branch is gone.
    """

    name: str
    type: str
    branch: str
    projection: bool
    macs_dense: float
    params_dense: float
    macs: float
    params: float


@dataclass(frozen=True)
class Result:
    """result.json of a finished run.

    Attributes:
        status: ``finished``; while the run goes on ``running``, with few other keys.
        kind: ``search``, ``retrain`` or ``dense``.
        model: timm's name.
        test_acc: percent, of the exported network.
        macs: multiply-adds of the exported network.
        params: parameters of the exported network.
        macs_dense: multiply-adds of the dense network.
        params_dense: parameters of the dense network.
        branches: branches that are left.
        branches_dense: branches of the dense network.
        units: units that are left.
        units_dense: units of the dense network.
        train_load: training's multiply-adds over the dense training's.
        wall_s: seconds of all epochs.
        seed: of the recipe.
        epochs: of the recipe.
        cost: what the search lowered, such as 'latency'; 'none' without a search.
        profile: name of the cost profile, or null.
        test_loss: mean cross-entropy on the test images.
        profile_fingerprint: identifies the machine and software of the profile.
        target: the setting that was searched for, by the profile: ``runtime``, ``device``,
            ``threads``, ``batch_size``, ``dtype``, ``channels_last``; null without a profile.
        log_gamma: pruning level at the end.
        alpha: weight of computation against parameters; null where it has no part in the cost.
        kappa: weight of layers against units; null where it has no part in the cost.
        law: what was charged: ``cost``, ``layers`` (L of eq. 13), ``notes``, and of ``log_gamma``,
            ``alpha`` and ``kappa`` the ``value`` and the ``origin``. It is there from the start.
        budgets: measure to upper bound, in seconds or counts.
        binding: the budget that is nearest to being broken.
        reached: measure to what was reached, in seconds or counts.
        dense_costs: measure to the dense network's, in seconds or counts.
        forced: gates that were decided at the freeze against theta > 0.5.
        undecided_at_freeze: share of the gates that were undecided when the structure was frozen.
        changes: of the recipe between the parts of the training: ``epoch``, ``key``, ``was``,
            ``now``.
        doubts: what there is to say against the network, a line each; none where it has learnt.
        weights: of a training that started from trained ones: where they were from (``source``,
            ``sha256``), how they fitted, and ``test_acc`` before training; null otherwise.
        versions: of Python and of the packages that the run used.
        commit: of the checkout that the code ran from; null where there was none.
        dirty: whether that checkout had changes.
    """

    status: str
    kind: str
    model: str
    test_acc: float
    macs: float
    params: float
    macs_dense: float
    params_dense: float
    branches: int
    branches_dense: int
    units: int
    units_dense: int
    train_load: float
    wall_s: float
    seed: int
    epochs: int
    cost: str
    profile: str | None
    test_loss: float | None = None
    profile_fingerprint: str | None = None
    target: Target | None = None
    log_gamma: float | None = None
    alpha: float | None = None
    kappa: float | None = None
    law: dict[str, Any] | None = None
    budgets: dict[str, float] | None = None
    binding: str | None = None
    reached: dict[str, float] | None = None
    dense_costs: dict[str, float] | None = None
    forced: int | None = None
    undecided_at_freeze: float | None = None
    changes: list[dict[str, Any]] | None = None
    doubts: list[str] | None = None
    weights: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    commit: str | None = None
    dirty: bool | None = None


def as_json(value: Any) -> Any:
    """Plain data as strict JSON has it: null for what is no finite number."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def columns(row: type[Any]) -> tuple[str, ...]:
    """The columns of a table whose rows are of this type."""
    return tuple(field.name for field in dataclasses.fields(row))


def required(row: type[Any]) -> tuple[str, ...]:
    """The columns without a default."""
    return tuple(f.name for f in dataclasses.fields(row) if f.default is dataclasses.MISSING)
