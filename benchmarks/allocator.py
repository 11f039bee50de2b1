"""How much time is lost when the C library returns freed memory to the kernel?

    python benchmarks/allocator.py [--processes 6]

Times four networks in fresh processes on one thread at batch 64. The processes take turns: one has
glibc's defaults, the next keeps freed memory (``hwprofiles/allocator.py``). The networks are the
same in every process, so differences in their times come from the allocator. Writes
docs/results/allocator.csv (a row a process and network) and the table in docs/results/profiles.md.
It needs a machine that does nothing else, and about five minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import markdown
import pandas as pd
import timm
import torch

import cpt_nas  # noqa: F401  (registers cpt_resnet20)
import hwprofiles

DOCS = Path(__file__).parents[1] / "docs" / "results"
NETWORKS: dict[str, dict[str, Any]] = {
    "cpt_resnet20": {},
    "its widths 12, 24, 48": {"channels": [12, 24, 48]},
    "its widths 8, 16, 32": {"channels": [8, 16, 32]},
    "its depths 2, 2, 1": {"layers": [2, 2, 1]},
}
BATCH, ROUNDS = 64, 15
MODES = ("returned", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=6, help="of each kind")
    parser.add_argument("--only", choices=MODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(times(arguments.only)))
        return
    rows = []
    for process in range(arguments.processes):
        for mode in MODES:
            command = [sys.executable, __file__, "--only", mode]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows += [{"process": process, "memory": mode} | row for row in json.loads(found)]
            print(mode, *(f"{row['ms']:.1f}" for row in rows[-len(NETWORKS) :]), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(DOCS / "allocator.csv", index=False, lineterminator="\n")
    markdown.insert(DOCS / "profiles.md", {"allocator": results(table)})


def times(mode: str) -> list[dict[str, Any]]:
    """The median time and the median page faults of a call of each network."""
    if mode == "kept" and not hwprofiles.keep_freed_memory():
        sys.exit("this C library does not let itself be told")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32)
    models = {n: timm.create_model("cpt_resnet20", **k).eval() for n, k in NETWORKS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    faults: dict[str, list[int]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, model in models.items():
                model(x)
                before, begin = page_faults(), time.perf_counter()
                model(x)
                seconds[name].append(time.perf_counter() - begin)
                faults[name].append(page_faults() - before)
    return [
        {
            "network": name,
            "ms": 1e3 * statistics.median(seconds[name]),
            "page_faults": statistics.median(faults[name]),
        }
        for name in models
    ]


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def results(table: pd.DataFrame) -> str:
    """A table with a row a network: the median over the processes, and the range."""
    rows = []
    for network, runs in table.groupby("network", sort=False):
        row = [str(network)]
        for mode in MODES:
            own = runs[runs["memory"] == mode]
            low, middle, high = own["ms"].min(), own["ms"].median(), own["ms"].max()
            row += [f"{middle:.1f} ({low:.1f}-{high:.1f})"]
            row += [f"{own['page_faults'].min():.0f}-{own['page_faults'].max():.0f}"]
        rows.append(row)
    heads = [x for m in MODES for x in (f"ms, {m} (processes)", f"page faults a call, {m}")]
    return markdown.table(["network", *heads], rows)


if __name__ == "__main__":
    main()
