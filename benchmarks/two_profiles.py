"""One log gamma, two profiles, two structures: the papers' own law, from one command.

    python benchmarks/two_profiles.py [--seeds 0 1 2]

ResNet-20 on scikit-learn's digits under ``cost: complexity``, where a profile says no more than its
alpha and kappa. Both are profiles of ResNet-20 on one machine, in two runtimes. Every structure's
latency is then predicted by both, as of a ResNet-20 at 3 x 32 x 32, whose layers they hold. A row
a run goes to docs/results/two_profiles.csv, the table into docs/results/two_profiles.md; runs that
are in the CSV already are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits_loop as loop
import markdown
import pandas as pd
import timm
import torch

import hwprofiles
from cpt_nas.costs.cost_model import predict_latency

DOCS = Path(__file__).parents[1] / "docs" / "results"
CSV = DOCS / "two_profiles.csv"
PROFILES = {
    "openvino": DOCS / "deployment" / "cpt_resnet20-openvino-bf16.yaml",
    "wasm": DOCS / "deployment" / "cpt_resnet20-wasm.yaml",
}
LOG_GAMMA, STEPS = 0.05, 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    profiles = {name: hwprofiles.load(path) for name, path in PROFILES.items()}
    dense, x, data = timm.create_model("cpt_resnet20"), torch.zeros(1, 3, 32, 32), loop.images()
    rows = pd.read_csv(CSV).to_dict("records") if CSV.exists() else []
    for seed in arguments.seeds:
        for name, profile in profiles.items():
            if any((row["profile"], row["seed"]) == (name, seed) for row in rows):
                continue
            search, row = loop.search(
                lambda: timm.create_model("cpt_resnet20", in_chans=1),
                data,
                STEPS,
                seed,
                profile,
                cost="complexity",
                log_gamma=LOG_GAMMA,
                warmup_steps=STEPS // 10,
                ramp_steps=STEPS // 10,
                cut_interval=10,
                allow_foreign=True,
                channel_divisor=1,
            )
            law, left = search.law, search.structure()
            numbers = {"alpha": law.alpha.value, "kappa": law.kappa.value}
            predicted = {
                f"latency_ratio:{other}": predict_latency(left, paid, dense, x)
                / predict_latency(search.dense, paid, dense, x)
                for other, paid in profiles.items()
            }
            widths = "-".join(
                str(len(units.kept)) for b in left.branches.values() for units in b.units.values()
            )
            rows.append(
                {"profile": name, "seed": seed, "log_gamma": LOG_GAMMA}
                | numbers
                | row
                | predicted
                | {"widths": widths}
            )
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(CSV, index=False, lineterminator="\n", float_format="%.5g")
    markdown.insert(DOCS / "two_profiles.md", {"profiles": summary(pd.read_csv(CSV))})


def summary(table: pd.DataFrame) -> str:
    """A row a run."""
    rows = []
    for _, run in table.sort_values(["profile", "seed"]).iterrows():
        predicted = [f"{run[f'latency_ratio:{name}']:.3f}" for name in PROFILES]
        rows.append(
            [
                run["profile"],
                f"{run['seed']}",
                f"{run['alpha']:.3g}",
                f"{run['kappa']:.3g}",
                f"{run['accuracy']:.2f}",
                f"{run['branches']}",
                f"{run['units']}",
                f"{run['macs_ratio']:.3f}",
                *predicted,
                run["widths"],
            ]
        )
    heads = ["profile", "seed", "alpha", "kappa", "test acc. %", "branches of 9", "units of 336"]
    heads += ["MACs / dense", *(f"latency / dense in {name}" for name in PROFILES)]
    return markdown.table([*heads, "units of each branch"], rows)


if __name__ == "__main__":
    main()
