"""Does the runtime matter? A network is searched for several runtimes and measured in all.

    python benchmarks/deployment.py --model cpt_resnet20 --data FOLDER --web FOLDER
                                    [-o runs/deployment] [--seeds 0 1 2] [--jobs 2]

The FOLDER of --data holds train.tar.gz and test.tar.gz, each with a folder a class. That of --web
is where ``npm install onnxruntime-web`` was run. The runtimes are PyTorch's eager mode, ONNX
Runtime, OpenVINO in bfloat16, and ONNX Runtime's WebAssembly under node, which is timed by a kit.
All of them run on one thread at batch 1. For each runtime there is a profile, and a search to half
of the latency by that profile. A search to half of the MACs and the dense network are trained with
the same images, seeds and recipe. At the end every network is measured in every runtime.

Finished profiles and trainings are not repeated, so the command can be stopped and given again.
``--only profiles|trainings|report`` does one part of it. Profiles and the report need a machine
that does nothing else. Writes docs/results/deployment.csv (a row a network, seed and runtime), the
profiles in docs/results/deployment, and the tables in docs/results/deployment.md. Rows and tables
of other models stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import markdown
import pandas as pd
import timm
import torch
from hardware import finished, train_all

import hwprofiles
from cpt_nas.calibration.random_structures import candidate
from cpt_nas.costs.cost_model import CostModel, build_cost
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, dense_structure
from cpt_nas.train.run_folder import load_runs
from hwprofiles.runtimes.onnx_file import onnx_bytes

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "results"
BUDGET = 0.5
CLASSES = 10
# The name of a runtime -> the options of cpt-nas profile.
RUNTIMES = {
    "eager": ["--runtime", "eager"],
    "onnxruntime": ["--runtime", "onnxruntime"],
    "openvino-bf16": ["--runtime", "openvino", "--dtype", "bfloat16"],
}
WEB = "wasm"
HOMES = (*RUNTIMES, WEB)
MEASURED_S = 1.5  # the least time for a network in a runtime
WEB_ROUNDS = 30


@dataclass(frozen=True)
class Task:
    """The size of a model's images in pixels, and what differs from the recipe."""

    size: int
    options: tuple[str, ...]


TASKS = {
    "cpt_resnet20": Task(32, ("data.train_limit=10000", "train.epochs=10")),
    "mobilenetv2_100": Task(
        64,
        (
            "model.name=mobilenetv2_100",
            "data.input_size=[3,64,64]",
            "train.epochs=30",
            "train.batch_size=64",
            "train.lr=0.05",
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cpt_resnet20", choices=TASKS)
    parser.add_argument("--data", type=Path, help="needed for training")
    parser.add_argument("--web", type=Path, help="where onnxruntime-web is installed")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/deployment"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", choices=("profiles", "trainings", "report"))
    arguments = parser.parse_args()
    output: Path = arguments.output / arguments.model
    output.mkdir(parents=True, exist_ok=True)
    profiles = {name: output / f"{arguments.model}-{name}.yaml" for name in HOMES}
    if arguments.only in (None, "profiles"):
        make_profiles(arguments.model, profiles, output, arguments.web)
    if arguments.only in (None, "trainings"):
        if arguments.data is None:
            parser.error("--data: the folder with the images is missing")
        train_all(
            trainings(arguments.model, profiles, arguments.seeds, arguments.data),
            output,
            arguments.jobs,
        )
    if arguments.only in (None, "report"):
        report(arguments.model, profiles, output, arguments.web)


def make_profiles(model: str, profiles: Mapping[str, Path], output: Path, web: Path | None) -> None:
    """Measure the profiles that are missing, and copy all of them to docs/results/deployment."""
    size = str(TASKS[model].size)
    common = ["--model-kwargs", f"num_classes={CLASSES}", "--input-size", "3", size, size]
    for name, path in profiles.items():
        if path.is_file():
            continue
        if name == WEB:
            kit = output / "kit"
            cpt_nas("kit", model, *common, "-o", kit)
            time_in_web(kit, web, WEB_ROUNDS // 2)
            cpt_nas("profile", "--from", kit / "times.csv", "--name", path.stem, "-o", path)
        else:
            options = ["--threads", "1", *RUNTIMES[name], "--name", path.stem]
            cpt_nas("profile", model, *common, *options, "-o", path)
    (DOCS / "deployment").mkdir(exist_ok=True)
    for path in profiles.values():
        shutil.copyfile(path, DOCS / "deployment" / path.name)


def time_in_web(kit: Path, web: Path | None, rounds: int) -> None:
    """Time the networks of a kit under node, which writes the kit's times.csv."""
    if web is None:
        raise SystemExit("--web: the folder with onnxruntime-web is missing")
    script = web / "kit_web.mjs"  # node looks for packages in the folder of the script
    shutil.copyfile(HERE / script.name, script)
    subprocess.run(["node", script.name, str(kit.absolute()), str(rounds)], cwd=web, check=True)


def trainings(
    model: str, profiles: Mapping[str, Path], seeds: list[int], data: Path
) -> dict[str, list[str]]:
    """The arguments of cpt-nas for each training by name, seed by seed."""
    kinds = {"dense": ["--dense"]}
    for name, path in profiles.items():
        kinds[f"search-{name}"] = ["--profile", str(path), "--latency-budget", str(BUDGET)]
    # The profile of a kit has another fingerprint than this machine.
    kinds[f"search-{WEB}"].append("--allow-foreign")
    kinds["search-macs"] = ["--macs-budget", str(BUDGET)]
    jobs = {}
    for seed in seeds:
        values = [f"data.root={data}", *TASKS[model].options, f"train.seed={seed}"]
        sets = [x for value in values for x in ("--set", value)]
        for name, options in kinds.items():
            jobs[f"{name}-s{seed}"] = ["train", "--recipe", "cifar10_resnet20", *options, *sets]
    return jobs


def report(model: str, profiles: Mapping[str, Path], output: Path, web: Path | None) -> None:
    """Measure every network in every runtime and write the tables."""
    folders = [f for f in sorted(output.iterdir()) if f.name[-3:-1] == "-s" and finished(f)]
    runs = load_runs(folders)
    network = Network.of(model)
    structures = {"dense": dense_structure(find_branches(network.model), model, {})}
    digests = {}
    for run in runs:
        assert run.structure is not None, "finished"
        digests[run.name] = candidate(network.model, network.cost, run.structure).digest()
        structures.setdefault(digests[run.name], run.structure)
    times = {name: network.measured(structures, profiles[name]) for name in RUNTIMES}
    times[WEB] = network.measured_in_web(structures, web)
    predicted = {
        name: network.predicted(structures, hwprofiles.load(path))
        for name, path in profiles.items()
    }
    rows = []
    for run in runs:
        assert run.structure is not None
        key = digests[run.name]
        kept = [b for b in run.structure.branches.values() if b.kept]
        for name in HOMES:
            rows.append(
                {
                    "model": model,
                    "network": run.name.rpartition("-s")[0],
                    "seed": run.recipe.train.seed,
                    "commit": run.result["commit"],
                    "accuracy": run.result["test_acc"],
                    "macs": network.share(run.structure, "macs"),
                    "params": network.share(run.structure, "params"),
                    "branches": len(kept),
                    "units": sum(len(g.kept) for b in kept for g in b.units.values()),
                    "runtime": name,
                    "ms": 1e3 * times[name][key],
                    "ratio": times[name][key] / times[name]["dense"],
                    "predicted_ratio": predicted[name][key] / predicted[name]["dense"],
                }
            )
    path = DOCS / "deployment.csv"
    table = pd.DataFrame(rows)
    if path.is_file():
        known = pd.read_csv(path)
        table = pd.concat([known[known["model"] != model], table], ignore_index=True)
    table.to_csv(path, index=False, float_format="%.5g", lineterminator="\n")
    markdown.insert(DOCS / "deployment.md", {model: cross_matrix(table[table["model"] == model])})


@dataclass(frozen=True)
class Network:
    """A model whose cut versions are measured, with random weights: times do not depend on them."""

    name: str
    model: torch.nn.Module
    cost: CostModel

    @classmethod
    def of(cls, name: str) -> Network:
        size = TASKS[name].size
        model = timm.create_model(name, num_classes=CLASSES)
        return cls(
            name, model, build_cost(model, torch.zeros(1, 3, size, size), find_branches(model))
        )

    def share(self, structure: Structure, what: str) -> float:
        """The share of the dense network's 'macs' or 'params' that a structure has."""
        dense = dense_structure(find_branches(self.model), self.name, {})
        return self.cost.of_structure(structure)[what] / self.cost.of_structure(dense)[what]

    def measured(self, structures: Mapping[str, Structure], file: Path) -> dict[str, float]:
        """The seconds of each structure by name, measured in interleaved rounds."""
        profile = hwprofiles.load(file)
        networks = {k: candidate(self.model, self.cost, s) for k, s in structures.items()}
        timed = hwprofiles.time_candidates(
            profile, networks, rounds=20, min_s=MEASURED_S * len(networks)
        )
        print(f"{profile.name}: {timed.verdict}", flush=True)
        return {name: m.median_s for name, m in timed.measurements.items()}

    def measured_in_web(
        self, structures: Mapping[str, Structure], web: Path | None
    ) -> dict[str, float]:
        """The seconds of each structure by name, measured under node as a kit is."""
        size = TASKS[self.name].size
        example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        with tempfile.TemporaryDirectory() as folder:
            kit = Path(folder)
            for name, structure in structures.items():
                made = candidate(self.model, self.cost, structure).build()
                (kit / f"{name}.onnx").write_bytes(onnx_bytes(made, example))
            content = {"id": "cross", "batch_size": 1, "input_size": [3, size, size]}
            names = [{"name": name} for name in structures]
            (kit / "manifest.json").write_text(json.dumps(content | {"networks": names}))
            time_in_web(kit, web, WEB_ROUNDS)
            table = pd.read_csv(kit / "times.csv", comment="#").set_index("network")
        seconds: dict[str, float] = table["seconds"].to_dict()
        return seconds

    def predicted(
        self, structures: Mapping[str, Structure], profile: hwprofiles.Profile
    ) -> dict[str, float]:
        """The seconds of each structure by name, as the profile predicts them."""
        networks = {k: candidate(self.model, self.cost, s) for k, s in structures.items()}
        return {name: c.predict_s(profile) for name, c in networks.items()}


def cross_matrix(table: pd.DataFrame) -> str:
    """A table with a row a network, means over the seeds; the runtime searched for is bold."""
    order = ["dense", *(f"search-{name}" for name in HOMES), "search-macs"]
    rows = []
    for network in order:
        here = table[table["network"] == network]
        if here.empty:
            continue
        runs = here.drop_duplicates("seed")
        low, high = runs["accuracy"].min(), runs["accuracy"].max()
        row = [network, str(len(runs)), f"{runs['accuracy'].mean():.2f} ({low:.2f}-{high:.2f})"]
        row += [f"{runs['macs'].mean():.2f}", f"{runs['branches'].mean():.1f}"]
        row.append(f"{runs['units'].mean():.0f}")
        for name in HOMES:
            there = here[here["runtime"] == name]
            text = f"{there['ratio'].mean():.2f}"
            row.append(f"**{text}**" if network == f"search-{name}" else text)
        rows.append(row)
    dense = table[table["network"] == "dense"].groupby("runtime")["ms"].mean()
    heads = ["network", "seeds", "test acc. %", "MACs", "branches", "units"]
    heads += [f"{name} ({dense[name]:.2g} ms)" for name in HOMES]
    return markdown.table(heads, rows)


def cpt_nas(*arguments: str | Path) -> None:
    command = ["cpt_nas", *map(str, arguments)]
    print(" ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
