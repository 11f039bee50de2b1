"""Runs as tables: one row a run, and long tables of layers, epochs and unit groups.

Values stay in SI units and percent as recorded; what is not known is NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pandas as pd

from cpt_nas.report.rows import BudgetRow, RunRow
from cpt_nas.train.run_folder import Run
from cpt_nas.train.run_rows import columns

NAN = float("nan")
STRUCTURES_INDEX = ("model", "branch", "group", "total")
"""Of structures.csv, before a column a run."""


def runs_table(runs: Sequence[Run], latency: pd.DataFrame) -> pd.DataFrame:
    """One row a run.

    The columns are those of :class:`RunRow`, and for each setting of ``latency``
    ``predicted_s:NAME`` and ``measured_s:NAME``, and the speed-ups against the first dense run of
    the same model, NaN where there is none.
    """
    table = pd.DataFrame([dataclasses.asdict(_row(run)) | _budget_values(run) for run in runs])
    dense_of = {}
    for run in reversed(runs):
        if run.kind == "dense":
            dense_of[_network(run)] = run.name
    for setting in dict.fromkeys(latency["profile"]):
        here = latency[latency["profile"] == setting].set_index("run")
        for what in ("predicted", "measured"):
            seconds = here[f"{what}_s"].to_dict()
            table[f"{what}_s:{setting}"] = [seconds[run.name] for run in runs]
            table[f"{what}_speedup:{setting}"] = [
                seconds.get(dense_of.get(_network(run), ""), NAN) / seconds[run.name]
                for run in runs
            ]
    return table


def _network(run: Run) -> str:
    """What two runs of the same dense network have in common."""
    return f"{run.model} {sorted(run.recipe.model.kwargs.items())} {run.recipe.data.input_size}"


def _row(run: Run) -> RunRow:
    values = _finished_values(run) if run.finished else _running_values(run)
    layers_left, layers = count_layers(run.layers)
    return RunRow(
        name=run.name,
        status=run.result["status"],
        model=run.model,
        kind=run.kind,
        cost=run.result.get("cost"),
        profile=run.result.get("profile"),
        runtime=(run.result.get("target") or {}).get("runtime"),
        seed=run.recipe.train.seed,
        epochs=run.recipe.train.epochs,
        epochs_done=len(run.history),
        accuracy=values["accuracy"],
        macs=values["macs"],
        params=values["params"],
        macs_dense=values["macs_dense"],
        params_dense=values["params_dense"],
        fPR=100 * (1 - values["macs"] / values["macs_dense"]),
        pPR=100 * (1 - values["params"] / values["params_dense"]),
        layers_left=layers_left,
        layers=layers,
        branches_left=values["branches"],
        branches=values["branches_dense"],
        units_left=values["units"],
        units=values["units_dense"],
        train_load=values["train_load"],
        wall_s=values["wall_s"],
    )


def _budget_values(run: Run) -> dict[str, object]:
    """Budgets and what was reached, in s or counts, and how the search settled."""
    values: dict[str, object] = {}
    for measure, bound in run.budgets.items():
        values |= {f"budget:{measure}": bound, f"reached:{measure}": run.result["reached"][measure]}
    if run.kind == "search" and run.finished:
        values["binding"] = run.result.get("binding")
        values["forced"] = _number(run.result.get("forced"))
        values["undecided_at_freeze"] = _number(run.result.get("undecided_at_freeze"))
    return values


def budgets_table(runs: Sequence[Run], latency: pd.DataFrame) -> pd.DataFrame:
    """A row a budget of a run: what was asked for, what came out, what was measured.

    ``measured_s`` is in the setting of the run's own profile, NaN where that was not measured,
    ``verdict`` is that of the measurement, and ``off`` is measured over predicted - 1.
    """
    rows = []
    for run in runs:
        name = run.result.get("profile")
        own = latency[(latency["run"] == run.name) & (latency["profile"] == name)]
        for measure, bound in run.budgets.items():
            reached = float(run.result["reached"][measure])
            timed = measure == "latency" and len(own) == 1
            measured = float(own["measured_s"].iloc[0]) if timed else NAN
            verdict = own["verdict"].iloc[0] if timed else None
            rows.append(
                BudgetRow(
                    run=run.name,
                    measure=measure,
                    dense=run.result["dense_costs"][measure],
                    budget=bound,
                    reached=reached,
                    binding=run.result["binding"] == measure,
                    forced=run.result["forced"],
                    undecided_at_freeze=run.result["undecided_at_freeze"],
                    measured_s=measured,
                    verdict=verdict,
                    off=measured / reached - 1,
                )
            )
    return pd.DataFrame(rows, columns=columns(BudgetRow))


def traces_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every row of every run's search.csv."""
    return _long({run.name: run.trace for run in runs if run.trace is not None})


def allocations_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every row of every run's allocations.csv."""
    return _long({run.name: run.allocations for run in runs if run.allocations is not None})


def _finished_values(run: Run) -> dict[str, float]:
    names = ("macs", "params", "macs_dense", "params_dense", "branches", "branches_dense")
    values = {name: _number(run.result[name]) for name in (*names, "units", "units_dense")}
    return values | {
        "accuracy": _number(run.result["test_acc"]),
        "train_load": _number(run.result["train_load"]),
        "wall_s": _number(run.result["wall_s"]),
    }


def _running_values(run: Run) -> dict[str, float]:
    """What the last epoch and the structure so far say."""
    keys = ("accuracy", "macs", "params", "macs_dense", "params_dense", "branches")
    values = dict.fromkeys((*keys, "branches_dense", "units", "units_dense"), NAN)
    values |= {"train_load": NAN, "wall_s": NAN}
    if len(run.history):
        last = run.history.iloc[-1]
        values |= {
            "accuracy": last["test_acc"],
            "macs": last["macs"],
            "params": last["params"],
            "macs_dense": last["macs"] / last["macs_ratio"],
            "params_dense": last["params"] / last["params_ratio"],
            "branches": last["branches_left"],
            "units": last["units_left"],
            "train_load": last["train_load"],
            "wall_s": run.history["epoch_s"].sum(),
        }
    if run.structure is not None:
        branches = run.structure.branches.values()
        values["branches_dense"] = len(branches)
        values["units_dense"] = sum(u.total for b in branches for u in b.units.values())
    return values


def _number(value: object) -> float:
    return NAN if value is None else float(value)  # type: ignore[arg-type]


def weight_layers(layers: pd.DataFrame) -> pd.DataFrame:
    """The rows of convolutions and linear layers."""
    return layers[layers["type"].str.startswith(("conv", "linear"))].reset_index(drop=True)


def removed(layers: pd.DataFrame) -> pd.Series:
    """Whether nothing of a layer is left."""
    return (layers["macs"] == 0) & (layers["params"] == 0)


def count_layers(layers: pd.DataFrame | None) -> tuple[float, float]:
    """(weight layers left, those of the dense network), as the papers count them; NaN: unknown.

    A projection on a skip connection is none: a ResNet-50 has 50 of them.
    """
    if layers is None:
        return NAN, NAN
    weights = weight_layers(layers)
    weights = weights[~weights["projection"].astype(bool)]
    return len(weights) - int(removed(weights).sum()), len(weights)


def layers_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every layer of every run that has finished: MACs and parameters before and after."""
    return _long({run.name: run.layers for run in runs if run.layers is not None})


def history_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Every epoch of every run."""
    return _long({run.name: run.history for run in runs if len(run.history)})


def _long(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame({"run": pd.Series(dtype=str)})
    long = pd.concat(tables, names=["run", "row"])
    return long.reset_index(level="run").reset_index(drop=True)


def structures_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Units kept, a row a unit group and a column a run.

    A group whose branch is gone has 0; one that the run's model does not have, NaN. A branch
    without unit groups is a row with an empty group and a total of 1.
    """
    rows: dict[tuple[str, str, str, int], dict[str, float]] = {}
    for run in runs:
        if run.structure is None:
            continue
        for branch, left in run.structure.branches.items():
            groups = {g: (u.total, len(u.kept)) for g, u in left.units.items()} or {"": (1, 1)}
            for group, (total, kept) in groups.items():
                key = (run.model, branch, group, total)
                rows.setdefault(key, {})[run.name] = kept if left.kept else 0
    index = pd.DataFrame(list(rows), columns=list(STRUCTURES_INDEX))
    units = pd.DataFrame(list(rows.values()), columns=[run.name for run in runs], dtype=float)
    return pd.concat([index, units], axis=1)


def cross_table(latency: pd.DataFrame, names: Sequence[str], what: str) -> pd.DataFrame:
    """Milliseconds, a row a run and a column a setting.

    Args:
        latency: long, as :mod:`cpt_nas.report.latency` makes it.
        names: of the runs, in order.
        what: 'predicted' or 'measured'.
    """
    wide = latency.pivot_table(index="run", columns="profile", values=f"{what}_s", dropna=False)
    settings = list(dict.fromkeys(latency["profile"]))
    return 1e3 * wide.reindex(index=list(names), columns=settings).astype(float)


def noisy_cells(latency: pd.DataFrame, names: Sequence[str], what: str) -> pd.DataFrame:
    """Whether a cell of ``cross_table`` was measured on a noisy machine; a prediction never was."""
    marked = latency.assign(noisy=(latency["verdict"] == "noisy") & (what == "measured"))
    wide = marked.pivot_table(index="run", columns="profile", values="noisy", aggfunc="any")
    settings = list(dict.fromkeys(latency["profile"]))
    return wide.reindex(index=list(names), columns=settings, fill_value=False).astype(bool)


def both_cross_tables(latency: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Milliseconds, a row a run, columns 'predicted_ms:SETTING' and 'measured_ms:SETTING'."""
    parts = [
        cross_table(latency, names, what).add_prefix(f"{what}_ms:")
        for what in ("predicted", "measured")
    ]
    return pd.concat(parts, axis=1).rename_axis("run").reset_index()


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent from 0.001 up."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
