"""The papers' experiments on MNIST: two LeNets with gates on units, on layers, and on both.

    python benchmarks/papers.py --data FOLDER [-o runs/papers] [--only lenet300 lenet5 robustness]

FOLDER holds MNIST in the folders train and test, each with a folder a class. The recipes are in
cpt_nas/recipes/papers. The runs are trained one after another. Finished runs are not repeated, and
a run that was stopped goes on. After each run its row is written to docs/results/papers.csv; at the
end the tables and the figure of docs/results/papers.md are made from that file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import papers_tables
from rich.console import Console

from cpt_nas.data import load
from cpt_nas.train.recipe import load_recipe
from cpt_nas.train.train import train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "results"
TABLE = DOCS / "papers.csv"
PARTS = ("lenet300", "lenet5", "robustness")
SEEDS = (0, 1, 2)
GATES = ("dense", "units", "both", "layers")
LEVELS: dict[str, dict[str, tuple[float, ...]]] = {
    "lenet300": {"dense": (0.0,), "units": (0.1, 0.3), "both": (0.1,), "layers": (0.1,)},
    "lenet5": {"dense": (0.0,), "units": (0.1, 0.02), "both": (0.1,), "layers": (0.1,)},
}
LR = {"lenet300": 0.1, "lenet5": 0.01}  # the recipes'
INITS = ("kaiming_normal", "kaiming_uniform", "xavier_uniform")
WIDTHS = ((300, 100), (600, 200), (150, 100))
THETAS = (1.0, 0.75, 0.5)
ROBUST_LEVEL = 0.1
# LeNet-300-100 on scikit-learn's 8x8 digits, enlarged to 16x16. A run takes seconds.
DIGITS: dict[str, Any] = {"data.name": "digits", "data.root": None, "data.input_size": [1, 16, 16]}
DIGITS |= {"model.kwargs.img_size": 16, "train.epochs": 60, "train.batch_size": 64}


@dataclass(frozen=True)
class Run:
    """One training of one network."""

    part: str
    network: str
    gate: str
    log_gamma: float
    seed: int
    weight_init: str = INITS[0]
    hidden: tuple[int, ...] = ()
    theta_init: float = THETAS[0]

    @property
    def recipe(self) -> str:
        return "lenet300" if self.network == "digits" else self.network

    @property
    def folder(self) -> str:
        width = "-".join(map(str, self.hidden)) or "own"
        parts = (self.network, self.gate, f"g{self.log_gamma}", f"s{self.seed}")
        return "_".join((*parts, self.weight_init, width, f"t{self.theta_init}"))

    def overrides(self, data: Path) -> list[str]:
        values: dict[str, Any] = {"data.root": str(data), "data.workers": 1}
        values |= {"train.seed": self.seed, "model.kwargs.weight_init": self.weight_init}
        if self.network == "digits":
            values |= DIGITS
        if self.hidden:
            values["model.kwargs.hidden"] = self.hidden
        if self.gate == "dense":
            values["search"] = None
        else:
            values |= {"search.gate": self.gate, "search.log_gamma": self.log_gamma}
            values["search.theta_init"] = self.theta_init
            if self.gate != "units":
                # At the recipe's 0.1 for LeNet-300-100 the loss is soon not finite.
                values |= {"model.kwargs.skip": True, "train.lr": min(0.03, LR[self.network])}
        return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def runs(
    parts: Sequence[str], gates: Sequence[str], seeds: Sequence[int], levels: int
) -> Iterator[Run]:
    """The runs, in order: all networks at their first level come before any at its second."""
    for position in range(levels):
        for network in [n for n in LEVELS if n in parts]:
            for seed in seeds:
                for gate in gates:
                    # He et al.'s first weights kill a third layer, or one with a path around it.
                    deep = network == "lenet5" or gate in ("both", "layers")
                    init = "xavier_uniform" if deep else INITS[0]
                    for level in LEVELS[network][gate][position : position + 1]:
                        yield Run("mnist", network, gate, level, seed, weight_init=init)
    if "robustness" in parts:
        base = ("robustness", "digits", "units", ROBUST_LEVEL)
        hidden = WIDTHS[0]
        for seed in range(5):
            yield Run(*base, seed, hidden=hidden)
        for init in INITS[1:]:
            yield Run(*base, 0, weight_init=init, hidden=hidden)
        for width in WIDTHS[1:]:
            yield Run(*base, 0, hidden=width)
            # With this level a multiply-add costs what it costs in the base network (eq. 13).
            level = round(ROBUST_LEVEL * digits_macs(width) / digits_macs(hidden), 4)
            yield Run(*base[:3], level, 0, hidden=width)
        for theta in THETAS[1:]:
            yield Run(*base, 0, theta_init=theta, hidden=hidden)


def digits_macs(hidden: tuple[int, ...]) -> int:
    """The multiply-adds of linear layers on 16x16 images of ten classes."""
    widths = (256, *hidden, 10)
    return sum(a * b for a, b in pairwise(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/papers"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--first", action="store_true", help="only the first level of each")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    _decode_once()
    chosen = runs(arguments.only, arguments.gates, arguments.seeds, 1 if arguments.first else 2)
    for run in chosen:
        began = time.process_time()
        row = one(run, arguments.data, arguments.output)
        write(row)
        spent = time.process_time() - began
        print(f"{run.folder}: error {row['error']:.2f} %, {row['macs']:.0f} MACs, {spent:.0f} s")
    papers_tables.write(pd.read_csv(TABLE), DOCS)


def _decode_once() -> None:
    """Keep the decoded images of each split, since all runs read the same ones."""
    decoded: dict[str, Any] = {}
    decode = load.decode_split

    def once(split: Any, *arguments: Any) -> Any:
        if split.digest not in decoded:
            decoded[split.digest] = decode(split, *arguments)
        return decoded[split.digest]

    load.decode_split = once


def one(run: Run, data: Path, output: Path) -> dict[str, Any]:
    """The row of a run, which is trained where its folder does not hold a finished run."""
    folder = output / run.folder
    path = folder / "result.json"
    if not (path.is_file() and json.loads(path.read_text())["status"] == "finished"):
        recipe = load_recipe(f"papers/{run.recipe}_mnist", run.overrides(data))
        resume = (folder / "last.pth.tar").exists()
        train(recipe, folder, resume=resume, console=Console(quiet=True))
    result = json.loads(path.read_text())
    structure = json.loads((folder / "structure.json").read_text())["branches"]
    sections = [b for b in structure.values() if b["removable"]]
    row: dict[str, Any] = asdict(run)
    row["hidden"] = "-".join(map(str, run.hidden))
    row |= {"epochs": result["epochs"], "error": 100 - result["test_acc"]}
    row |= {k: result[k] for k in ("macs", "params", "macs_dense", "params_dense")}
    row["sections_left"] = sum(b["kept"] for b in sections)
    row["sections"] = len(sections)
    groups = structure["features"]["units"].values()
    row["units_left"] = "-".join(str(len(g["kept"])) for g in groups)
    row |= {k: result.get(k) for k in ("undecided_at_freeze", "forced", "train_load")}
    return row


KEY = ["network", "gate", "log_gamma", "seed", "weight_init", "hidden", "theta_init"]


def write(row: dict[str, Any]) -> None:
    """Add the row to docs/results/papers.csv; it replaces an older row of the same run."""
    new = pd.DataFrame([row])
    if TABLE.exists():
        old = pd.read_csv(TABLE, keep_default_na=False, na_values=["nan"])
        asked = new[["part", *KEY]].astype(str).iloc[0]
        same = (old[["part", *KEY]].astype(str) == asked).all(axis=1)
        new = pd.concat([old[~same], new])
    new.to_csv(TABLE, index=False, lineterminator="\n", na_rep="nan")


if __name__ == "__main__":
    main()
