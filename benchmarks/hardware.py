"""Does hardware matter? One network is searched under several costs and scaled by hand.

    python benchmarks/hardware.py --data FOLDER -o runs/hardware [--seeds 0 1 2] [--jobs 4]

FOLDER holds train.tar.gz and test.tar.gz of the CIFAR-10 images. These ResNet-20s are trained:

* searched to half of the latency by this machine's profiles of three settings (one thread at batch
  1 and at batch 64, four threads at batch 1), and to the latency that the network for one of the
  single-thread settings has in the other one, so that both can be compared at one latency;
* searched to half of the MACs, to the MACs that leave half of the latency, and to half of the
  parameters;
* the structures found at half of the latency, retrained from scratch;
* the dense network;
* networks scaled by hand, for each setting the narrower one, the one with most blocks at the front
  and the one with most blocks at the back whose measured latency is nearest to half. Widths are
  tried as they come and rounded to multiples of 8.

At the end every network is measured in all settings.

Trainings run side by side, seed by seed. Interrupted ones go on and finished ones are not repeated,
so the command can be stopped and given again. ``--report-only`` trains nothing and reports what is
finished. The measurements need a machine that does nothing else. Writes docs/results/hardware.csv
(a row a run), docs/results/hardware_allocations.csv (the importances in the searches), the profiles
and figures in docs/results/hardware, and the tables in docs/results/hardware.md. Rows of
hardware.csv whose runs are not in the output folder stay, and are measured again, too.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import markdown
import pandas as pd
import shapes
import timm
import torch
from shapes import MODEL, SETTINGS, SIZE, Shape

import hwprofiles
from cpt_nas.report import figures
from cpt_nas.train.run_folder import load_runs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "results"
RECIPE = ROOT / "cpt_nas" / "recipes" / "cifar10_resnet20.yaml"
BUDGET = 0.5
# The network for batch 1 has 0.45 of the latency at batch 64; that for batch 64 has 0.54 at 1.
SEARCHES = (*((setting, BUDGET) for setting in SETTINGS), ("t1-b64", 0.45), ("t1-b1", 0.54))
# With 0.4 of the MACs half of the latency is left at batch 64, with 0.28 of them at batch 1.
COUNTED = (("macs", BUDGET), ("macs", 0.4), ("macs", 0.28), ("params", BUDGET))
GATED_STEP = 1.03  # over a plain step, by benchmarks/gate_overhead.py
FRONT = ((3, 3, 2), (3, 2, 2), (2, 2, 2), (2, 2, 1), (2, 1, 1), (1, 1, 1))  # blocks in each stage
BACK = ((2, 3, 3), (2, 2, 3), (1, 2, 3), (1, 2, 2), (1, 1, 3), (1, 1, 2))
CHANNELS = (16, 32, 64)
DPI = 130
WIDTHS = tuple(x / 20 for x in range(4, 20))  # factors of the channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="needed for training")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/hardware"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=hwprofiles.usable_cores())
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.report_only:
        parser.error("--data: the folder with the images is missing (or give --report-only)")
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    profiles = {name: output / f"{name}.yaml" for name in SETTINGS}
    for name, path in profiles.items():
        if path.exists():
            continue
        if arguments.report_only:  # the committed searches ran under these
            shutil.copyfile(DOCS / "hardware" / path.name, path)
        else:
            profile(name, path)
    if not arguments.report_only:
        common = [f"data.root={arguments.data}", *arguments.overrides]
        jobs = trainings(output, profiles, hand_made(output), arguments.seeds, common)
        train_all(jobs, output, arguments.jobs)
    write(output, profiles)


def trainings(
    output: Path,
    profiles: Mapping[str, Path],
    scaled: Mapping[str, Mapping[str, object]],
    seeds: Sequence[int],
    common: Sequence[str],
) -> dict[str, list[str]]:
    """The arguments of cpt-nas for each training by name, in the order in which they start."""
    kinds = {"dense": ["--dense"]}
    for setting, budget in SEARCHES:
        options = ["--profile", str(profiles[setting]), "--latency-budget", str(budget)]
        kinds[search_name(setting, budget)] = options
    for name, kwargs in scaled.items():
        values = [x for k, v in kwargs.items() for x in ("--set", f"model.kwargs.{k}={v}")]
        kinds[name] = ["--dense", *values]
    for measure, budget in COUNTED:
        kinds[search_name(measure, budget)] = [f"--{measure}-budget", str(budget)]
    jobs: dict[str, list[str]] = {}
    for seed in seeds:
        sets = [x for value in [*common, f"train.seed={seed}"] for x in ("--set", value)]
        for name, options in kinds.items():
            jobs[f"{name}-s{seed}"] = ["train", "--recipe", str(RECIPE), *options, *sets]
        for setting in SETTINGS:
            searched = output / f"search-{setting}-s{seed}"
            jobs[f"retrain-{setting}-s{seed}"] = ["retrain", str(searched)]
    return jobs


def search_name(cost: str, budget: float) -> str:
    """The name of a search, such as 'search-t1-b1' or 'search-macs-0.4'; half is left out."""
    return f"search-{cost}" + (f"-{budget:g}" if budget != BUDGET else "")


def profile(name: str, path: Path) -> None:
    threads, batch_size = SETTINGS[name]
    command = ["cpt_nas", "profile", MODEL, "--input-size", "3", str(SIZE), str(SIZE)]
    command += ["--threads", str(threads), "--batch-size", str(batch_size)]
    run([*command, "--structures", "12", "--seconds", "20", "--name", name, "-o", str(path)])


def hand_made(output: Path) -> dict[str, dict[str, object]]:
    """The scaled networks nearest to the budget in a setting: names with the model's arguments.

    For each setting one network is narrower, one has most blocks at the front and one has most
    blocks at the back. Candidates are measured against the dense network in interleaved rounds, and
    the measurements are kept in scaled.csv.
    """
    kinds = {
        "width": [tuple(c) for w in WIDTHS for c in (plain(w), aligned(w))],
        "depth": list(FRONT),
        "depth at the back": list(BACK),
    }
    argument = {"width": "channels", "depth": "layers", "depth at the back": "layers"}
    candidates: dict[str, dict[str, object]] = {"dense": {}}
    for kind, sizes in kinds.items():
        candidates |= {f"{kind} {size}": {argument[kind]: list(size)} for size in sizes}
    path = output / "scaled.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for setting, (threads, batch_size) in SETTINGS.items():
        known = {row["network"] for row in rows if row["setting"] == setting}
        if known >= candidates.keys():
            continue
        x = torch.randn(batch_size, 3, SIZE, SIZE)
        missing = {n: k for n, k in candidates.items() if n == "dense" or n not in known}
        models = {n: (timm.create_model(MODEL, **k).eval(), x) for n, k in missing.items()}
        timed = hwprofiles.time_models(models, threads=threads, min_s=20)
        for name in missing.keys() - known:
            ratio = timed[name].median_s / timed["dense"].median_s
            row = {"setting": setting, "network": name, "kwargs": json.dumps(candidates[name])}
            rows.append(row | {"ms": 1e3 * timed[name].median_s, "ratio": ratio})
    table = pd.DataFrame(rows)
    table.to_csv(path, index=False)
    table["off"] = (table["ratio"] / BUDGET).map(lambda r: abs(math.log(r)))
    chosen = {}
    for setting in SETTINGS:
        here = table[table["setting"] == setting]
        for kind in kinds:
            best = here[here["network"].str.startswith(f"{kind} (")].sort_values("off").iloc[0]
            kwargs = json.loads(best["kwargs"])
            chosen["-".join([kind.split()[0], *map(str, *kwargs.values())])] = kwargs
            print(f"{setting}: {best['network']}, {best['ratio']:.3f} of the dense latency")
    return chosen


def plain(width: float) -> list[int]:
    return [round(width * n) for n in CHANNELS]


def aligned(width: float) -> list[int]:
    return [max(8, 8 * round(width * n / 8)) for n in CHANNELS]


def train_all(jobs: Mapping[str, Sequence[str]], output: Path, at_once: int) -> None:
    """Run what is not finished, ``at_once`` processes side by side.

    A retraining starts once the search that it retrains is finished.

    Raises:
        SystemExit: a training failed. It is raised after all others have ended.
    """
    waiting = [name for name in jobs if not finished(output / name)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = []
    while waiting or running:
        while len(running) < at_once and (ready := [n for n in waiting if can_start(jobs[n])]):
            name = ready[0]
            waiting.remove(name)
            folder = output / name
            command = [*jobs[name], "-o", str(folder)]
            if (folder / "last.pth.tar").exists():
                command = ["train", "--resume", str(folder)]
            elif folder.exists():
                shutil.rmtree(folder)  # it was killed in its first epoch
            print(time.strftime("%H:%M"), "cpt-nas", *command, flush=True)
            with (output / f"{name}.log").open("a") as log:
                command = [sys.executable, "-m", "cpt_nas", *command]
                running[name] = subprocess.Popen(command, stdout=log, stderr=log)
        if not running:
            failed += waiting  # they wait for a search that failed
            break
        time.sleep(1)
        for name in [n for n, process in running.items() if process.poll() is not None]:
            if running.pop(name).returncode:
                failed.append(name)
    if failed:
        sys.exit(f"trainings failed: {', '.join(failed)}; see the logs in {output}")


def can_start(job: Sequence[str]) -> bool:
    return job[0] != "retrain" or finished(Path(job[1]))


def finished(folder: Path) -> bool:
    path = folder / "result.json"
    return path.is_file() and json.loads(path.read_text())["status"] == "finished"


def write(output: Path, profiles: Mapping[str, Path]) -> None:
    """Write docs/results/hardware.csv, its table and the figures."""
    runs = [path for path in sorted(output.iterdir()) if finished(path)]
    report = output / "report"
    if runs:
        under = [x for path in profiles.values() for x in ("--profile", str(path))]
        run(["cpt_nas", "report", *map(str, runs), *under, "-o", str(report)])
        allocations = joined(
            pd.read_csv(report / "allocations.csv"), DOCS / "hardware_allocations.csv", "run"
        )
        allocations.to_csv(DOCS / "hardware_allocations.csv", index=False, lineterminator="\n")
    for name, path in profiles.items():
        shutil.copyfile(path, DOCS / "hardware" / f"{name}.yaml")
    if (output / "scaled.csv").exists():
        shutil.copyfile(output / "scaled.csv", DOCS / "hardware_scaled.csv")
    table = joined(trained(runs), DOCS / "hardware.csv", "name")
    order = sorted(range(len(table)), key=lambda i: place(table["name"][i]))
    table = table.loc[order].reset_index(drop=True)
    times = measured(table, profiles)
    table.to_csv(DOCS / "hardware.csv", index=False, lineterminator="\n")
    markdown.insert(DOCS / "hardware.md", {"hardware": results(table)})
    draw(table, times, report / "figures")


def trained(folders: Sequence[Path]) -> pd.DataFrame:
    """A row a finished run, with its kind, its shape and its accuracy."""
    rows = []
    for loaded in load_runs(folders) if folders else []:
        result, recipe = loaded.result, loaded.recipe
        assert loaded.structure is not None, "finished"
        kwargs, units = Shape.of(recipe.model.kwargs, loaded.structure)
        row = {"name": loaded.name, "network": loaded.name.rpartition("-s")[0]}
        row |= {"kind": loaded.kind, "seed": recipe.train.seed, "epochs": recipe.train.epochs}
        row |= {"commit": result["commit"], "kwargs": kwargs, "units": units}
        row |= {"accuracy": result["test_acc"]}
        row |= {"train_loss": loaded.history["train_loss"].iloc[-1]}
        row |= {what: result.get(what) for what in ("forced", "undecided_at_freeze")}
        rows.append(row | {"freeze": recipe.search.freeze if recipe.search else None})
    return pd.DataFrame(rows)


def joined(here: pd.DataFrame, path: Path, name: str) -> pd.DataFrame:
    """The rows of ``here``, and those of the table at ``path`` whose runs are not in it."""
    if not path.exists():
        return here
    known = pd.read_csv(path)
    if here.empty:
        return known
    others = known[~known[name].isin(here[name])]
    return pd.concat([here, others[[c for c in here.columns if c in others]]], ignore_index=True)


def place(name: str) -> tuple[int, str, str]:
    """The sort key of a run: dense, searches, retrainings, then networks scaled by hand."""
    network, _, seed = name.rpartition("-s")
    kinds = ("dense", "search-t", "search-", "retrain-", "depth-", "width-")
    return next(i for i, kind in enumerate(kinds) if name.startswith(kind)), network, seed


def measured(table: pd.DataFrame, profiles: Mapping[str, Path]) -> pd.DataFrame:
    """Add the costs of every run to the table; returns times, a row a run and setting."""
    here = [Shape(*pair) for pair in zip(table["kwargs"], table["units"], strict=True)]
    dense = shapes.counts(shapes.DENSE)
    for what in ("macs", "params"):
        table[f"{what}_over_dense"] = [shapes.counts(s)[what] / dense[what] for s in here]
    loaded = {name: hwprofiles.load(path) for name, path in profiles.items()}
    times = shapes.measure([shapes.DENSE, *here], loaded)
    steps = shapes.step_times([shapes.DENSE, *here])
    # Until the freeze a step of a search is taken to cost GATED_STEP dense steps.
    rest = pd.Series([steps[shape] / steps[shapes.DENSE] for shape in here])
    gated = table["freeze"] * GATED_STEP + (1 - table["freeze"]) * rest
    table["time_over_dense"] = gated.where(table["kind"] == "search", rest)
    for setting in SETTINGS:
        timed = times[times["profile"] == setting].set_index("shape")
        for what in ("predicted", "measured"):
            seconds = timed[f"{what}_s"].to_dict()
            table[f"{what}_s:{setting}"] = [seconds[shape] for shape in here]
            ratio = table[f"{what}_s:{setting}"] / seconds[shapes.DENSE]
            table[f"{what}_over_dense:{setting}"] = ratio
    runs = pd.DataFrame({"run": table["network"], "shape": here})
    return runs.merge(times, on="shape")


def draw(table: pd.DataFrame, times: pd.DataFrame, folder: Path) -> None:
    """Draw the figures of docs/results/hardware.md, and copy those of the first seed's searches."""
    images = DOCS / "hardware"
    # The figures have a point a network, with the mean over its seeds.
    accuracy = table.groupby("network", sort=False)["accuracy"].mean().rename_axis("name")
    networks = accuracy.reset_index()
    times = times.groupby(["run", "profile"], sort=False).mean(numeric_only=True).reset_index()
    drawn = {
        "latency": figures.cross_figure(times, list(networks["name"]), measured=True),
        "accuracy_latency": figures.accuracy_figure(networks, times, measured=True),
        f"structures_{MODEL}": figures.structures_figure(*structures(table)),
    }
    for name, figure in drawn.items():
        figure.savefig(images / f"{name}.png", dpi=DPI)
    for kind in ("search", "importance"):
        for image in folder.glob(f"{kind}_*-s0.png"):
            shutil.copyfile(image, images / image.name)


def structures(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The units left, a row a branch and a column a search of the first seed; the searches."""
    dense = shapes.DENSE.structure().branches
    units = pd.DataFrame({"branch": list(dense), "group": "act1"})
    units["total"] = [len(branch.units["act1"].kept) for branch in dense.values()]
    searches = table[(table["kind"] == "search") & (table["seed"] == table["seed"].min())]
    for name, left in zip(searches["name"], searches["units"], strict=True):
        units[name] = [float(n) for n in left.split("-")]
    return units, list(searches["name"])


def results(table: pd.DataFrame) -> str:
    """A table with a row a network, mean and range over the seeds."""
    rows = []
    for name, runs in table.groupby("network", sort=False):
        accuracy = runs["accuracy"]
        spread = f" ({accuracy.min():.2f}-{accuracy.max():.2f})" if len(runs) > 1 else ""
        row = [str(name), str(len(runs)), f"{accuracy.mean():.2f}{spread}"]
        row += [f"{runs[f'{what}_over_dense'].mean():.2f}" for what in ("macs", "params")]
        branches = runs["units"].map(lambda units: sum(n != "0" for n in units.split("-")))
        row.append(f"{branches.mean():.1f}")
        for s in SETTINGS:
            ms, ratio = 1e3 * runs[f"measured_s:{s}"], runs[f"measured_over_dense:{s}"]
            row.append(f"{ms.mean():.2f} ({ratio.mean():.2f})")
        own = [s for s, budget in SEARCHES if name == search_name(s, budget)]
        off = [runs[f"measured_s:{s}"] / runs[f"predicted_s:{s}"] - 1 for s in own]
        row += [f"{100 * x.mean():+.1f}" for x in off] or [""]
        row.append(f"{runs['time_over_dense'].mean():.2f}")
        rows.append(row)
    heads = ["network", "seeds", "test acc. %", "MACs / dense", "params / dense", "branches"]
    heads += [f"measured ms, {s} (/ dense)" for s in SETTINGS]
    return markdown.table([*heads, "off the prediction %", "training time / dense"], rows)


def run(command: list[str]) -> None:
    print(" ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
