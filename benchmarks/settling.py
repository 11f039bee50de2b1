"""Do the gates settle? Estimators, learning rates of theta and schedules are compared.

    python benchmarks/settling.py -o runs/settling [--seeds 0 1 2] [--jobs 4]

ResNet-20 on scikit-learn's digits is searched to half its MACs. One thing is changed at a time: the
estimator, theta's learning rate, or the shares of the training after which the ramp and the search
end. Each is tried at several lengths of training, the longest one with the first seed and the
default alone. Finished runs are not repeated. Writes docs/results/settling.csv (a row a run) and
the table in docs/results/settling.md. It takes about half an hour on four cores. Searches without a
budget are in benchmarks/fixed_level.py.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import markdown
import pandas as pd
from rich.console import Console

from cpt_nas.train.recipe import load_recipe
from cpt_nas.train.train import train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "results"
RECIPE = ROOT / "cpt_nas" / "recipes" / "digits.yaml"
BASE: dict[str, Any] = {"search.macs_budget": 0.5, "search.cut_interval": 10}
BASE |= {"search.warmup": 0.02, "search.ramp": 0.13, "search.freeze": 0.2}
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "straight-through": {"search.estimator": "straight_through"},
    "theta rate x 0.4": {"search.theta_lr": "x0.4"},
    "theta rate x 2": {"search.theta_lr": "x2"},
    "ramp to 35 %, freeze at 50 %": {"search.ramp": 0.33, "search.freeze": 0.5},
    "freeze at 90 %": {"search.ramp": 0.33, "search.freeze": 0.9},
    "ramp to 8 %, freeze at 10 %": {"search.ramp": 0.06, "search.freeze": 0.1},
}
LENGTHS = (10, 40, 180)  # epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/settling"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    arguments = parser.parse_args()
    jobs = []
    for seed in arguments.seeds:
        for epochs in arguments.lengths:
            # The longest training only shows that the default settles in it, too.
            once = epochs == max(LENGTHS)
            if once and seed != arguments.seeds[0]:
                continue
            names = ["dense", "default"] if once else ["dense", *CHANGES]
            jobs += [(name, epochs, seed, arguments.output) for name in names]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(one, jobs))
    table = pd.DataFrame(rows)
    table.to_csv(DOCS / "settling.csv", index=False, lineterminator="\n")
    markdown.insert(DOCS / "settling.md", {"settling": summary(table)})
    print(summary(table))


def one(job: tuple[str, int, int, Path]) -> dict[str, Any]:
    """The row of a run, which is trained where its folder does not hold a finished run."""
    name, epochs, seed, output = job
    slug = "".join(c if c.isalnum() else "-" for c in name)
    folder = output / f"{slug}-e{epochs}-s{seed}"
    path = folder / "result.json"
    if not (path.is_file() and json.loads(path.read_text())["status"] == "finished"):
        values = BASE | {"train.epochs": epochs, "train.seed": seed}
        if name == "dense":
            values = {"train.epochs": epochs, "train.seed": seed, "search": None}
        values |= CHANGES.get(name, {})
        rate = values.get("search.theta_lr")
        if isinstance(rate, str):
            values["search.theta_lr"] = float(rate[1:]) * default_rate(values)
        sets = [f"{k}={json.dumps(v)}" for k, v in values.items()]
        resume = (folder / "last.pth.tar").exists()
        train(load_recipe(RECIPE, sets), folder, resume=resume, console=Console(quiet=True))
    result = json.loads(path.read_text())
    row = {"change": name, "epochs": epochs, "seed": seed, "accuracy": result["test_acc"]}
    row |= {k: result.get(k) for k in ("undecided_at_freeze", "forced", "branches", "units")}
    row["macs_ratio"] = result["macs"] / result["macs_dense"]
    row["params_ratio"] = result["params"] / result["params_dense"]
    row["train_load"] = result["train_load"]
    trace = folder / "search.csv"
    row["cost_before_freeze"] = float("nan")
    if trace.exists():  # the share of the dense MACs
        row["cost_before_freeze"] = pd.read_csv(trace).filter(like="cost:").iloc[-1, 0]
    return row


def default_rate(values: dict[str, Any]) -> float:
    """The learning rate of theta that the settings choose by default for these values."""
    sets = [f"{k}={json.dumps(v)}" for k, v in values.items() if k != "search.theta_lr"]
    recipe = load_recipe(RECIPE, [*sets, "search.theta_lr=null"])
    assert recipe.search is not None
    steps = -(-1437 // recipe.train.batch_size)  # the digits' training images
    return recipe.search.settings(recipe.train.epochs * steps, 0).rate()


def summary(table: pd.DataFrame) -> str:
    """A table of means over the seeds, with the range of the accuracy."""
    rows = []
    for (epochs, change), runs in table.groupby(["epochs", "change"], sort=False):
        accuracy = runs["accuracy"]
        row = [f"{change}", f"{epochs}", f"{accuracy.mean():.2f}"]
        row.append(f"{accuracy.min():.2f}-{accuracy.max():.2f}")
        if change == "dense":
            rows.append([*row, *[""] * 5])
            continue
        row.append(f"{100 * runs['undecided_at_freeze'].mean():.1f}")
        row.append(f"{runs['cost_before_freeze'].mean():.3f}")
        row.append(f"{runs['forced'].mean():.0f}")
        row.append(f"{runs['macs_ratio'].mean():.3f}")
        rows.append([*row, f"{runs['branches'].mean():.1f}"])
    heads = ["changed", "epochs", "test acc. %", "range", "undecided at the freeze %"]
    heads += ["cost / dense, expected then", "gates decided by force", "MACs / dense, found"]
    return markdown.table([*heads, "branches of 9"], rows)


if __name__ == "__main__":
    main()
