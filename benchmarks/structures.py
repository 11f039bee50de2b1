"""Which structure of half the latency is the best? Some chosen by hand, from scratch.

    python benchmarks/structures.py --data FOLDER -o runs/structures [--seeds 0] [--jobs 4]

FOLDER holds train.tar.gz and test.tar.gz of the CIFAR-10 pictures. ResNet-20 with the units that
STRUCTURES says in each of its nine branches, trained by the recipe of benchmarks/hardware.py
without a search, one thread a training, and measured in its settings against the dense network
(which is not trained here). It is the yardstick of a search: what could be had. Finished trainings
are not repeated. Writes docs/structures.csv and the table in docs/hardware.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import hardware
import markdown
import pandas as pd
import timm
import torch

import hwprofiles
from cpt_nas.structure import Structure, dense_structure

DOCS = hardware.DOCS
COUNTS = ("macs", "params")
BRANCHES = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
STRUCTURES = {
    "found by an earlier search": (14, 12, 0, 0, 0, 0, 38, 34, 26),
    "one of stage 2 for one of stage 1": (14, 0, 0, 0, 32, 0, 38, 34, 26),
    "two whole in stages 2 and 3": (0, 0, 0, 32, 32, 0, 64, 64, 0),
    "these and a narrow third": (0, 0, 0, 32, 24, 0, 64, 64, 12),
    "one whole in stage 1, three in 3": (16, 0, 0, 0, 0, 0, 64, 64, 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/structures"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=hwprofiles.usable_cores())
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    runs = [(name, seed) for seed in arguments.seeds for name in STRUCTURES]
    jobs = {
        folder(output, name, seed).name: training(output, name, seed, arguments.data)
        for name, seed in runs
    }
    hardware.train_all(jobs, output, arguments.jobs)
    write(output, runs)


def folder(output: Path, name: str, seed: int) -> Path:
    return output / f"{'-'.join(map(str, STRUCTURES[name]))}-s{seed}"


def training(output: Path, name: str, seed: int, data: Path) -> list[str]:
    """Options of cpt-nas that train one from scratch; writes its structure.json beside the run."""
    structure = folder(output, name, seed).with_suffix(".json")
    structure.write_text(build(STRUCTURES[name]).model_dump_json())
    sets = [f"data.root={data}", f"train.seed={seed}", "search=null"]
    sets.append(f"model.structure={structure}")
    options = [x for value in sets for x in ("--set", value)]
    return ["train", "--recipe", str(hardware.RECIPE), *options]


def build(units: tuple[int, ...]) -> Structure:
    """The structure with so many units in each branch; 0: the branch is gone."""
    kwargs = {"num_classes": 10, "in_chans": 3}
    structure = dense_structure(timm.create_model(hardware.MODEL, **kwargs), hardware.MODEL, kwargs)
    for name, count in zip(BRANCHES, units, strict=True):
        branch = structure.branches[name]
        branch.kept = count > 0
        for group in branch.units.values():
            group.kept = list(range(count))
    return structure


def write(output: Path, runs: list[tuple[str, int]]) -> None:
    """docs/structures.csv and its table."""
    models = {"dense": timm.create_model(hardware.MODEL, num_classes=10).eval()}
    for name in STRUCTURES:
        export = folder(output, name, runs[0][1]) / "export"
        models[name] = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    ratios: dict[str, dict[str, float]] = {}
    for setting, (threads, batch_size) in hardware.SETTINGS.items():
        x = torch.randn(batch_size, 3, hardware.SIZE, hardware.SIZE)
        timed = hwprofiles.time_models(
            {name: (model, x) for name, model in models.items()}, threads=threads, min_s=20
        )
        ratios[setting] = {n: t.median_s / timed["dense"].median_s for n, t in timed.items()}
    rows = []
    for name, seed in runs:
        run = folder(output, name, seed)
        result = json.loads((run / "result.json").read_text())
        row = {"structure": name, "units": " ".join(map(str, STRUCTURES[name])), "seed": seed}
        row |= {"accuracy": result["test_acc"], "commit": result["commit"]}
        row["train_loss"] = pd.read_csv(run / "history.csv")["train_loss"].iloc[-1]
        row |= {f"{what}_over_dense": result[what] / result[f"{what}_dense"] for what in COUNTS}
        rows.append(row | {f"{s}_over_dense": ratios[s][name] for s in ratios})
    table = pd.DataFrame(rows)
    table.to_csv(DOCS / "structures.csv", index=False, lineterminator="\n")
    markdown.insert(DOCS / "hardware.md", {"structures": summary(table)})


def summary(table: pd.DataFrame) -> str:
    """A row a structure, means over the seeds."""
    rows = []
    for name, runs in table.groupby("structure", sort=False):
        row = [str(name), runs["units"].iloc[0].replace(" ", "-"), f"{runs['accuracy'].mean():.2f}"]
        row.append(f"{runs['train_loss'].mean():.3f}")
        what = [*COUNTS, *hardware.SETTINGS]
        rows.append([*row, *(f"{runs[f'{w}_over_dense'].mean():.2f}" for w in what)])
    heads = ["structure", "units a branch", "test acc. %", "train loss"]
    heads += [f"{w} / dense" for w in ("MACs", "params", *(f"ms {s}" for s in hardware.SETTINGS))]
    return markdown.table(heads, rows)


if __name__ == "__main__":
    main()
