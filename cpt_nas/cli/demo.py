"""The main job, end to end, on scikit-learn's digits: measure, train, cut, export, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import timm
import torch
from rich.console import Console
from rich.table import Table

import hwprofiles
from cpt_nas.calibration.profiling import calibrate
from cpt_nas.report.report import report
from cpt_nas.train.opening import refuse_used
from cpt_nas.train.recipe import RECIPES, Recipe, load_recipe
from cpt_nas.train.train import train
from hwprofiles.runtimes import RUNTIMES, find_runtime
from hwprofiles.runtimes.base import Setting as RuntimeSetting
from hwprofiles.terminal import progress_bar

# Runtimes that rewrite the graph, the first one that is installed is taken.
REWRITING = ("onnxruntime", "openvino")
LARGE_BATCH = 256
# Cut networks that costs are fitted to, and seconds of measuring: enough to tell settings apart.
STRUCTURES, MEASURED_S = 40, 4.0


@dataclass(frozen=True)
class Setting:
    """A setting on the CPU."""

    runtime: str
    threads: int
    batch_size: int


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


def settings(runtimes: Sequence[str] | None) -> dict[str, Setting]:
    """What the demo profiles, by name: one thread and batch 1 in each runtime.

    Args:
        runtimes: names; None: eager mode, and beside it a runtime that rewrites the graph, where a
            branch costs less and widths are padded. Where none is installed, eager mode with all
            threads and a large batch.

    Raises:
        ValueError: an unknown runtime, or one that cannot run here.
    """
    if runtimes is None:
        others = [n for n in REWRITING if not RUNTIMES[n].missing()]
        runtimes = ["eager", *others[:1]]
        if not others:
            several = Setting("eager", torch.get_num_threads(), LARGE_BATCH)
            return {"eager": Setting("eager", 1, 1), f"eager-b{LARGE_BATCH}": several}
    for name in runtimes:
        find_runtime(name).check(RuntimeSetting(torch.device("cpu"), torch.float32, 1, False))
    return {name: Setting(name, 1, 1) for name in runtimes}


def run(output: Path, epochs: int, console: Console, runtimes: Sequence[str] | None = None) -> Path:
    """Run the demo in a new folder; returns the report's page.

    Args:
        output: the folder.
        epochs: of each training.
        console: where it is told.
        runtimes: see :func:`settings`.

    Raises:
        ValueError: the folder is in use, or a runtime cannot run here.
    """
    refuse_used(output)
    chosen_settings = settings(runtimes)
    dense = recipe(epochs, None)
    name_of_model, input_size = dense.model.name, dense.data.input_size
    made: dict[str, hwprofiles.Profile] = {}
    for name, setting in chosen_settings.items():
        console.rule(f"measuring: {name}")
        models = {name_of_model: timm.create_model(name_of_model, in_chans=input_size[0])}
        with progress_bar() as progress:
            profile = hwprofiles.measure(
                models,
                input_size=input_size,
                batch_size=setting.batch_size,
                threads=setting.threads,
                runtime=setting.runtime,
                name=name,
                min_s=MEASURED_S,
                progress=progress,
            )
            profile = calibrate(
                profile, models, structures=STRUCTURES, min_s=MEASURED_S, progress=progress
            )
        console.print(f"verdict: {profile.protocol.verdict}", highlight=False)
        made[name] = profile
    output.mkdir(parents=True, exist_ok=True)  # no runtime has refused by now
    profiles = {name: output / f"{name}.yaml" for name in made}
    for name, path in profiles.items():
        hwprofiles.save(made[name], path)
    runs = []
    for name, chosen in [("dense", None), *((n, str(p)) for n, p in profiles.items())]:
        console.rule(f"training: {name}")
        folder = output / name
        train(recipe(epochs, chosen), folder, console=console)
        runs.append(folder)
    console.rule("measuring every model in every setting")
    page = report(runs, output / "report", list(profiles.values()), measure=True)
    for table in summary(output / "report"):
        console.print(table)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
    return page


def summary(folder: Path) -> list[Table]:
    """Two tables of all models, in no more than 80 columns: sizes, and latency in each setting."""
    runs = pd.read_csv(folder / "runs.csv")
    latency = pd.read_csv(folder / "latency.csv")
    sizes = _table("models", ["model", "acc. %", "MACs M", "params k", "layers"])
    for _, row in runs.iterrows():
        sizes.add_row(
            str(row["name"]),
            f"{row['accuracy']:.2f}",
            f"{row['macs'] / 1e6:.2f}",
            f"{row['params'] / 1e3:.1f}",
            f"{row['layers_left']:.0f} of {row['layers']:.0f}",
        )
    settings = list(dict.fromkeys(latency["profile"]))
    times = _table("ms a batch in each setting: measured (predicted)", ["model", *settings])
    for run in runs["name"]:
        cells = [str(run)]
        for setting in settings:
            chosen = latency[(latency["run"] == run) & (latency["profile"] == setting)]
            ms = chosen[["predicted_s", "measured_s"]].iloc[0] * 1e3
            cells.append(f"{ms['measured_s']:.2f} ({ms['predicted_s']:.2f})")
        times.add_row(*cells)
    return [sizes, times]


def _table(title: str, columns: Sequence[str]) -> Table:
    """A long name goes on in the next line; it is never cut."""
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if i == 0 else "right")
    return table
