"""The rows of a report's tables, as types: what is written is what the reference describes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunRow:
    """A row of runs.csv: one run; what is not known is NaN.

    Attributes:
        name: of the run.
        status: finished or running.
        model: timm's name.
        kind: search, retrain or dense.
        cost: what the search lowered.
        profile: name of its cost profile.
        runtime: what the profile's networks run in.
        seed: of the recipe.
        epochs: of the recipe.
        epochs_done: epochs that have ended.
        accuracy: percent of the test images that were classified rightly.
        macs: multiply-adds of the network that is left.
        params: parameters of the network that is left.
        macs_dense: multiply-adds of the dense network.
        params_dense: parameters of the dense network.
        fPR: percent of the dense network's multiply-adds that are gone.
        pPR: percent of the dense network's parameters that are gone.
        layers_left: convolutions and linear layers that are left, projections on skip
            connections not counted.
        layers: those of the dense network.
        branches_left: branches that are left.
        branches: branches of the dense network.
        units_left: units that are left.
        units: units of the dense network.
        train_load: training's multiply-adds over the dense training's.
        wall_s: seconds of all epochs.
    """

    name: str
    status: str
    model: str
    kind: str
    cost: str | None
    profile: str | None
    runtime: str | None
    seed: int
    epochs: int
    epochs_done: int
    accuracy: float
    macs: float
    params: float
    macs_dense: float
    params_dense: float
    fPR: float
    pPR: float
    layers_left: float
    layers: float
    branches_left: float
    branches: float
    units_left: float
    units: float
    train_load: float
    wall_s: float


@dataclass(frozen=True)
class BudgetRow:
    """A row of budgets.csv: one budget of a run.

    Attributes:
        run: name of the run.
        measure: latency, params or macs.
        dense: the dense network's, s or count.
        budget: upper bound that was asked for.
        reached: what the found network takes, as the search counts it.
        binding: whether it is the budget that is nearest to being broken.
        forced: gates that were decided at the freeze against theta > 0.5.
        undecided_at_freeze: share of the gates that were undecided when the structure was frozen.
        measured_s: seconds measured in the setting of the run's own profile; empty if not measured.
        verdict: of the measurement: ok, or noisy where it is not to be trusted.
        off: measured over reached, less 1.
    """

    run: str
    measure: str
    dense: float
    budget: float
    reached: float
    binding: bool
    forced: int
    undecided_at_freeze: float
    measured_s: float
    verdict: str | None
    off: float


@dataclass(frozen=True)
class LatencyRow:
    """A row of latency.csv: one run in the setting of one profile.

    Attributes:
        run: name of the run.
        profile: name of the profile whose setting it is.
        runtime: what the network runs in, by that profile.
        predicted_s: seconds a batch by the profile.
        measured_s: median of the measured seconds a batch; empty if not measured.
        q25_s: first quartile of the readings.
        q75_s: third quartile of the readings.
        n: number of readings.
        verdict: ok, or noisy where the readings are not to be trusted.
    """

    run: str
    profile: str
    runtime: str
    predicted_s: float
    measured_s: float
    q25_s: float
    q75_s: float
    n: float
    verdict: str | None
