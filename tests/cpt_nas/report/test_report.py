"""Reports from run folders written by hand: tables, figures, page, latencies, faulty folders."""

import base64
import io
import json
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from matplotlib.patches import Rectangle
from PIL import Image
from rich.console import Console

import hwprofiles
from cpt_nas.pruning.export import build, export
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, dense_structure
from cpt_nas.report import axes, figures, tables
from cpt_nas.report.report import report
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.run_folder import load_runs, short_names
from hwprofiles.device import fingerprint

MODEL = "cpt_resnet20"
KWARGS = {"layers": [1, 1, 1], "channels": [4, 8, 8], "num_classes": 2, "in_chans": 1}
INPUT = (1, 8, 8)
QUIET = Console(quiet=True)

# name, type, branch, MACs and parameters dense, after: made up, round
LAYERS = [
    ("conv1", "conv2d", "", 100, 10, 100, 10),
    ("bn1", "batch_norm2d", "", 8, 8, 8, 8),
    ("layer1.0.conv1", "conv2d", "layer1.0", 200, 20, 0, 0),
    ("layer1.0.conv2", "conv2d", "layer1.0", 200, 20, 0, 0),
    ("layer2.0.conv1", "conv2d", "layer2.0", 200, 20, 150, 15),
    ("layer2.0.conv2", "conv2d", "layer2.0", 200, 20, 150, 15),
    ("layer2.0:add", "add", "layer2.0", 0, 0, 0, 0),
    ("fc", "linear", "", 92, 22, 92, 22),
]
LAYER_COLUMNS = ["name", "type", "branch", "macs_dense", "params_dense", "macs", "params"]
SECTIONS = [
    "Runs",
    "Latency: every model in every setting",
    "Structures side by side",
    "Layers before and after",
    "Units left in every group",
    "Training load",
    "Accuracy and expected cost",
]


def dense(kwargs=KWARGS, model=MODEL):
    network = timm.create_model(model, **kwargs)
    return dense_structure(find_branches(network), model, dict(kwargs))


def cut(kwargs=KWARGS):
    """layer1.0 gone, 3 of 8 units left in layer2.0, all of layer3.0."""
    values = dense(kwargs).model_dump()
    values["branches"]["layer1.0"]["kept"] = False
    values["branches"]["layer2.0"]["units"]["act1"]["kept"] = [1, 4, 6]
    return Structure.model_validate(values)


def recipe(search, model=MODEL, kwargs=KWARGS, epochs=3):
    return Recipe.from_mapping(
        {
            "model": {"name": model, "kwargs": kwargs},
            "data": {"input_size": INPUT},
            "train": {"epochs": epochs, "seed": 7},
            "search": {} if search else None,
        }
    )


def history(epochs, searching):
    e = np.arange(1, epochs + 1)
    share = np.where(e > 1, 0.6, 1.0) if searching else np.ones(epochs)
    return pd.DataFrame(
        {
            "epoch": e,
            "step": 10 * e,
            "lr": 0.1,
            "log_gamma": np.nan,
            "train_loss": 1.0 / e,
            "train_acc": 50.0 + 10 * e,
            "test_loss": 1.0 / e,
            "test_acc": 50.0 + 10 * e,
            "expected_cost": share,
            "macs": 1000 * share,
            "params": 120 * share,
            "macs_ratio": share,
            "params_ratio": share,
            "branches_left": np.where(share < 1, 2, 3),
            "units_left": np.where(share < 1, 11, 20),
            "undecided": 0.0,
            "epoch_s": 20.0,
            "train_macs": 1000.0,
            "train_load": np.cumsum(share) / e,
        }
    )


def write_run(folder, searching=True, status="finished", epochs_done=3, structure=None, **result):
    """A run folder; with ``status='running'`` only what has been written by then."""
    folder.mkdir(parents=True)
    structure = structure or (cut() if searching else dense())
    model, kwargs = structure.architecture, structure.model_kwargs
    (folder / "recipe.yaml").write_text(recipe(searching, model, kwargs).to_yaml())
    values = {"status": status, "kind": "search" if searching else "dense", "model": model}
    if status == "finished":
        layers = pd.DataFrame(LAYERS, columns=LAYER_COLUMNS)
        if not searching:
            layers["macs"], layers["params"] = layers["macs_dense"], layers["params_dense"]
        layers.to_csv(folder / "layers.csv", index=False)
        values |= {
            **{"test_acc": 90.0, "test_loss": 0.3, "macs_dense": 1000.0, "params_dense": 120.0},
            **{"macs": 600.0, "params": 30.0, "branches": 2, "branches_dense": 3},
            **{"units": 11, "units_dense": 20, "train_load": 0.75, "wall_s": 61.5, "seed": 7},
            **{"epochs": 3, "cost": "latency", "profile": "home", "profile_fingerprint": "0" * 12},
            **{"log_gamma": 0.02, "alpha": 0.5, "kappa": 0.0},
        }
        if not searching:
            values |= {"macs": 1000.0, "params": 120.0, "branches": 3, "units": 20}
            values |= {"train_load": 1.0, "cost": "none", "profile": None, "log_gamma": None}
    (folder / "result.json").write_text(json.dumps(values | result))
    if epochs_done:
        history(epochs_done, searching).to_csv(folder / "history.csv", index=False)
        structure.save(folder / "structure.json")
    return folder


def add_export(folder):
    structure = Structure.model_validate(json.loads((folder / "structure.json").read_text()))
    torch.manual_seed(0)
    export(structure, build(structure).state_dict(), folder / "export")
    return folder


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    monkeypatch.setattr("cpt_nas.report.report.DPI", 40)


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "dense", searching=False), write_run(tmp_path / "searched")]


def synthetic_profile(name, per_in_out_s, **workload):
    """A profile in which a conv or linear costs ``per_in_out_s`` x Cin x Cout, twice, and all else
    nothing; the twice is the calibration's scale."""
    latency = {"median_s": 1e-3, "q25_s": 1e-3, "q75_s": 1e-3, "n": 10}
    setting = {"device": "cpu", "models": [MODEL], "input_size": INPUT, "batch_size": 2}
    setting |= {"dtype": "float32", "threads": 1, "channels_last": False}
    setting["keeps_freed_memory"] = False
    network = timm.create_model(MODEL, **KWARGS)
    layers = {x.signature: x for x in hwprofiles.trace(network, torch.zeros(1, *INPUT))}
    shares = {"share_layers": 0, "share_macs": 0.5, "share_params": 0.5, "fit_error": 0}
    per_unit = {"seconds_per_layer": 0, "seconds_per_mac": 0, "seconds_per_param_byte": 0}
    memory = {"parameter_bytes": 0, "activation_bytes": 0, "peak_analytic_bytes": 0}
    whole = {"p90_s": 1e-3, "p99_s": 1e-3, "sum_of_layers_s": 1e-3, "explained": 1.0, "macs": 0}
    whole |= {"params": 0, "calibrated_error": 0, "unattributed_ops": []}
    return hwprofiles.profile_file.parse(
        {
            "name": name,
            "created": {
                **{"utc": "2026-01-01T00:00:00+00:00", "tool_version": "0", "command": ""},
                **{"seed": 0, "wall_s": 0},
            },
            "fingerprint": fingerprint("cpu").model_dump(),
            "workload": setting | workload,
            "protocol": {
                **{"timer": "none", "rounds": 10, "warm_up_s": 0, "cache": "none"},
                **{"statistic": "none", "load_average": 0, "spread": 0, "verdict": "ok"},
                "contention": None,
                "anchor": {
                    **{"first_s": 1e-4, "last_s": 1e-4, "spread": 0},
                    **{"exponent": 1.0, "reference_s": 1e-4},
                },
            },
            "units": {"time": "s", "memory": "byte", "macs": "1 per multiply-add"},
            "weights": {"kappa": 0, "alpha": 0.5, **shares, **per_unit},
            "cost_model": {
                "form": "a + b*Cin + c*Cout + d*Cin*Cout; one-channel layers a + b*C",
                "loss": "relative squared error, coefficients not negative",
                "channel_divisor": {"value": 1, "sweeps": []},
                "calibration": {"scale": 2.0, "offset_s": 0.0, "n": 1},
            },
            "layers": [
                {
                    **{"signature": x.signature, "type": x.type, "form": x.form, "count": {}},
                    **{"in_channels": x.in_channels, "out_channels": x.out_channels},
                    **{"macs": x.macs, "params": x.params, "fit_error": 0, "dense": latency},
                    "activation_bytes": x.activation_bytes,
                    "coefficients": {
                        **{"const_s": 0, "per_in_s": 0, "per_out_s": 0},
                        "per_in_out_s": per_in_out_s if x.type in ("conv2d", "linear") else 0,
                    },
                    "fit_range": {
                        "in_channels": (1, x.in_channels),
                        "out_channels": (1, x.out_channels),
                    },
                    "samples": [latency | {"in_channels": 1, "out_channels": 1}],
                }
                for x in layers.values()
            ],
            "dense": {MODEL: latency | whole | {"memory": memory | {"peak_measured_bytes": None}}},
        }
    )


@pytest.fixture
def profile(tmp_path):
    """Writes a synthetic profile and returns its file."""

    def write(name, per_in_out_s=1e-6, **workload):
        path = tmp_path / f"{name}.yaml"
        hwprofiles.save(synthetic_profile(name, per_in_out_s, **workload), path)
        return path

    return write


# Cin x Cout of conv1, layer1.0, layer2.0, layer3.0, fc; twice, for the calibration's scale
DENSE_S = 2e-6 * (1 * 4 + 2 * 4 * 4 + (4 * 8 + 8 * 8) + 2 * 8 * 8 + 8 * 2)
CUT_S = 2e-6 * (1 * 4 + (4 * 3 + 3 * 8) + 2 * 8 * 8 + 8 * 2)


@pytest.fixture
def stopwatch(monkeypatch):
    """Fake times in place of hwprofiles.time_models; the list holds what it was called with."""
    calls = []
    milliseconds = {"dense": 8.0, "searched": 2.0}

    def time_models(models, threads, min_s, channels_last, progress):
        assert min_s >= len(models)  # seconds
        calls.append((models, threads, channels_last))
        progress("round", 1, 1)
        spread = np.linspace(0.99, 1.01, 11)
        return {
            label: hwprofiles.Measurement(tuple(1e-3 * milliseconds[label] * spread))
            for label in models
        }

    monkeypatch.setattr(hwprofiles, "time_models", time_models)
    return calls


# ---- tables -----------------------------------------------------------------------------------


def test_a_row_a_run(runs, tmp_path):
    report(runs, tmp_path / "out", console=QUIET)
    table = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("name")
    assert list(table.index) == ["dense", "searched"]
    row = table.loc["searched"]
    expected = {
        **{"status": "finished", "model": MODEL, "kind": "search", "cost": "latency"},
        **{"profile": "home", "seed": 7, "epochs": 3, "epochs_done": 3, "accuracy": 90.0},
        **{"macs": 600.0, "params": 30.0, "macs_dense": 1000.0, "params_dense": 120.0},
        **{"layers_left": 4, "layers": 6, "branches_left": 2, "branches": 3},
        **{"units_left": 11, "units": 20, "train_load": 0.75, "wall_s": 61.5},
    }
    assert {key: row[key] for key in expected} == expected
    assert row["fPR"] == pytest.approx(40.0)  # 1 - 600/1000
    assert row["pPR"] == pytest.approx(75.0)  # 1 - 30/120
    whole = table.loc["dense"]
    assert (whole["fPR"], whole["pPR"], whole["layers_left"]) == (0, 0, 6)
    assert pd.isna(whole["profile"])


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


# ---- latency ----------------------------------------------------------------------------------


def test_predicted_latency_and_speed_up(runs, profile, tmp_path):
    chosen = [profile("home", 1e-6), profile("away", 3e-6, batch_size=64)]
    report(runs, tmp_path / "out", chosen, console=QUIET)
    table = pd.read_csv(tmp_path / "out" / "latency.csv")
    columns = "run profile predicted_s measured_s q25_s q75_s n verdict"
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
    assert "home: cpu, 1 thread, batch 2, float32." in page


def test_no_two_runs_look_alike():
    styles = axes.run_styles([str(i) for i in range(28)]).values()
    assert len({(s["color"], s["marker"]) for s in styles}) == 28
    assert len({(s["color"], s["linestyle"]) for s in styles}) == 28


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
    assert table.loc["half"].isna().all(axis=None)
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


def test_speed_ups_need_a_dense_run_of_the_same_network(runs, profile, tmp_path):
    report(runs[1:], tmp_path / "out", [profile("home")], console=QUIET)
    row = pd.read_csv(tmp_path / "out" / "runs.csv").iloc[0]
    assert row["predicted_s:home"] == pytest.approx(CUT_S)
    assert pd.isna(row["predicted_speedup:home"])


# ---- page and figures -------------------------------------------------------------------------


def test_the_page_holds_everything(runs, profile, stopwatch, tmp_path):
    for folder in runs:
        add_export(folder)
    path = report(runs, tmp_path / "out", [profile("home"), profile("away")], True, QUIET)
    assert path == tmp_path / "out" / "report.html"
    page = path.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    names = ["latency", "accuracy_latency", f"structures_{MODEL}", "layers_searched"]
    names += [f"units_{MODEL}", "training_load", "progress"]
    files = [tmp_path / "out" / "figures" / f"{name}.png" for name in names]
    assert len(encoded) == len(names)
    for content, file in zip(encoded, files, strict=True):
        data = base64.b64decode(content)
        assert data == file.read_bytes()
        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert np.ptp(grey) > 100  # something is drawn
    assert len(re.findall("<table", page)) == 3  # runs, predicted, measured
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from elsewhere
    assert "prefers-color-scheme: dark" in page
    assert ">nan<" not in page.lower()
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    first = ["allocations.csv", "budgets.csv", "cross.csv", "figures", "history.csv"]
    first += ["latency.csv", "layers.csv"]
    assert left == [*first, "report.html", "runs.csv", "search.csv", "structures.csv"]


def test_names_are_escaped(tmp_path):
    folder = write_run(tmp_path / "<b>&run")
    page = report([folder], tmp_path / "out", console=QUIET).read_text()
    assert "&lt;b&gt;&amp;run" in page
    assert "<b>" not in page


def test_runs_of_other_models_get_their_own_figures(runs, tmp_path):
    structure = dense({"num_classes": 2, "in_chans": 1}, "resnet18")
    other = write_run(tmp_path / "other", structure=structure, searching=False)
    report([*runs, other], tmp_path / "out", console=QUIET)
    figures = {p.stem for p in (tmp_path / "out" / "figures").iterdir()}
    assert {f"structures_{MODEL}", "structures_resnet18", "units_resnet18"} <= figures


def test_removed_layers_are_shaded(runs):
    _, run = load_runs(runs)
    figure = figures.layers_figure(run.layers, "searched")
    macs, params = figure.axes
    for ax, what in ((macs, "macs"), (params, "params")):
        spans = [p for p in ax.patches if isinstance(p, Rectangle)]
        assert [p.get_x() + 0.5 for p in spans] == [1, 2]  # layer1.0's convs
        assert ax.get_yscale() == "log"
        before, after = (line.get_ydata() for line in ax.get_lines())
        weights = [row for row in LAYERS if row[1] in ("conv2d", "linear")]
        column = LAYER_COLUMNS.index(what)
        assert list(before) == [row[column - 2] for row in weights]
        shown = [np.nan if row[column] == 0 else row[column] for row in weights]
        np.testing.assert_array_equal(after, shown)
    assert [t.get_text() for t in params.get_xticklabels()] == [row[0] for row in weights]


def test_units_and_structures_figures(runs):
    structures = tables.structures_table(load_runs(runs))
    figure = figures.units_figure(structures, ["dense", "searched"])
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == [4, 8, 8, 0, 3, 8]  # totals, then what is left
    figure = figures.structures_figure(structures, ["dense", "searched"])
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts == ["4/4", "removed", "8/8", "3/8", "8/8", "8/8"]


def latency_of(measured):
    rows = [
        {"run": run, "profile": setting, "predicted_s": 1e-3, "measured_s": s, "q25_s": s}
        for setting, times in measured.items()
        for run, s in times.items()
    ]
    return pd.DataFrame(rows).assign(q75_s=lambda table: table["measured_s"])


def test_the_fastest_of_each_setting_is_framed():
    nan = float("nan")
    table = latency_of({"x": {"a": 3e-3, "b": 2e-3, "c": nan}, "y": {"a": 0.1, "b": 0.5, "c": nan}})
    figure = figures.cross_figure(table, ["a", "b", "c"], measured=True)
    frames = [(round(p.get_x() + 0.48), round(p.get_y() + 0.46)) for p in figure.axes[0].patches]
    assert frames == [(0, 1), (1, 0)]
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[0] == "3.00 ms\npredicted 1.00 ms"
    assert texts[3] == "500 ms\npredicted 1.00 ms"
    assert texts[4].startswith("not known")


def test_accuracy_against_latency_shows_only_what_is_known():
    table = latency_of({"x": {"a": 3e-3, "b": float("nan")}})
    accuracies = pd.DataFrame({"name": ["a", "b"], "accuracy": [90.0, 80.0]})
    figure = figures.accuracy_figure(accuracies, table, measured=True)
    (ax,) = figure.axes
    assert [c.get_label() for c in ax.containers] == ["a"]
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[3.0, 90.0]]
    assert "(ms)" in ax.get_xlabel()
    low, high = ax.get_ylim()
    assert low < 90 < high


NAMES = [f"a-rather-long-run-name-of-number-{i}" for i in range(20)]


@pytest.mark.filterwarnings("error")  # matplotlib warns where it gives up the layout
def test_many_layers_and_long_names_keep_apart():
    table = latency_of({"one-thread-batch-1": dict.fromkeys(NAMES, 1e-3), "y": {}})
    cross = figures.cross_figure(table, NAMES, measured=True)
    layers = pd.DataFrame(
        [(f"layer{i}.conv1", "conv2d", "", 9, 9, 9, 9) for i in range(156)], columns=LAYER_COLUMNS
    )
    many = figures.layers_figure(layers, "deep")
    for figure, labels in (
        (cross, cross.axes[0].get_yticklabels()),
        (many, many.axes[1].get_xticklabels()),
    ):
        figure.savefig(io.BytesIO(), format="png")  # lays it out
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) > 5
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


@pytest.mark.filterwarnings("error")
def test_a_long_legend_leaves_the_axes_their_room():
    histories = {name: history(3, True) for name in NAMES}
    accuracies = pd.DataFrame({"name": NAMES, "accuracy": 90.0})
    times = latency_of({"x": dict.fromkeys(NAMES, 1e-3)})
    for figure in (
        figures.progress_figure(histories),
        figures.training_load_figure(histories),
        figures.accuracy_figure(accuracies, times, measured=True),
    ):
        figure.savefig(io.BytesIO(), format="png")
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == NAMES
        inside = figure.bbox.padded(2)  # pixels, for rounding
        assert inside.containsx(legend.get_window_extent().x0)
        assert inside.containsx(legend.get_window_extent().x1)
        for ax in figure.axes:
            height, width = ax.get_window_extent().size[::-1] / figure.dpi
            assert height > 1.5  # inches
            assert width > 5
            assert not ax.get_tightbbox().overlaps(legend.get_window_extent())


# ---- errors -----------------------------------------------------------------------------------


def refuse(message, out, *arguments, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        report(*arguments, console=QUIET, **kwargs)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", None, "has no result.json; is it a run folder"),
        ("result.json", "{", "result.json is not JSON"),
        ("result.json", "[]", "result.json: status is None, must be finished or running"),
        ("result.json", '{"status": "done"}', "status is 'done', must be"),
        (
            "result.json",
            '{"status": "finished", "kind": "dense"}',
            "result.json has no model, test",
        ),
        ("recipe.yaml", None, "recipe.yaml: recipe: no such file"),
        ("recipe.yaml", "model: {name: x}\nextra: 1", "recipe.yaml: extra: unknown key"),
        ("structure.json", None, "structure.json: structure: no such file"),
        ("structure.json", "{}", "structure.json: structure: .*architecture"),
        ("layers.csv", None, "has no layers.csv, although it is finished"),
        ("layers.csv", "name,type\na,b\n", "layers.csv has no column branch, macs_dense"),
        ("history.csv", None, "has no history.csv"),
        ("history.csv", "", "history.csv is not a CSV table"),
        ("history.csv", "epoch\nx\n", "history.csv has no column step, lr"),
    ],
)
def test_a_faulty_run_folder_is_named(runs, tmp_path, file, content, message):
    if content is None:
        (runs[1] / file).unlink()
    else:
        (runs[1] / file).write_text(content)
    refuse(f"^run: {re.escape(str(runs[1]))}.*{message}", tmp_path / "out", runs, tmp_path / "out")


def test_text_in_a_column_of_numbers_is_named(runs, tmp_path):
    table = history(3, True).astype({"test_acc": object})
    table.loc[1, "test_acc"] = "good"
    table.to_csv(runs[1] / "history.csv", index=False)
    message = "history.csv: column test_acc must hold numbers"
    refuse(message, tmp_path / "out", runs, tmp_path / "out")


def test_faulty_arguments_are_named(runs, profile, tmp_path, monkeypatch):
    out = tmp_path / "out"
    refuse("runs: none given", out, [], out)
    refuse("run: no such folder: nowhere", out, [*runs, "nowhere"], out)
    refuse("runs: .*dense is given twice", out, [*runs, tmp_path / "." / "dense"], out)
    refuse("--measure: needs a profile", out, runs, out, measure=True)
    with pytest.raises(FileNotFoundError, match="profile: no file nosuch"):
        report(runs, out, ["nosuch"])
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"name": "x"}))
    refuse("broken.yaml: ", out, runs, out, [broken])
    first = profile("home")
    again = first.rename(tmp_path / "again.yaml")
    refuse("profile: two are named 'home'", out, runs, out, [again, profile("home", 5e-6)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = profile("gpu", device="cuda")
    refuse("profile gpu: .*no CUDA device here", out, runs, out, [gpu], measure=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_broken_export_is_named(runs, profile, tmp_path, file):
    for folder in runs:
        add_export(folder)
    (runs[1] / "export" / file).write_bytes(b"broken")
    out = tmp_path / "out"
    refuse("searched: export cannot be loaded", out, runs, out, [profile("home")], measure=True)
    (runs[1] / "export" / file).unlink()
    refuse(f"searched has no export/{file}", out, runs, out, [profile("home")], measure=True)


def test_an_output_that_is_a_file_is_named(runs, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"output: .* is a file, must be a folder"):
        report(runs, tmp_path / "out", console=QUIET)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_report_can_be_made_again(runs, tmp_path):
    report(runs, tmp_path / "out", console=QUIET)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    report(runs[:1], tmp_path / "out", console=QUIET)
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 1
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


# ---- budgets ----------------------------------------------------------------------------------

BUDGET = {
    **{"budgets": {"latency": 2e-3, "params": 60.0}, "binding": "latency", "forced": 3},
    **{"dense_costs": {"latency": 8e-3, "params": 120.0}, "undecided_at_freeze": 0.01},
}


def trace() -> pd.DataFrame:
    rows = []
    for step in (25, 50, 75):
        row = {"step": step, "branches": 3, "units": 20, "undecided": 0.1}
        row |= {"log_gamma:latency": 0.0 if step == 25 else 0.1, "target:latency": 0.9}
        row |= {"cost:latency": 0.95} | {f"theta_{i}": i for i in range(10)}
        rows.append(row)
    return pd.DataFrame(rows)


def allocations() -> pd.DataFrame:
    """Two branches with a group each; the first has gone at the third allocation."""
    rows = []
    for step, threshold in ((25, 0.0), (50, 0.2), (75, 0.4)):
        for branch in ("a", "b")[step == 75 :]:
            for group, kept in (("", 0 if branch == "a" else 1), ("g", 3)):
                cells = {
                    "step": step,
                    "branch": branch,
                    "threshold_importance_per_cost": threshold,
                    "group": group,
                }
                cells |= {
                    "theta": 0.9,
                    "importance": 0.02,
                    "marginal_cost": 0.1,
                    "noise": 0.01,
                    "params": 0.1,
                    "importance_per_cost": 0.2,
                }
                rows.append(cells | {"kept": kept})
    return pd.DataFrame(rows)


def test_importance_is_drawn_where_there_was_a_threshold() -> None:
    figure = figures.importance_figure(allocations(), "x")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "a / g", "b", "b / g"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["50", "75"]
    assert len(ax.lines) == 1  # the branch that was to close


@pytest.mark.parametrize(("reached_ms", "kept"), [(1.98, True), (1.5, False)])
def test_a_promise_that_is_not_kept_is_said(
    tmp_path, stopwatch, profile, reached_ms: float, kept: bool
) -> None:
    reached = {"latency": 1e-3 * reached_ms, "params": 30.0}
    folder = add_export(write_run(tmp_path / "searched", reached=reached, **BUDGET))
    trace().to_csv(folder / "search.csv", index=False)
    allocations().to_csv(folder / "allocations.csv", index=False)
    out = tmp_path / "out"
    page = report([folder], out, [profile("home")], True, QUIET).read_text()
    table = pd.read_csv(out / "budgets.csv").set_index("measure")
    latency = table.loc["latency"]
    assert (latency["dense"], latency["budget"], latency["forced"]) == (8e-3, 2e-3, 3)
    assert latency["measured_s"] == pytest.approx(2e-3)
    assert latency["off"] == pytest.approx(2 / reached_ms - 1)
    assert table["binding"].tolist() == [True, False] and pd.isna(table.loc["params", "off"])
    assert ("is not within 5%" in page) != kept
    assert ("Every measured latency is within 5%" in page) == kept
    row = pd.read_csv(out / "runs.csv").iloc[0]
    assert row["budget:params"] == 60 and row["reached:params"] == 30 and row["forced"] == 3
    cross = pd.read_csv(out / "cross.csv").set_index("run")
    assert cross.loc["searched", "measured_ms:home"] == pytest.approx(2.0)
    assert len(pd.read_csv(out / "search.csv")) == 3
    assert (out / "figures" / "search_searched.png").exists()
    assert (out / "figures" / "importance_searched.png").exists()
    assert len(pd.read_csv(out / "allocations.csv")) == len(allocations())


def test_the_pareto_front_is_what_nothing_beats() -> None:
    times, accuracies = pd.Series([3.0, 1.0, 2.0, 2.5]), pd.Series([90.0, 70.0, 85.0, 80.0])
    assert figures.pareto(times, accuracies) == ([1.0, 2.0, 3.0], [70.0, 85.0, 90.0])
    assert figures.pareto(pd.Series(dtype=float), pd.Series(dtype=float)) == ([], [])


def test_a_search_of_one_row_is_drawn() -> None:
    figure = figures.search_figure(trace().head(1), "x")
    assert len(figure.axes) >= 3


def test_a_broken_trace_is_named(tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    trace().drop(columns="theta_3").to_csv(folder / "search.csv", index=False)
    with pytest.raises(ValueError, match=r"search.csv has no column theta_3"):
        load_runs([folder])
