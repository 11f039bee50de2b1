"""Does hardware matter? One network searched under four costs, and what people do instead.

    python benchmarks/hardware.py --data FOLDER -o runs/hardware [--seeds 0 1 2] [--jobs 4]

FOLDER holds train.tar.gz and test.tar.gz of the CIFAR-10 pictures. ResNet-20, 10 epochs, one
thread a training. Searches under this machine's profiles of three settings (one thread at batch 1
and at batch 64, four threads at batch 1) to half of the latency, and to what half of it in one
comes to in another, so that networks of one latency can be compared in both; to half the MACs and
to half the parameters; the structures found at half the latency once more from scratch; the dense
network; and for each setting the width-scaled ResNet and the depth-scaled ones (most blocks at the
front, most at the back) whose measured latency is nearest to half of the dense one's, from scratch
(widths as they come, and at multiples of 8). At the end every network is measured in all settings.

Trainings run side by side, seed by seed; interrupted ones go on and finished ones are not repeated,
so the command can be stopped and given again. ``--report-only`` takes what is finished. Measuring
wants a quiet machine: no training runs then. Writes docs/hardware.csv (a row a run),
docs/hardware_looks.csv (what everything was worth in the searches), docs/hardware/*.png and the
tables in docs/hardware.md and README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import markdown
import pandas as pd
import timm
import torch

import cpt_nas  # noqa: F401  (registers cpt_resnet20)
import hwprofiles
from cpt_nas.config import load_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RECIPE = ROOT / "recipes" / "cifar10_resnet20.yaml"
MODEL, SIZE = "cpt_resnet20", 32
SETTINGS = {"t1-b1": (1, 1), "t1-b64": (1, 64), "t4-b1": (4, 1)}  # name -> threads, batch size
BUDGET = 0.5
# Half of the latency at batch 1 is about 0.4 at batch 64; half of that is 0.65 at batch 1.
SEARCHES = (*((setting, BUDGET) for setting in SETTINGS), ("t1-b64", 0.4), ("t1-b1", 0.65))
GATED_STEP = 1.03  # over a plain one: benchmarks/gate_overhead.py
STEP_ROUNDS = 12
FRONT = ((3, 3, 2), (3, 2, 2), (2, 2, 2), (2, 2, 1), (2, 1, 1), (1, 1, 1))  # blocks a stage
BACK = ((2, 3, 3), (2, 2, 3), (1, 2, 3), (1, 2, 2), (1, 1, 3), (1, 1, 2))
CHANNELS = (16, 32, 64)
WIDTHS = tuple(x / 20 for x in range(4, 20))  # of the channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/hardware"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=hwprofiles.usable_cores())
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    profiles = {name: output / f"{name}.yaml" for name in SETTINGS}
    for name, path in profiles.items():
        if not path.exists():
            profile(name, path)
    scaled = hand_made(output)

    common = [f"data.root={arguments.data}", *arguments.overrides]
    jobs: dict[str, list[str]] = {}
    for seed in arguments.seeds:
        sets = [x for value in [*common, f"train.seed={seed}"] for x in ("--set", value)]
        for name, options in trainings(profiles, scaled).items():
            jobs[f"{name}-s{seed}"] = ["train", "--recipe", str(RECIPE), *options, *sets]
        for setting in SETTINGS:
            searched = output / f"search-{setting}-s{seed}"
            jobs[f"retrain-{setting}-s{seed}"] = ["retrain", str(searched)]
    if not arguments.report_only:
        train_all(jobs, output, arguments.jobs)
    runs = [name for name in jobs if finished(output / name)]
    report = output / "report"
    command = ["cpt_nas.cli", "report", *(str(output / name) for name in runs)]
    under = [x for path in profiles.values() for x in ("--profile", str(path))]
    run([*command, *under, "--measure", "-o", str(report)])
    # The hand-made networks have other layers; the picture of structures is of the searches alone.
    searched = [n for n in runs if n.startswith(("dense-", "search-")) and n.endswith("-s0")]
    folders = [str(output / name) for name in searched]
    run(["cpt_nas.cli", "report", *folders, *under, "-o", str(output / "report_searches")])
    write(output, report, runs)


def trainings(
    profiles: Mapping[str, Path], scaled: Mapping[str, Mapping[str, object]]
) -> dict[str, list[str]]:
    """Name -> options of cpt-nas train, the most telling first."""
    jobs = {"dense": ["--dense"]}
    for setting, budget in SEARCHES:
        options = ["--profile", str(profiles[setting]), "--latency-budget", str(budget)]
        jobs[search_name(setting, budget)] = options
    for name, kwargs in scaled.items():
        values = [x for k, v in kwargs.items() for x in ("--set", f"model.kwargs.{k}={v}")]
        jobs[name] = ["--dense", *values]
    jobs["search-macs"] = ["--macs-budget", str(BUDGET)]
    jobs["search-params"] = ["--params-budget", str(BUDGET)]
    return jobs


def search_name(setting: str, budget: float) -> str:
    """'search-t1-b1' to half of the latency, 'search-t1-b1-0.65' to another part of it."""
    return f"search-{setting}" + (f"-{budget:g}" if budget != BUDGET else "")


def profile(name: str, path: Path) -> None:
    threads, batch_size = SETTINGS[name]
    command = ["cpt_nas.cli", "profile", MODEL, "--input-size", "3", str(SIZE), str(SIZE)]
    command += ["--threads", str(threads), "--batch-size", str(batch_size)]
    run([*command, "--structures", "12", "--seconds", "20", "--name", name, "-o", str(path)])


def hand_made(output: Path) -> dict[str, dict[str, object]]:
    """'width-…' and 'depth-…' -> arguments, of the networks nearest to the budget in a setting.

    One that is narrower, one with most blocks at the front and one with most at the back. Measured
    against the dense network in interleaved rounds; kept in scaled.csv.
    """
    kinds = {
        "width": [tuple(c) for w in WIDTHS for c in (plain(w), aligned(w))],
        "depth": list(FRONT),
        "depth at the back": list(BACK),
    }
    argument = {"width": "channels", "depth": "layers", "depth at the back": "layers"}
    candidates: dict[str, dict[str, object]] = {"dense": {}}
    for kind, shapes in kinds.items():
        candidates |= {f"{kind} {shape}": {argument[kind]: list(shape)} for shape in shapes}
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
    """Run what is not finished, ``at_once`` processes side by side; a retraining when its run is.

    Raises:
        SystemExit: one failed; the others go on to their end first.
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
                shutil.rmtree(folder)  # killed in its first epoch
            print(time.strftime("%H:%M"), "cpt-nas", *command, flush=True)
            with (output / f"{name}.log").open("a") as log:
                command = [sys.executable, "-m", "cpt_nas.cli", *command]
                running[name] = subprocess.Popen(command, stdout=log, stderr=log)
        if not running:
            failed += waiting  # they wait for one that failed
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


def write(output: Path, report: Path, runs: Sequence[str]) -> None:
    """docs/hardware.csv, its tables and pictures."""
    table = pd.read_csv(report / "runs.csv")
    table["network"] = table["name"].str.replace(r"-s\d+$", "", regex=True)
    dense = table[table["network"] == "dense"].set_index("seed")
    steps = step_times({n: output / n / "export" for n in runs})
    table["step_over_dense"] = table["name"].map(steps) / steps[f"dense-s{dense.index[0]}"]
    # Until the freeze a search costs a dense step and a bit.
    searched = table["kind"] == "search"
    rest = table["step_over_dense"]
    recipe = load_recipe(RECIPE)
    assert recipe.search is not None and recipe.search.freeze is not None
    freeze = recipe.search.freeze
    table["wall_over_dense"] = rest.where(~searched, freeze * GATED_STEP + (1 - freeze) * rest)
    for what in ("macs", "params", *(f"measured_s:{s}" for s in SETTINGS)):
        table[f"{what}_over_dense"] = table[what] / dense[what].mean()
    commits = {json.loads((output / n / "result.json").read_text())["commit"] for n in runs}
    print("made by", ", ".join(sorted(str(c) for c in commits)))
    table.to_csv(DOCS / "hardware.csv", index=False, lineterminator="\n")
    shutil.copyfile(output / "scaled.csv", DOCS / "hardware_scaled.csv")
    for page in (DOCS / "hardware.md", ROOT / "README.md"):
        markdown.insert(page, {"hardware": results(table)})
    pictures = DOCS / "hardware"
    pictures.mkdir(exist_ok=True)
    for picture in ("latency", "accuracy_latency"):
        shutil.copyfile(report / "figures" / f"{picture}.png", pictures / f"{picture}.png")
    structures = output / "report_searches" / "figures" / f"structures_{MODEL}.png"
    shutil.copyfile(structures, pictures / structures.name)
    shutil.copyfile(report / "looks.csv", DOCS / "hardware_looks.csv")
    for name in runs:
        for kind in ("search", "worth"):
            picture = report / "figures" / f"{kind}_{name}.png"
            if name.endswith("-s0") and picture.exists():
                shutil.copyfile(picture, pictures / picture.name)


def step_times(exports: Mapping[str, Path]) -> dict[str, float]:
    """Seconds of a training step on one thread, the median of interleaved rounds."""
    torch.set_num_threads(1)
    x, y = torch.randn(128, 3, SIZE, SIZE), torch.randint(10, (128,))
    models = {
        name: timm.create_model(f"local-dir:{folder}", pretrained=True).train()
        for name, folder in exports.items()
    }
    optimizers = {
        n: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for n, m in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(STEP_ROUNDS):
        for name, model in models.items():
            begin = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def results(table: pd.DataFrame) -> str:
    """A row a network, mean and range over the seeds."""
    rows = []
    for network, runs in table.groupby("network", sort=False):
        accuracy = runs["accuracy"]
        spread = f" ({accuracy.min():.2f}-{accuracy.max():.2f})" if len(runs) > 1 else ""
        row = [str(network), str(len(runs)), f"{accuracy.mean():.2f}{spread}"]
        row += [f"{runs[f'{what}_over_dense'].mean():.2f}" for what in ("macs", "params")]
        row.append(f"{runs['branches_left'].mean():.1f}")
        for setting in SETTINGS:
            what = f"measured_s:{setting}"
            row.append(f"{1e3 * runs[what].mean():.2f} ({runs[f'{what}_over_dense'].mean():.2f})")
        own = [s for s, budget in SEARCHES if network == search_name(s, budget)]
        off = [runs[f"measured_s:{s}"] / runs[f"predicted_s:{s}"] - 1 for s in own]
        row += [f"{100 * x.mean():+.1f}" for x in off] or [""]
        row.append(f"{runs['wall_over_dense'].mean():.2f}")
        rows.append(row)
    heads = ["network", "seeds", "test acc. %", "MACs / dense", "params / dense", "branches"]
    heads += [f"measured ms, {s} (/ dense)" for s in SETTINGS]
    return markdown.table([*heads, "off the prediction %", "training time / dense"], rows)


def run(command: list[str]) -> None:
    print(" ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
