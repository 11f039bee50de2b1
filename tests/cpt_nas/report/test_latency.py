"""Latencies: predicted by profiles, measured in their settings."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import hwprofiles
from cpt_nas.report.report import report
from tests.support.run_folders import (
    CUT_S,
    DENSE_S,
    INPUT,
    KWARGS,
    QUIET,
    add_export,
    dense,
    write_run,
)


def test_predicted_latency_and_speed_up(runs, profile, tmp_path):
    chosen = [profile("home", 1e-6), profile("away", 3e-6, batch_size=64)]
    report(runs, tmp_path / "out", chosen, console=QUIET)
    table = pd.read_csv(tmp_path / "out" / "latency.csv")
    columns = "run profile runtime predicted_s measured_s q25_s q75_s n verdict"
    assert list(table.columns) == columns.split()
    wide = table.pivot_table(index="run", columns="profile", values="predicted_s")
    assert wide.loc["dense", "home"] == pytest.approx(DENSE_S)
    assert wide.loc["searched", "home"] == pytest.approx(CUT_S)
    assert wide.loc["searched", "away"] == pytest.approx(3 * CUT_S)
    assert table[["measured_s", "n", "verdict"]].isna().all(axis=None)
    row = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("name").loc["searched"]
    assert row["predicted_s:away"] == pytest.approx(3 * CUT_S)
    assert row["predicted_speedup:home"] == pytest.approx(DENSE_S / CUT_S)
    assert pd.isna(row["measured_speedup:home"])


def test_the_runs_own_profile_is_the_default(runs, profile, tmp_path):
    profile("home").rename(runs[1] / "profile.yaml")
    page = report(runs, tmp_path / "out", console=QUIET).read_text()
    table = pd.read_csv(tmp_path / "out" / "latency.csv")
    assert table["profile"].tolist() == ["home", "home"]
    assert "home: eager, cpu, 1 thread, batch 2, float32." in page


def test_measured_latency(runs, profile, stopwatch, tmp_path):
    for folder in runs:
        add_export(folder)
    chosen = [
        profile("home"),
        profile("away", threads=2, batch_size=16, dtype="bfloat16", channels_last=True),
    ]
    running = write_run(tmp_path / "half", status="running", epochs_done=2)
    page = report([*runs, running], tmp_path / "out", chosen, True, QUIET).read_text()

    (models, threads, channels_last), (models_away, *setting_away) = stopwatch
    assert (threads, channels_last, setting_away) == (1, False, [2, True])
    assert list(models) == ["dense", "searched"]
    network, x = models["searched"]
    assert (tuple(x.shape), x.dtype) == ((2, *INPUT), torch.float32)
    assert network.layer2[0].conv1.out_channels == 3
    assert not network.training
    x = models_away["dense"][1]
    assert (tuple(x.shape), x.dtype) == ((16, *INPUT), torch.bfloat16)

    table = pd.read_csv(tmp_path / "out" / "latency.csv").set_index(["run", "profile"])
    row = table.loc["searched", "away"]
    assert row["measured_s"] == pytest.approx(2e-3)
    assert (row["q25_s"], row["q75_s"]) == pytest.approx((1.99e-3, 2.01e-3))
    assert (row["n"], row["verdict"]) == (11, "ok")
    half = table.loc["half"]
    assert half.pop("runtime").eq("eager").all() and half.isna().all(axis=None)
    row = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("name").loc["searched"]
    assert row["measured_speedup:home"] == pytest.approx(4.0)
    assert "2.00 (4.00×)" in page  # the pivot: 2 ms, 4 times as fast as the dense run


def test_measuring_for_real(runs, profile, tmp_path, monkeypatch):
    monkeypatch.setattr("cpt_nas.report.latency.MEASURED_S", 0.1)
    for folder in runs:
        add_export(folder)
    report(runs, tmp_path / "out", [profile("home")], measure=True, console=QUIET)
    table = pd.read_csv(tmp_path / "out" / "latency.csv")
    assert (table["measured_s"] > 0).all()
    assert (table["q25_s"] <= table["measured_s"]).all()
    assert (table["n"] >= 10).all()


def test_measuring_has_a_time_limit(runs, profile, tmp_path, monkeypatch):
    """Of all profiles together; what is written is written after it."""

    def time_models(models, progress, **_):
        progress("round", 0, 10)
        raise AssertionError("went on")

    monkeypatch.setattr(hwprofiles, "time_models", time_models)
    for folder in runs:
        add_export(folder)
    with pytest.raises(TimeoutError, match="time-limit: 0 s were over during 'home: round', 0 of"):
        report(runs, tmp_path / "out", [profile("home")], True, QUIET, time_limit=0)
    assert not (tmp_path / "out").exists()


def test_another_habit_of_the_allocator_is_said(runs, profile, stopwatch, tmp_path, monkeypatch):
    for folder in runs:
        add_export(folder)
    monkeypatch.setattr(hwprofiles, "keep_freed_memory", lambda: True)
    chosen = [profile("old"), profile("new", keeps_freed_memory=True)]
    page = report(runs, tmp_path / "out", chosen, measure=True, console=QUIET).read_text()
    assert "old was measured while freed memory was returned, here it is kept." in page
    assert "new was measured while" not in page


def test_layers_the_profile_does_not_know_are_said(runs, profile, tmp_path):
    wide = {**KWARGS, "channels": [4, 8, 12]}
    other = write_run(tmp_path / "wide", structure=dense(wide), searching=False)
    page = report([*runs, other], tmp_path / "out", [profile("home")], console=QUIET).read_text()
    table = pd.read_csv(tmp_path / "out" / "latency.csv").set_index("run")["predicted_s"]
    assert pd.isna(table["wide"])
    assert table.drop("wide").gt(0).all()
    assert "home was not measured on all layers of wide: no prediction." in page
