"""Run folders with a key, a cell or a file that is not what it was: named, never computed with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from cpt_nas.report.report import report
from cpt_nas.train.run_folder import load_run
from tests.support.run_folders import BUDGET, allocations, trace, write_run

REACHED = {"reached": {"latency": 1.9e-3, "params": 30.0}}
TABLES = ("history.csv", "layers.csv", "search.csv", "allocations.csv")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run", **REACHED, **BUDGET)
    trace().to_csv(folder / "search.csv", index=False)
    allocations().to_csv(folder / "allocations.csv", index=False)
    return folder


def change(run: Path, **values: Any) -> None:
    path = run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(run: Path, message: str) -> None:
    with pytest.raises(ValueError, match=f"^run: {re.escape(str(run))}: .*{message}"):
        load_run(run)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"macs": "many"}, "result.json: macs is 'many'"),
        ({"macs": [1]}, r"macs is \[1\]"),
        ({"branches": 1.5}, "branches is 1.5"),
        ({"macs_dense": 0}, "macs_dense is 0, must be above 0"),
        ({"kind": "serach"}, "kind is 'serach', must be one of search, retrain, dense"),
        ({"model": None}, "model is None"),
        ({"budgets": {"speed": 1.0}}, "budgets: 'speed'"),
        ({"budgets": [1]}, r"budgets is \[1\]"),
        ({"reached": {"latency": 1.0}}, "reached has no params, which budgets have"),
        ({"dense_costs": None}, "dense_costs has no latency"),
        ({"binding": None}, "has budgets and no binding"),
        ({"forced": None}, "has budgets and no forced"),
        ({"macs": float("inf")}, "holds Infinity, which is no JSON"),
    ],
)
def test_a_key_that_is_not_what_it_should_be_is_named(
    run: Path, values: dict[str, Any], message: str
) -> None:
    load_run(run)
    change(run, **values)
    refused(run, message)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_any_key_or_cell_may_be_missing(run: Path, name: str, tmp_path: Path) -> None:
    """Each in turn: it is named, or the report comes without it."""
    path = run / name
    whole = pd.read_csv(path, dtype=str)
    for column in whole.columns:
        table = whole.copy()
        table.loc[0, column] = None
        table.to_csv(path, index=False)
        written(run, tmp_path / "out", column)
    whole.to_csv(path, index=False)
    load_run(run)


@pytest.mark.slow
def test_any_key_of_the_result_may_be_missing(run: Path, tmp_path: Path) -> None:
    path = run / "result.json"
    whole = json.loads(path.read_text())
    for key in whole:
        for other in ({k: v for k, v in whole.items() if k != key}, whole | {key: None}):
            path.write_text(json.dumps(other))
            written(run, tmp_path / "out", key)


def written(run: Path, out: Path, named: str) -> None:
    try:
        loaded = load_run(run)
    except ValueError as error:
        assert named in str(error) and "\n" not in str(error)
        return
    assert loaded.finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpt_nas.report.report._png", lambda figure: b"")
        report([run], out, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *(("history.csv", "epoch"), ("layers.csv", "type"), ("search.csv", "step")),
        *(("allocations.csv", "branch"), ("layers.csv", "macs"), ("history.csv", "macs_ratio")),
    ],
)
def test_an_empty_cell_is_named(run: Path, name: str, column: str) -> None:
    table = pd.read_csv(run / name, dtype=str)
    table.loc[1, column] = None
    table.to_csv(run / name, index=False)
    refused(run, f"{name}: column {column} is empty in row 2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,branches\n1,2\n3", "row 2 has 1 cells, the header 2"),
        ("step,branches\n1,2,3\n", "row 1 has 3 cells, the header 2"),
        ("step\n1\n", "search.csv has no column branches"),
        ("\x00", "search.csv is not a CSV table|no column step"),
    ],
)
def test_a_table_that_was_cut_off_is_named(run: Path, content: str, message: str) -> None:
    (run / "search.csv").write_text(content)
    refused(run, message)


def test_a_trace_without_a_target_is_named(run: Path) -> None:
    trace().drop(columns="target:latency").to_csv(run / "search.csv", index=False)
    refused(run, "search.csv has no column target:latency")


def test_a_layer_that_is_called_like_a_number_keeps_its_name(run: Path) -> None:
    layers = pd.read_csv(run / "layers.csv")
    layers.loc[0, "name"] = "0.10"
    layers.to_csv(run / "layers.csv", index=False)
    found = load_run(run).layers
    assert found is not None and found["name"][0] == "0.10"


SHARED = [HealthCheck.function_scoped_fixture]  # each example puts the file back


@settings(max_examples=60, deadline=None, suppress_health_check=SHARED)
@given(name=st.sampled_from((*TABLES, "result.json")), at=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_byte_that_changed_is_read_or_named(run: Path, name: str, at: float, byte: int) -> None:
    path = run / name
    whole = path.read_bytes()
    place = int(at * (len(whole) - 1))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    try:
        load_run(run)
    except ValueError as error:
        assert str(run) in str(error)
    finally:
        path.write_bytes(whole)
