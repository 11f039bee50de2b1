"""ResNet-20 on CIFAR-10 images: the dense network and searches at two pruning levels.

    python benchmarks/cifar10_resnet20.py --data FOLDER -o runs/cifar10

FOLDER holds train.tar.gz and test.tar.gz. Measures a profile of this machine (one thread, batch 1),
trains the runs side by side, and measures every network that came out in the profile's setting.
Writes docs/results/cifar10_resnet20.csv and the table in docs/results/cifar10.md. Finished
trainings are not repeated, so the command can be given again to measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import markdown
import pandas as pd

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "cpt_nas" / "recipes" / "cifar10_resnet20.yaml"

FIXED_LEVEL = ["search.macs_budget=null", "search.ramp=0.13", "search.freeze=0.25"]
FIXED_LEVEL += ["search.theta_lr=0.02", "search.estimation=0.6"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--levels", type=float, nargs="+", default=[0.3, 0.8])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    profile = output / "cpu-t1-b1.yaml"
    if not profile.exists():
        command = ["hwprofiles.cli", "measure", "cpt_resnet20", "--import", "cpt_nas"]
        command += ["--input-size", "3", "32", "32", "--batch-size", "1", "--threads", "1"]
        run([*command, "-o", str(profile)])

    common = [f"data.root={arguments.data}", f"train.seed={arguments.seed}", *arguments.overrides]
    jobs = {"dense": ["--dense"]}
    for level in arguments.levels:
        sets = [f"search.log_gamma={level}", *FIXED_LEVEL]
        options = [x for s in sets for x in ("--set", s)]
        jobs[f"log_gamma_{level}"] = ["--profile", str(profile), *options]
    running = []
    for name, options in jobs.items():
        if (output / name / "export").exists():
            continue
        command = [sys.executable, "-m", "cpt_nas", "train", "--recipe", str(RECIPE), *options]
        for override in common:
            command += ["--set", override]
        command += ["-o", str(output / name)]
        print(" ".join(command), flush=True)
        with (output / f"{name}.log").open("w") as log:
            running.append(subprocess.Popen(command, stderr=log, stdout=log))
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit(f"a training failed; see the logs in {output}")

    runs = [str(output / name) for name in jobs]
    report = output / "report"
    run(["cpt_nas", "report", *runs, "--profile", str(profile), "--measure", "-o", str(report)])
    csv = ROOT / "docs" / "results" / "cifar10_resnet20.csv"
    shutil.copyfile(report / "runs.csv", csv)
    table = results(pd.read_csv(csv))
    markdown.insert(ROOT / "docs" / "results" / "cifar10.md", {"cifar10": table})


def results(runs: pd.DataFrame) -> str:
    """A Markdown table with a row a run."""
    shown = {
        "accuracy": ("test acc. %", "{:.2f}", 1.0),
        "fPR": ("MACs pruned %", "{:.1f}", 1.0),
        "pPR": ("params pruned %", "{:.1f}", 1.0),
        "layers_left": ("layers left", "{:.0f}", 1.0),
        "branches_left": ("branches left", "{:.0f}", 1.0),
        "train_load": ("training load", "{:.2f}", 1.0),
        "predicted_s:cpu-t1-b1": ("predicted ms", "{:.2f}", 1e3),
        "measured_s:cpu-t1-b1": ("measured ms", "{:.2f}", 1e3),
        "measured_speedup:cpu-t1-b1": ("measured speed-up", "{:.2f}", 1.0),
    }
    rows = [
        [run["name"], *(form.format(run[key] * unit) for key, (_, form, unit) in shown.items())]
        for _, run in runs.iterrows()
    ]
    return markdown.table(["run", *(head for head, _, _ in shown.values())], rows)


def run(command: list[str]) -> None:
    print(" ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
