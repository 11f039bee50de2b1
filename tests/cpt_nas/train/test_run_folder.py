"""A run folder gives back what was written into it, and names what is missing."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pytest

from cpt_nas.search.records import ALLOCATION_COLUMNS, REMOVED_COLUMNS, TRACE_COLUMNS
from cpt_nas.search.search import Search
from cpt_nas.train import run_folder
from cpt_nas.train.run_folder import load_run
from cpt_nas.train.run_rows import HistoryRow, LayerRow, Result, columns, required
from cpt_nas.train.train import train
from tests.support.trainings import QUIET, recipe

BUDGET = {"macs_budget": 0.6, "params_budget": 0.7, "log_gamma": None, "theta_lr": None}


@dataclass
class Written:
    """A finished search, and what training handed to the folder."""

    folder: Path
    result: dict
    history: list[HistoryRow]
    search: Search


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("runs") / "run"
    kept: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_history", "write_trace"):
            write = getattr(run_folder, name)

            def keep(output: Path, content: object, name=name, write=write) -> None:
                kept[name] = content
                write(output, content)

            patch.setattr(run_folder, name, keep)
        result = train(recipe(search=BUDGET), folder, console=QUIET)
    return Written(folder, result, kept["write_history"], kept["write_trace"])


def same(read: pd.DataFrame | None, rows: list[dict]) -> None:
    """Every cell; integers may have become floats beside a NaN."""
    assert read is not None and len(rows) > 1
    # Some versions of pandas read the last of a float's 16 digits wrongly.
    pd.testing.assert_frame_equal(
        read, pd.DataFrame(rows), check_dtype=False, check_exact=False, rtol=1e-15, atol=0
    )


def test_tables_come_back_as_they_were_written(written: Written) -> None:
    run, search = load_run(written.folder), written.search
    same(run.history, [asdict(row) for row in written.history])
    same(run.trace, search.trace)
    same(run.removed, search.removed)
    same(run.allocations, search.allocations)
    assert run.result == written.result and run.finished
    assert run.recipe == recipe(search=BUDGET)
    assert run.structure == search.structure()
    assert run.budgets == search.summary()["budgets"]
    assert run.layers is not None and run.profile is None
    assert run.layers["params"].sum() == written.result["params"]


def test_what_is_checked_on_reading_is_what_is_written(written: Written) -> None:
    run = load_run(written.folder)
    assert tuple(run.history) == columns(HistoryRow)
    assert tuple(run.layers) == columns(LayerRow)
    assert tuple(run.removed) == REMOVED_COLUMNS
    assert tuple(run.allocations) == ALLOCATION_COLUMNS
    dynamic = {f"{what}:{m}" for what in ("log_gamma", "target", "cost") for m in run.budgets}
    assert set(run.trace) == {*TRACE_COLUMNS, *dynamic}
    assert set(required(Result)) <= set(run.result)


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("history.csv", "train_load"),
        ("layers.csv", "macs_dense"),
        ("search.csv", "theta_9"),
        ("removed.csv", "driven_down"),
        ("allocations.csv", "threshold_importance_per_cost"),
    ],
)
def test_a_missing_column_is_named(
    written: Written, tmp_path: Path, file: str, column: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(written.folder, folder)
    pd.read_csv(folder / file).drop(columns=column).to_csv(folder / file, index=False)
    with pytest.raises(ValueError, match=rf"{file} has no column {column}$"):
        load_run(folder)
