"""Two methods under one budget: by allocation, and by the papers' stochastic gradient.

    python benchmarks/methods.py [--seeds 0 1 2] [--lengths 10 40]

A small ResNet on scikit-learn's digits, searched to half of its MACs, one thread. ``early`` decides
in the first fifth of the training, as a budget does by default; ``late`` falls for half of the
training and decides at 90 %. A row a run goes to docs/results/methods.csv, the table into
docs/results/methods.md; runs that are in the CSV already are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import digits_loop as loop
import markdown
import pandas as pd

DOCS = Path(__file__).parents[1] / "docs" / "results"
CSV = DOCS / "methods.csv"
BUDGET = 0.5
TIMES = {
    "early": {"warmup": 0.02, "ramp": 0.13, "freeze": 0.2},
    "late": {"warmup": 0.02, "ramp": 0.48, "freeze": 0.9},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 40], help="Epochs.")
    arguments = parser.parse_args()
    data, rows = loop.images(), pd.read_csv(CSV).to_dict("records") if CSV.exists() else []
    for job in jobs(arguments.lengths, arguments.seeds):
        if any(all(row[k] == v for k, v in job.items()) for row in rows):
            continue
        rows.append(run(job, data))
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(CSV, index=False, lineterminator="\n", float_format="%.5g")
    markdown.insert(DOCS / "methods.md", {"methods": summary(pd.read_csv(CSV))})


def jobs(lengths: list[int], seeds: list[int]) -> list[dict[str, Any]]:
    return [
        {"epochs": epochs, "seed": seed, "method": method, "times": times}
        for epochs in lengths
        for seed in seeds
        for method in ("allocate", "stochastic")
        for times in TIMES
    ]


def run(job: dict[str, Any], data: loop.Images) -> dict[str, Any]:
    """A row."""
    steps = job["epochs"] * loop.STEPS_AN_EPOCH
    search, row = loop.search(
        loop.resnet,
        data,
        steps,
        job["seed"],
        total_steps=steps,
        macs_budget=BUDGET,
        method=job["method"],
        cut_interval=5,
        **TIMES[job["times"]],
    )
    return job | row | {"log_gamma": search.log_gamma}


def summary(table: pd.DataFrame) -> str:
    """Means over the seeds, and the range of the accuracy."""
    rows = []
    keys = ["epochs", "times", "method"]
    for (epochs, times, method), runs in table.groupby(keys, sort=False):
        accuracy = runs["accuracy"]
        rows.append(
            [
                f"{method}, {times}",
                f"{epochs}",
                f"{accuracy.mean():.2f}",
                f"{accuracy.min():.2f}-{accuracy.max():.2f}",
                f"{runs['macs_ratio'].mean():.3f}",
                f"{100 * runs['undecided'].mean():.0f}",
                f"{runs['forced'].mean():.1f}",
                f"{runs['branches'].mean():.1f}",
                f"{runs['train_load'].mean():.2f}",
                f"{runs['log_gamma'].median():.3f}",
            ]
        )
    heads = ["method, times", "epochs", "test acc. %", "range", "MACs / dense"]
    heads += ["undecided at the freeze %", "gates decided by force", "branches of 6"]
    return markdown.table([*heads, "training load", "log γ in the end"], rows)


if __name__ == "__main__":
    main()
