"""Run folders written by hand, with round numbers, and profiles that price them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import timm
import torch
from rich.console import Console

import hwprofiles
from cpt_nas.pruning.export import build, export
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, dense_structure
from cpt_nas.train.recipe import Recipe
from tests.support.profiles import eager_fingerprint

MODEL = "cpt_resnet20"
KWARGS = {"layers": [1, 1, 1], "channels": [4, 8, 8], "num_classes": 2, "in_chans": 1}
INPUT = (1, 8, 8)
QUIET = Console(quiet=True)

# name, type, branch, projection, MACs and parameters dense, after: made up, round
LAYERS = [
    ("conv1", "conv2d", "", False, 100, 10, 100, 10),
    ("bn1", "batch_norm2d", "", False, 8, 8, 8, 8),
    ("layer1.0.conv1", "conv2d", "layer1.0", False, 200, 20, 0, 0),
    ("layer1.0.conv2", "conv2d", "layer1.0", False, 200, 20, 0, 0),
    ("layer2.0.conv1", "conv2d", "layer2.0", False, 200, 20, 150, 15),
    ("layer2.0.conv2", "conv2d", "layer2.0", False, 200, 20, 150, 15),
    ("layer2.0:add", "add", "layer2.0", False, 0, 0, 0, 0),
    ("fc", "linear", "", False, 92, 22, 92, 22),
]
LAYER_COLUMNS = ["name", "type", "branch", "projection"]
LAYER_COLUMNS += ["macs_dense", "params_dense", "macs", "params"]


def dense(kwargs=KWARGS, model=MODEL):
    network = timm.create_model(model, **kwargs)
    return dense_structure(find_branches(network), model, dict(kwargs))


def cut(kwargs=KWARGS):
    """layer1.0 gone, 3 of 8 units left in layer2.0, all of layer3.0."""
    values = dense(kwargs).model_dump()
    values["branches"]["layer1.0"]["kept"] = False
    values["branches"]["layer1.0"]["units"]["act1"]["kept"] = []
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
            "target": {"device": "cpu", "threads": 1, "runtime": "onnxruntime"},
        }
        if not searching:
            values |= {"macs": 1000.0, "params": 120.0, "branches": 3, "units": 20}
            values |= {"train_load": 1.0, "cost": "none", "profile": None, "log_gamma": None}
            values |= {"target": None}
    (folder / "result.json").write_text(json.dumps(values | result))
    if epochs_done:
        history(epochs_done, searching).to_csv(folder / "history.csv", index=False)
        structure.save(folder / "structure.json")
    return folder


def add_export(folder):
    structure = Structure.model_validate(json.loads((folder / "structure.json").read_text()))
    torch.manual_seed(0)
    said = {"input_size": list(INPUT), "mean": [0.3], "std": [0.4], "label_names": ["cat", "dog"]}
    export(structure, build(structure).state_dict(), folder / "export", **said)
    return folder


def synthetic_profile(name, per_in_out_s, **workload):
    """A profile in which a conv or linear costs ``per_in_out_s`` x Cin x Cout, twice, and all else
    nothing; the twice is the calibration's scale."""
    latency = {"median_s": 1e-3, "q25_s": 1e-3, "q75_s": 1e-3, "n": 10}
    setting = {"device": "cpu", "models": [MODEL], "input_size": INPUT, "batch_size": 2}
    setting |= {"dtype": "float32", "threads": 1, "channels_last": False, "runtime": "eager"}
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
            "fingerprint": eager_fingerprint().model_dump(),
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
                "calibration": {"scale": 2.0, "n": 1},
            },
            "layers": [
                {
                    **{"signature": x.signature, "type": x.type, "form": x.form, "count": {}},
                    **{"in_channels": x.in_channels, "out_channels": x.out_channels},
                    **{"macs": x.macs, "params": x.params},
                    "activation_bytes": x.activation_bytes,
                    "fit_range": {
                        "in_channels": (1, x.in_channels),
                        "out_channels": (1, x.out_channels),
                    },
                    "alone": {
                        "coefficients": {
                            **{"const_s": 0, "per_in_s": 0, "per_out_s": 0},
                            "per_in_out_s": per_in_out_s if x.type in ("conv2d", "linear") else 0,
                        },
                        **{"fit_error": 0, "dense": latency},
                        "samples": [latency | {"in_channels": 1, "out_channels": 1}],
                    },
                }
                for x in layers.values()
            ],
            "dense": {MODEL: latency | whole | {"memory": memory | {"peak_measured_bytes": None}}},
        }
    )


# Cin x Cout of conv1, layer1.0, layer2.0, layer3.0, fc; twice, for the calibration's scale
DENSE_S = 2e-6 * (1 * 4 + 2 * 4 * 4 + (4 * 8 + 8 * 8) + 2 * 8 * 8 + 8 * 2)
CUT_S = 2e-6 * (1 * 4 + (4 * 3 + 3 * 8) + 2 * 8 * 8 + 8 * 2)


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


def latency_of(measured, noisy=()):
    """Setting -> run -> seconds; ``noisy``: pairs of setting and run."""
    rows = [
        {
            **{"run": run, "profile": setting, "predicted_s": 1e-3, "measured_s": s, "q25_s": s},
            "verdict": "noisy" if (setting, run) in noisy else "ok",
        }
        for setting, times in measured.items()
        for run, s in times.items()
    ]
    return pd.DataFrame(rows).assign(q75_s=lambda table: table["measured_s"])
