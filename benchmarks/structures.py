"""Which structure of half the latency is the best? Some chosen by hand are trained.

    python benchmarks/structures.py --data FOLDER -o runs/structures [--seeds 0] [--jobs 4]

FOLDER holds train.tar.gz and test.tar.gz of the CIFAR-10 images. STRUCTURES gives the units in each
of the nine branches of ResNet-20. Each structure is trained from scratch by the recipe of
benchmarks/hardware.py without a search, and measured in the settings of that benchmark against the
dense network, which is not trained here. The results show what a search could reach. Finished
trainings are not repeated. ``--report-only`` measures the runs in docs/results/structures.csv again
without training. Writes that file and the table in docs/results/hardware.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import hardware
import markdown
import pandas as pd
import shapes
from shapes import SETTINGS, Shape

import hwprofiles

DOCS = hardware.DOCS
COUNTS = ("macs", "params")
STRUCTURES = {
    "found by an earlier search": "14-12-0-0-0-0-38-34-26",
    "one of stage 2 for one of stage 1": "14-0-0-0-32-0-38-34-26",
    "two whole in stages 2 and 3": "0-0-0-32-32-0-64-64-0",
    "these and a narrow third": "0-0-0-32-24-0-64-64-12",
    "one whole in stage 1, three in 3": "16-0-0-0-0-0-64-64-64",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="needed for training")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/structures"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=hwprofiles.usable_cores())
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.report_only:
        parser.error("--data: the folder with the images is missing (or give --report-only)")
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        runs = [(units, seed) for seed in arguments.seeds for units in STRUCTURES.values()]
        jobs = {f"{u}-s{seed}": training(output, u, seed, arguments.data) for u, seed in runs}
        hardware.train_all(jobs, output, arguments.jobs)
    write(output)


def training(output: Path, units: str, seed: int, data: Path) -> list[str]:
    """The arguments of cpt-nas that train a structure; writes the structure's file, too."""
    structure = output / f"{units}-s{seed}.json"
    structure.write_text(Shape("{}", units).structure().model_dump_json())
    sets = [f"data.root={data}", f"train.seed={seed}", "search=null"]
    sets.append(f"model.structure={structure}")
    options = [x for value in sets for x in ("--set", value)]
    return ["train", "--recipe", str(hardware.RECIPE), *options]


def write(output: Path) -> None:
    """Write docs/results/structures.csv and its table."""
    runs = [path for path in sorted(output.iterdir()) if hardware.finished(path)]
    table = hardware.joined(hardware.trained(runs), DOCS / "structures.csv", "name")
    here = [Shape(*pair) for pair in zip(table["kwargs"], table["units"], strict=True)]
    times = shapes.measure([shapes.DENSE, *here])
    dense = shapes.counts(shapes.DENSE)
    for what in COUNTS:
        table[f"{what}_over_dense"] = [shapes.counts(s)[what] / dense[what] for s in here]
    for setting in SETTINGS:
        seconds = times[times["profile"] == setting].set_index("shape")["measured_s"].to_dict()
        table[f"{setting}_over_dense"] = [seconds[s] / seconds[shapes.DENSE] for s in here]
    table.to_csv(DOCS / "structures.csv", index=False, lineterminator="\n")
    markdown.insert(DOCS / "hardware.md", {"structures": summary(table)})


def summary(table: pd.DataFrame) -> str:
    """A table with a row a structure, means over the seeds."""
    rows = []
    for name, units in STRUCTURES.items():
        runs = table[table["units"] == units]
        row = [name, units, f"{runs['accuracy'].mean():.2f}", f"{runs['train_loss'].mean():.3f}"]
        what = [*COUNTS, *SETTINGS]
        rows.append([*row, *(f"{runs[f'{w}_over_dense'].mean():.2f}" for w in what)])
    heads = ["structure", "units a branch", "test acc. %", "train loss"]
    heads += [f"{w} / dense" for w in ("MACs", "params", *(f"ms {s}" for s in SETTINGS))]
    return markdown.table(heads, rows)


if __name__ == "__main__":
    main()
