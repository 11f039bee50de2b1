"""How far profiles can be trusted: predicted against measured latency of random cut networks.

    python benchmarks/profiles.py [-o runs/profiles]

For three ResNets in two settings (one thread and batch 1, all threads and batch 32): profiles,
calibrates, validates on 30 networks, and profiles once more in a fresh process. A profile that is
already in the output folder is not measured again, so the command can be interrupted and repeated;
delete a file to measure it anew. Writes docs/results/profiles.csv (a row a setting),
docs/results/profiles_networks.csv (a row a network), docs/results/profiles/*.png, the tables in
docs/results/profiles.md and the shipped profiles in hwprofiles/profiles/. About 40 minutes on four
quiet cores.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import markdown
import numpy as np
import pandas as pd
import timm
import torch

import hwprofiles
from cpt_nas.calibration.random_structures import random_structures
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.pruning.search_space import find_branches
from hwprofiles import Profile
from hwprofiles.device import fingerprint

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "results"
MODELS = {"cpt_resnet56": 32, "resnet18": 224, "resnet50": 224}
COMPARED = 30  # structures on which two profilings of one setting are compared


@dataclass(frozen=True)
class Job:
    """One model in one setting."""

    model: str
    size: int
    batch_size: int
    threads: int
    device: str

    @property
    def name(self) -> str:
        """Such as resnet18-amd-epyc-t1-b1."""
        machine = fingerprint(self.device).device.name.lower()
        slug = re.sub(r"[^a-z0-9]+", "-", machine).strip("-")
        threads = f"-t{self.threads}" if self.device == "cpu" else ""
        return f"{self.model}-{slug}{threads}-b{self.batch_size}"

    def profile(self, output: Path, structures: int, seed: int) -> None:
        """Profile in a fresh process."""
        command = [sys.executable, "-m", "cpt_nas", "profile", self.model]
        command += ["--input-size", "3", str(self.size), str(self.size)]
        command += ["--batch-size", str(self.batch_size), "--device", self.device]
        command += ["--threads", str(self.threads), "--structures", str(structures)]
        command += ["--seed", str(seed), "--name", self.name, "-o", str(output)]
        print(" ".join(["cpt-nas", *command[3:]]), flush=True)
        subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/profiles"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--structures", type=int, default=30)
    parser.add_argument(
        "--settings", nargs="+", help="THREADS,BATCH; default 1,1 and all cores,32", metavar="T,B"
    )
    parser.add_argument("--dry", action="store_true", help="write nothing outside the output")
    arguments = parser.parse_args()
    output: Path = arguments.output
    default = ["1,1", f"{hwprofiles.usable_cores() if arguments.device == 'cpu' else 1},32"]
    settings = [tuple(map(int, s.split(","))) for s in arguments.settings or default]
    jobs = [
        Job(model, MODELS[model], batch, threads, arguments.device)
        for threads, batch in settings
        for model in arguments.models
    ]
    rows, networks, done = [], [], []
    for number, job in enumerate(jobs, 1):
        first, second = output / f"{job.name}.yaml", output / "again" / f"{job.name}.yaml"
        print(f"[{number}/{len(jobs)}] {job.name}", flush=True)
        if not (first.is_file() and hwprofiles.load(first).validation):
            job.profile(first, arguments.structures, seed=0)
        if not second.is_file():
            job.profile(second, 0, seed=1)
        profile = hwprofiles.load(first)
        rows.append(summary(job, profile, hwprofiles.load(second)))
        networks += listed(profile)
        done.append((first, output / f"{job.name}-{job.model}.png"))
    docs = output / "results" if arguments.dry else DOCS
    (docs / "profiles").mkdir(parents=True, exist_ok=True)
    table = merged(pd.DataFrame(rows), docs / "profiles.csv", ["profile"])
    merged(pd.DataFrame(networks), docs / "profiles_networks.csv", ["profile", "network"])
    for _, image in done:
        shutil.copyfile(image, docs / "profiles" / image.name)
    if not arguments.dry:
        for file, _ in done:
            hwprofiles.save(hwprofiles.load(file), hwprofiles.profile_file.SHIPPED / file.name)
        write_tables(DOCS / "profiles.md", table)
    print("\n\n".join(tables(table).values()))


def summary(job: Job, profile: Profile, again: Profile) -> dict[str, object]:
    """All that is claimed of one profile, and what limits it; shares, not per cent."""
    (v,) = profile.validation
    dense, c, p = profile.dense[job.model], profile.calibration, profile.protocol
    off = v.unaligned
    return {
        "profile": profile.name,
        "model": job.model,
        "threads": job.threads,
        "batch_size": job.batch_size,
        "dense_ms": 1e3 * dense.median_s,
        "channel_divisor": profile.channel_divisor,
        "n_aligned": v.aligned.n,
        "mape": v.aligned.mape,
        "within5": v.aligned.within5,
        "within10": v.aligned.within10,
        "max_error": v.aligned.max,
        "kendall_tau": v.aligned.kendall_tau,
        "speed_up_error": v.speed_up_error,
        "dense_error": v.dense_error,
        "two_profilings": two_profilings(job, profile, again),
        "noise_floor": v.noise_floor,
        "profile_s": profile.created.wall_s + c.wall_s,
        "n_unaligned": off.n if off else 0,
        "mape_unaligned": off.mape if off else float("nan"),
        "mape_macs": v.macs_alone.mape,
        "within10_macs": v.macs_alone.within10,
        "kendall_tau_macs": v.macs_alone.kendall_tau,
        "mape_params": v.params_alone.mape,
        "kendall_tau_params": v.params_alone.kendall_tau,
        "layers_explain": dense.explained,
        "calibration_drift": c.drift,
        "verdicts": "/".join(str(x) for x in (p.verdict, c.verdict, v.verdict)),
        "contention_cores": max(x for x in (p.contention, v.contention, 0.0) if x is not None),
        "parameter_bytes": dense.memory.parameter_bytes,
        "activation_bytes": dense.memory.activation_bytes,
        "peak_analytic_bytes": dense.memory.peak_analytic_bytes,
        "peak_measured_bytes": dense.memory.peak_measured_bytes,
    }


def two_profilings(job: Job, first: Profile, second: Profile) -> float:
    """Mean relative difference of two profiles' predictions, the dense network among them."""
    model = timm.create_model(job.model)
    example = torch.zeros(1, 3, job.size, job.size)
    a, b = (build_cost(model, example, find_branches(model), p) for p in (first, second))
    drawn = random_structures(model, a, COMPARED, 0, first.channel_divisor)
    pairs = [(a.of_structure(s)["latency"], b.of_structure(s)["latency"]) for s in drawn]
    return float(np.mean([abs(y / x - 1) for x, y in pairs]))


def listed(profile: Profile) -> list[dict[str, object]]:
    (v,) = profile.validation
    return [
        {
            "profile": profile.name,
            "network": n.label,
            "aligned": n.aligned,
            "layers": n.layers,
            "macs": n.macs,
            "params": n.params,
            "predicted_ms": 1e3 * n.predicted_s,
            "measured_ms": 1e3 * n.measured_s,
            "again_ms": 1e3 * n.again_s if n.again_s else float("nan"),
            "spread": n.spread,
        }
        for n in v.networks
    ]


def merged(new: pd.DataFrame, path: Path, keys: list[str]) -> pd.DataFrame:
    """Write a table; rows of profiles that were not made this time stay as they are."""
    if path.is_file():
        old = pd.read_csv(path)
        new = pd.concat([old[~old["profile"].isin(new["profile"])], new], ignore_index=True)
    new.to_csv(path, index=False, float_format="%.5g")
    return pd.read_csv(path)


# ---- the tables in the document ---------------------------------------------------------------


def tables(t: pd.DataFrame) -> dict[str, str]:
    """Marker -> markdown table; a column a profile."""
    results = {
        "MAPE at the divisor | 3 % | 5 %": [pc(r.mape, r.mape <= 0.05) for r in rows_of(t)],
        "within ±10 % | 95 % | 90 %": [pc(r.within10, r.within10 >= 0.9) for r in rows_of(t)],
        "Kendall τ | 0.95 | 0.90, above MACs alone": [
            mark(f"{r.kendall_tau:.3f}", r.kendall_tau >= max(0.9, r.kendall_tau_macs))
            for r in rows_of(t)
        ],
        "speed-up ratio error | 3 % | 5 %": [
            pc(r.speed_up_error, r.speed_up_error <= 0.05) for r in rows_of(t)
        ],
        "dense network | 2 % | 3 %": [
            pc(r.dense_error, abs(r.dense_error) <= 0.03) for r in rows_of(t)
        ],
        "two profilings | 3 % | 5 %": [
            pc(r.two_profilings, r.two_profilings <= 0.05) for r in rows_of(t)
        ],
        "time to profile (resnet18, batch 1) | 60 s | 3 min": [
            mark(
                f"{r.profile_s:.0f} s",
                (r.model, r.batch_size) != ("resnet18", 1) or r.profile_s <= 180,
            )
            for r in rows_of(t)
        ],
        "**noise floor** | | ": [pc(r.noise_floor) for r in rows_of(t)],
        "verdicts: measured / calibrated / validated | | ": [r.verdicts for r in rows_of(t)],
    }
    beside = {
        "worst error": [pc(r.max_error) for r in rows_of(t)],
        "within ±5 %": [pc(r.within5) for r in rows_of(t)],
        "MAPE off the divisor": [pc(r.mape_unaligned) for r in rows_of(t)],
        "MACs alone: MAPE": [pc(r.mape_macs) for r in rows_of(t)],
        "MACs alone: within ±10 %": [pc(r.within10_macs) for r in rows_of(t)],
        "MACs alone: Kendall τ": [f"{r.kendall_tau_macs:.3f}" for r in rows_of(t)],
        "parameters alone: MAPE": [pc(r.mape_params) for r in rows_of(t)],
        "parameters alone: Kendall τ": [f"{r.kendall_tau_params:.3f}" for r in rows_of(t)],
        "dense network, ms": [f"{r.dense_ms:.4g}" for r in rows_of(t)],
        "channel divisor": [str(r.channel_divisor) for r in rows_of(t)],
        "sum of layers / whole, before calibration": [pc(r.layers_explain) for r in rows_of(t)],
        "drift from measuring to calibrating": [pc(r.calibration_drift) for r in rows_of(t)],
    }
    names = ("parameter", "activation", "peak_analytic", "peak_measured")
    mib = {
        f"{name.replace('_', ', ')}, MiB": [
            "not measured" if pd.isna(x := getattr(r, f"{name}_bytes")) else f"{x / 2**20:.1f}"
            for r in rows_of(t)
        ]
        for name in names
    }
    heads = [f"{r.model}, {r.threads} thr., batch {r.batch_size}" for r in rows_of(t)]
    return {
        "results": markdown.table(["", "goal", "at least", *heads], _labelled(results)),
        "beside": markdown.table(["", *heads], _labelled(beside)),
        "memory": markdown.table(["", *heads], _labelled(mib)),
    }


def _labelled(rows: dict[str, list[str]]) -> list[list[str]]:
    return [[label, *values] for label, values in rows.items()]


def rows_of(t: pd.DataFrame) -> list:
    return list(t.itertuples())


def pc(share: float, passed: bool = True) -> str:
    return "-" if pd.isna(share) else mark(f"{100 * share:.1f} %", passed)


def mark(text: str, passed: bool) -> str:
    """What misses its 'at least' is bold, with a dagger."""
    return text if passed else f"**{text}** †"


def write_tables(path: Path, table: pd.DataFrame) -> None:
    """Put the tables between their markers; the text around them stays."""
    images = [
        f"![{r.profile}: predicted against measured](profiles/{r.profile}-{r.model}.png)"
        for r in rows_of(table)
    ]
    markdown.insert(path, {**tables(table), "images": "\n\n".join(images)})


if __name__ == "__main__":
    main()
