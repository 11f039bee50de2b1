"""Do profiles predict the latency of cut networks? Predictions are compared with measurements.

    python benchmarks/profiles.py [-o runs/profiles] [--models ...] [--runtimes ...]

For every model in every runtime, on one thread at batch 1, ``cpt-nas profile`` fits costs to random
cut networks and checks them on 30 other ones. Then ``cpt-nas validate-profile`` checks them in a
fresh process on 30 networks of another seed. A profile that is in the output folder is not measured
again, so the command can be interrupted and repeated. Writes docs/results/profiles.csv (a row a
profile), docs/results/profiles_networks.csv (a row a network), docs/results/profiles/*.png, the
table in docs/results/profiles.md and the shipped profiles in hwprofiles/profiles. Rows of other
profiles stay as they are. It needs a machine that does nothing else, and one to five minutes a
profile.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import markdown
import pandas as pd

import hwprofiles
from hwprofiles import Profile
from hwprofiles.profile_file import SHIPPED

DOCS = Path(__file__).parents[1] / "docs" / "results"
MODELS = {
    "cpt_resnet56": 32,
    "mobilenetv2_100": 96,
    "resnet18": 224,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 224,
}
RUNTIMES = ("eager", "onnxruntime", "openvino")
STRUCTURES = 30


@dataclass(frozen=True)
class Job:
    """One model in one runtime."""

    model: str
    runtime: str

    @property
    def name(self) -> str:
        return f"{self.model}-{self.runtime}"

    def run(self, output: Path) -> tuple[Profile, Profile]:
        """The profile as it was made, and the profile with the later validation."""
        first, later = output / f"{self.name}.yaml", output / "later" / f"{self.name}.yaml"
        size = str(MODELS[self.model])
        if not first.is_file():
            _cpt_nas(
                *("profile", self.model, "--input-size", "3", size, size, "--threads", "1"),
                *("--runtime", self.runtime, "--structures", str(STRUCTURES), "--seed", "0"),
                *("--name", self.name, "-o", str(first)),
            )
        if not later.is_file():
            later.parent.mkdir(exist_ok=True)
            working = later.with_suffix(".unfinished.yaml")
            shutil.copyfile(first, working)
            _cpt_nas(
                *("validate-profile", str(working), self.model),
                *("--structures", str(STRUCTURES), "--seed", "7"),
            )
            working.rename(later)
        return hwprofiles.load(first), hwprofiles.load(later)


def _cpt_nas(*arguments: str) -> None:
    print(" ".join(["cpt-nas", *arguments]), flush=True)
    subprocess.run([sys.executable, "-m", "cpt_nas", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/profiles"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    jobs = [Job(m, r) for m in arguments.models for r in arguments.runtimes]
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.name}", flush=True)
        profile, later = job.run(arguments.output)
        ship(job, arguments.output)
        # The tables are written after each profile, so that an interruption loses none.
        table = merged([summary(job, profile, later)], DOCS / "profiles.csv", "profile")
        merged(
            [*listed(profile, "at once"), *listed(later, "later")],
            DOCS / "profiles_networks.csv",
            "profile",
        )
        markdown.insert(DOCS / "profiles.md", {"results": results(table)})
    print(results(table))


def ship(job: Job, output: Path) -> None:
    """Copy the profile into the package and its figure to docs/results/profiles."""
    shutil.copyfile(output / f"{job.name}.yaml", SHIPPED / f"{job.name}.yaml")
    picture = f"{job.name}-{job.model}.png"
    (DOCS / "profiles").mkdir(exist_ok=True)
    shutil.copyfile(output / picture, DOCS / "profiles" / picture)


def summary(job: Job, profile: Profile, later: Profile) -> dict[str, object]:
    """The row of a profile: its errors as shares, and how it was made."""
    (v,), (w,) = profile.validation, later.validation
    c, dense = profile.calibration, profile.dense[job.model]
    runtime = profile.fingerprint.runtime
    return {
        "profile": profile.name,
        "model": job.model,
        "input": profile.workload.input_size[1],
        "runtime": job.runtime,
        "version": runtime.version,
        "dense_ms": 1e3 * dense.median_s,
        "channel_divisor": profile.channel_divisor,
        "coefficients": c.unknowns,
        "networks": c.n,
        "left_out_error": c.left_out_error,
        "n": v.aligned.n,
        "mape": v.aligned.mape,
        "within10": v.aligned.within10,
        "max_error": v.aligned.max,
        "kendall_tau": v.aligned.kendall_tau,
        "mape_macs": v.macs_alone.mape,
        "kendall_tau_macs": v.macs_alone.kendall_tau,
        "mape_unaligned": v.unaligned.mape if v.unaligned else float("nan"),
        "noise_floor": v.noise_floor,
        "later_mape": w.aligned.mape,
        "later_mape_without_drift": w.speed_up_error,
        "later_kendall_tau": w.aligned.kendall_tau,
        "later_noise_floor": w.noise_floor,
        "profile_s": profile.created.wall_s + c.wall_s,
        "verdicts": "/".join(str(x.verdict) for x in (profile.protocol, c, v, w)),
    }


def listed(profile: Profile, when: str) -> list[dict[str, object]]:
    (v,) = profile.validation
    return [
        {
            "profile": profile.name,
            "when": when,
            "network": n.label,
            "aligned": n.aligned,
            "macs": n.macs,
            "params": n.params,
            "predicted_ms": 1e3 * n.predicted_s,
            "measured_ms": 1e3 * n.measured_s,
            "spread": n.spread,
        }
        for n in v.networks
    ]


def merged(rows: list[dict[str, object]], path: Path, key: str) -> pd.DataFrame:
    """Write the rows to a table; its rows of other profiles stay. Returns the whole table."""
    new = pd.DataFrame(rows)
    if path.is_file():
        old = pd.read_csv(path)
        new = pd.concat([old[~old[key].isin(new[key])], new], ignore_index=True)
    new.to_csv(path, index=False, float_format="%.5g")
    return pd.read_csv(path)


def results(t: pd.DataFrame) -> str:
    """A Markdown table with a row a profile."""
    rows = [
        [
            f"{r.model}, {r.input} px",
            r.runtime,
            f"{r.dense_ms:.3g}",
            str(r.channel_divisor),
            f"{r.networks} / {r.coefficients}",
            pc(r.mape, r.mape <= 0.05),
            pc(r.within10, r.within10 >= 0.95),
            mark(f"{r.kendall_tau:.2f}", r.kendall_tau >= 0.95),
            pc(r.noise_floor),
            f"{pc(r.mape_macs)}, {r.kendall_tau_macs:.2f}",
            f"{pc(r.later_mape, r.later_mape <= 0.05)}, {pc(r.later_mape_without_drift)}",
            f"{r.profile_s:.0f}",
            r.verdicts,
        ]
        for r in t.itertuples()
    ]
    heads = ["model", "runtime", "dense, ms", "divisor", "networks / coefficients"]
    heads += ["MAPE (≤ 5 %, goal 3 %)", "within 10 % (95 %)", "Kendall τ (0.95)", "noise floor"]
    heads += ["MACs and a constant: MAPE, τ", "later: MAPE, without drift", "s", "verdicts"]
    return markdown.table(heads, rows)


def pc(share: float, passed: bool = True) -> str:
    return "-" if pd.isna(share) else mark(f"{100 * share:.1f} %", passed)


def mark(text: str, passed: bool) -> str:
    """The text; bold and with a dagger where it misses its goal."""
    return text if passed else f"**{text}** †"


if __name__ == "__main__":
    main()
