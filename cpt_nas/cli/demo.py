"""The main job, end to end, on scikit-learn's digits: measure, train, cut, export, compare."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import timm
import torch
from rich.console import Console
from rich.table import Table

import hwprofiles
from cpt_nas.report.report import report
from cpt_nas.train.opening import refuse_used
from cpt_nas.train.recipe import RECIPES, Recipe, load_recipe
from cpt_nas.train.train import train
from hwprofiles.terminal import progress_bar


def recipe(epochs: int, profile: str | None) -> Recipe:
    """The packaged recipe digits, to half the latency under a profile; dense where there is none.

    Args:
        epochs: of the training.
        profile: a cost profile's file, or None.
    """
    packaged = RECIPES / "digits.yaml"  # not the name, which a file of the user's may have
    changes = [f"train.epochs={epochs}"]
    if profile is None:
        return load_recipe(packaged, [*changes, "search=null"])
    changes += ["search.macs_budget=null", "search.latency_budget=0.5"]
    values = load_recipe(packaged, changes).model_dump()
    values["search"]["profile"] = profile
    return Recipe.from_mapping(values)


def run(output: Path, epochs: int, console: Console) -> Path:
    """Run the demo in a new folder; returns the report's page.

    Raises:
        ValueError: the folder is in use.
    """
    refuse_used(output)
    dense = recipe(epochs, None)
    output.mkdir(parents=True, exist_ok=True)
    name_of_model, input_size = dense.model.name, dense.data.input_size
    threads = torch.get_num_threads()
    settings = {f"cpu-t{t}-b{b}": (t, b) for t, b in ((1, 1), (threads, 256))}
    profiles = {}
    for name, (count, batch_size) in settings.items():
        console.rule(f"measuring: {name}")
        path = output / f"{name}.yaml"
        model = timm.create_model(name_of_model, in_chans=input_size[0])
        with progress_bar() as progress:
            profile = hwprofiles.measure(
                {name_of_model: model},
                input_size=input_size,
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
