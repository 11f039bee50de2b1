"""The main job, end to end, on scikit-learn's digits: measure, train, cut, export, compare."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import timm
import torch
from rich.console import Console
from rich.table import Table

import hwprofiles
from cpt_nas.config import Recipe
from cpt_nas.report import report
from cpt_nas.runfolder import refuse_used
from cpt_nas.train import train
from hwprofiles.cli import progress_bar

INPUT = (1, 16, 16)
MODEL = "cpt_resnet20"


def recipe(epochs: int, profile: str | None) -> Recipe:
    """recipes/digits.yaml to half the latency under a profile; dense where there is none."""
    search = {
        "profile": profile,
        "latency_budget": 0.5,
        "warmup": 0.05,
        "ramp": 0.2,
        "freeze": 0.35,
        "cut_interval": 10,
    }
    return Recipe.from_mapping(
        {
            "model": {"name": MODEL},
            "data": {"name": "digits", "input_size": INPUT, "augment": "crop"},
            "train": {
                "epochs": epochs,
                "batch_size": 64,
                "lr": 0.05,
                "weight_decay": 5e-4,
                "threads": 1,  # more gain little on so small a network
            },
            "search": search if profile is not None else None,
        }
    )


def run(output: Path, epochs: int, console: Console) -> Path:
    """Run the demo in a new folder; returns the report's page.

    Raises:
        ValueError: the folder is in use.
    """
    refuse_used(output)
    output.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    settings = {f"cpu-t{t}-b{b}": (t, b) for t, b in ((1, 1), (threads, 256))}
    profiles = {}
    for name, (count, batch_size) in settings.items():
        console.rule(f"measuring: {name}")
        path = output / f"{name}.yaml"
        model = timm.create_model(MODEL, in_chans=INPUT[0])
        with progress_bar() as progress:
            profile = hwprofiles.measure(
                {MODEL: model},
                input_size=INPUT,
                batch_size=batch_size,
                threads=count,
                name=name,
                progress=progress,
            )
        console.print(f"verdict: {profile.protocol.verdict}", highlight=False)
        hwprofiles.save(profile, path)
        profiles[name] = path
    runs = []
    for name, chosen in [("dense", None), *((n, str(p)) for n, p in profiles.items())]:
        console.rule(f"training: {name}")
        folder = output / name
        train(recipe(epochs, chosen), folder, console=console)
        runs.append(folder)
    console.rule("measuring every model in both settings")
    page = report(runs, output / "report", list(profiles.values()), measure=True)
    console.print(summary(output / "report"))
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    return page


def summary(folder: Path) -> Table:
    """One table of all models: accuracy, size, and predicted / measured latency in each setting."""
    runs = pd.read_csv(folder / "runs.csv")
    latency = pd.read_csv(folder / "latency.csv")
    settings = list(dict.fromkeys(latency["profile"]))
    columns = ["model", "acc. %", "MACs M", "params k", "layers"]
    columns += [f"{s}\n{kind} ms" for s in settings for kind in ("predicted", "measured")]
    table = Table(*columns, title="latency in each setting")
    for _, row in runs.iterrows():
        cells = [
            str(row["name"]),
            f"{row['accuracy']:.2f}",
            f"{row['macs'] / 1e6:.2f}",
            f"{row['params'] / 1e3:.1f}",
            f"{row['layers_left']:.0f} of {row['layers']:.0f}",
        ]
        for setting in settings:
            chosen = latency[(latency["run"] == row["name"]) & (latency["profile"] == setting)]
            times = chosen[["predicted_s", "measured_s"]].iloc[0] * 1e3
            cells += [f"{times['predicted_s']:.2f}", f"{times['measured_s']:.2f}"]
        table.add_row(*cells)
    return table
