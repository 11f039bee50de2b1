"""Tables: a row a run, long tables, units side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from cpt_nas.pruning.structure import Structure
from cpt_nas.report import tables
from cpt_nas.report.report import report
from cpt_nas.train.run_folder import load_runs, short_names
from tests.support.run_folders import (
    BUDGET,
    CUT_S,
    KWARGS,
    LAYER_COLUMNS,
    MODEL,
    QUIET,
    allocations,
    cut,
    dense,
    trace,
    write_run,
)


def test_a_row_a_run(runs, tmp_path):
    report(runs, tmp_path / "out", console=QUIET)
    table = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("name")
    assert list(table.index) == ["dense", "searched"]
    row = table.loc["searched"]
    expected = {
        **{"status": "finished", "model": MODEL, "kind": "search", "cost": "latency"},
        **{"profile": "home", "runtime": "onnxruntime"},
        **{"seed": 7, "epochs": 3, "epochs_done": 3, "accuracy": 90.0},
        **{"macs": 600.0, "params": 30.0, "macs_dense": 1000.0, "params_dense": 120.0},
        **{"layers_left": 4, "layers": 6, "branches_left": 2, "branches": 3},
        **{"units_left": 11, "units": 20, "train_load": 0.75, "wall_s": 61.5},
    }
    assert {key: row[key] for key in expected} == expected
    assert row["fPR"] == pytest.approx(40.0)  # 1 - 600/1000
    assert row["pPR"] == pytest.approx(75.0)  # 1 - 30/120
    whole = table.loc["dense"]
    assert (whole["fPR"], whole["pPR"], whole["layers_left"]) == (0, 0, 6)
    assert pd.isna(whole["profile"]) and pd.isna(whole["runtime"])


def test_what_is_not_known_is_nan(tmp_path):
    folder = write_run(tmp_path / "a", test_acc=None, train_load=float("nan"), wall_s=None)
    report([folder], tmp_path / "out", console=QUIET)
    row = pd.read_csv(tmp_path / "out" / "runs.csv").iloc[0]
    assert row[["accuracy", "train_load", "wall_s"]].isna().all()
    assert row["fPR"] == pytest.approx(40.0)


def test_long_tables_keep_every_row(runs, tmp_path):
    report(runs, tmp_path / "out", console=QUIET)
    layers = pd.read_csv(tmp_path / "out" / "layers.csv")
    assert list(layers.columns) == ["run", *LAYER_COLUMNS]
    assert layers.groupby("run").size().to_dict() == {"dense": 8, "searched": 8}
    chosen = layers[(layers["run"] == "searched") & (layers["name"] == "layer2.0.conv1")].iloc[0]
    assert (chosen["macs"], chosen["params_dense"]) == (150, 20)
    epochs = pd.read_csv(tmp_path / "out" / "history.csv")
    assert epochs["run"].tolist() == ["dense"] * 3 + ["searched"] * 3
    assert epochs["test_acc"].tolist() == [60.0, 70.0, 80.0] * 2
    assert epochs["train_load"].iloc[-1] == pytest.approx((1 + 0.6 + 0.6) / 3)


def test_structures_side_by_side(runs, tmp_path):
    other = write_run(
        tmp_path / "other", structure=dense({**KWARGS, "layers": [1, 2, 1]}), searching=False
    )
    report([*runs, other], tmp_path / "out", console=QUIET)
    table = pd.read_csv(tmp_path / "out" / "structures.csv").set_index("branch")
    assert table["total"].to_dict() == {
        **{"layer1.0": 4, "layer2.0": 8, "layer2.1": 8, "layer3.0": 8}
    }
    assert table["searched"].dropna().to_dict() == {"layer1.0": 0, "layer2.0": 3, "layer3.0": 8}
    assert table["dense"].dropna().to_dict() == {"layer1.0": 4, "layer2.0": 8, "layer3.0": 8}
    assert table["other"]["layer2.1"] == 8
    assert (table["model"] == MODEL).all()


def test_a_branch_without_units_is_a_row(tmp_path):
    values = cut().model_dump()
    values["branches"]["layer1.0"]["units"] = {}
    values["branches"]["layer3.0"]["units"] = {}
    folder = write_run(tmp_path / "a", structure=Structure.model_validate(values))
    table = tables.structures_table(load_runs([folder])).set_index("branch")
    assert table["group"].to_dict() == {"layer1.0": "", "layer2.0": "act1", "layer3.0": ""}
    assert table["a"].to_dict() == {"layer1.0": 0, "layer2.0": 3, "layer3.0": 1}


def test_unfinished_runs_are_shown_as_running(runs, tmp_path):
    half = write_run(tmp_path / "half", status="running", epochs_done=2)
    fresh = write_run(tmp_path / "fresh", status="running", epochs_done=0)
    page = report([*runs, half, fresh], tmp_path / "out", console=QUIET).read_text()
    table = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("name")
    row = table.loc["half"]
    assert (row["status"], row["epochs_done"], row["epochs"]) == ("running", 2, 3)
    assert (row["accuracy"], row["wall_s"]) == (70.0, 40.0)
    assert (row["macs"], row["macs_dense"], row["params_dense"]) == (600, 1000, 120)
    assert (row["branches_left"], row["branches"], row["units_left"], row["units"]) == (
        2,
        3,
        11,
        20,
    )
    assert row["fPR"] == pytest.approx(40.0)
    assert pd.isna(row["layers_left"])
    assert table.loc["fresh", ["accuracy", "macs", "branches", "train_load"]].isna().all()
    assert "half (running, 2/3 epochs)" in page
    assert "fresh (running, 0/3 epochs)" in page
    assert "Still running: half, fresh" in page


def test_nothing_but_a_fresh_run(tmp_path):
    fresh = write_run(tmp_path / "fresh", status="running", epochs_done=0)
    page = report([fresh], tmp_path / "out", console=QUIET).read_text()
    assert "No run has a structure yet." in page
    assert "No run has ended an epoch yet." in page
    assert "data:image" not in page
    assert pd.read_csv(tmp_path / "out" / "layers.csv").empty


def test_names_tell_runs_apart(tmp_path):
    paths = [tmp_path / p for p in ("a/run", "b/run", "b/other")]
    assert short_names(paths) == ["a/run", "b/run", "other"]
    folders = [write_run(path) for path in paths]
    assert [run.name for run in load_runs(folders)] == ["a/run", "b/run", "other"]
    report(folders, tmp_path / "out", console=QUIET)
    assert (tmp_path / "out" / "figures" / "layers_a-run.png").is_file()


def test_speed_ups_need_a_dense_run_of_the_same_network(runs, profile, tmp_path):
    report(runs[1:], tmp_path / "out", [profile("home")], console=QUIET)
    row = pd.read_csv(tmp_path / "out" / "runs.csv").iloc[0]
    assert row["predicted_s:home"] == pytest.approx(CUT_S)
    assert pd.isna(row["predicted_speedup:home"])


REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "files.md"
# What a name in capitals stands for in the report below.
STANDS_FOR = {"NAME": "home|latency", "MEASURE": "latency|params", "RUN": "dense|searched"}


def documented(table):
    """The columns of a table by the reference, as patterns; of the last section of that name."""
    section = REFERENCE.read_text().split(f"### {table}\n")[-1].split("#")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    patterns = []
    for name in ", ".join(rows).split(", "):
        pattern = re.escape(name.strip("`"))
        for word, choices in STANDS_FOR.items():
            pattern = re.sub(rf"\b{word}\b", f"({choices})", pattern)
        patterns.append(pattern)
    return patterns


def test_the_columns_are_those_of_the_reference(tmp_path, profile):
    """No column is there that is not described, and none is described that is not there."""
    reached = {"latency": 1e-3, "params": 30.0}
    runs = [
        write_run(tmp_path / "dense", searching=False),
        write_run(tmp_path / "searched", reached=reached, **BUDGET),
    ]
    trace().to_csv(runs[1] / "search.csv", index=False)
    allocations().to_csv(runs[1] / "allocations.csv", index=False)
    out = tmp_path / "out"
    report(runs, out, [profile("home")], console=QUIET)
    for path in sorted(out.glob("*.csv")):
        columns = list(pd.read_csv(path).columns)
        if path.name in ("layers.csv", "history.csv", "search.csv", "allocations.csv"):
            assert columns.pop(0) == "run"
        patterns = documented(path.name)
        for column in columns:
            assert any(re.fullmatch(p, column) for p in patterns), (path.name, column)
        for pattern in patterns:
            assert any(re.fullmatch(pattern, c) for c in columns), (path.name, pattern)
