"""In which settings does this machine spend its time on other parts of a network?

    python benchmarks/settings.py

Profiles ResNet-20 (32 pixels) in each setting of SETTINGS, and in the first of them twice. By each
profile the network's cost is divided into shares: for each residual branch the part that does not
depend on its units, the part that does (its widths), and the rest of the network. The distance of
two settings is half the sum of the absolute differences of their shares (0: the same shares, 1:
nothing in common). Searches for two settings can find other structures only where the shares
differ. MACs and parameters are compared in the same way. Writes docs/results/settings.csv (a row a
setting and part) and the table in docs/results/hardware.md. It needs a machine that does nothing
else, and about three minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import markdown
import pandas as pd
import timm
import torch

import cpt_nas
import hwprofiles
from cpt_nas.search.estimates import BranchState

DOCS = Path(__file__).parents[1] / "docs" / "results"
MODEL, SIZE = "cpt_resnet20", 32
AGAIN = ", again"
# The name of a setting -> threads, batch size, channels last.
SETTINGS: dict[str, tuple[int, int, bool]] = {
    "1 thread, batch 1": (1, 1, False),
    "1 thread, batch 1" + AGAIN: (1, 1, False),
    "1 thread, batch 64": (1, 64, False),
    "1 thread, batch 64, channels last": (1, 64, True),
    "4 threads, batch 1": (4, 1, False),
    "4 threads, batch 64": (4, 64, False),
}
MEASURES = ("macs", "params")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if hwprofiles.usable_cores() < max(threads for threads, _, _ in SETTINGS.values()):
        raise SystemExit("this machine has too few cores for the settings")
    parts: dict[str, dict[str, float]] = {}
    milliseconds = {}
    for name, (threads, batch_size, channels_last) in SETTINGS.items():
        profile = hwprofiles.measure(
            {MODEL: timm.create_model(MODEL)},
            (3, SIZE, SIZE),
            threads=threads,
            batch_size=batch_size,
            channels_last=channels_last,
        )
        milliseconds[name] = 1e3 * profile.dense[MODEL].median_s
        parts[name] = shares("latency", profile)
        print(f"{name}: {milliseconds[name]:.2f} ms, {profile.protocol.verdict}", flush=True)
    for measure in MEASURES:
        parts[measure] = shares(measure)
    rows = [
        {"setting": name, "part": part, "share": share}
        for name, found in parts.items()
        for part, share in found.items()
    ]
    pd.DataFrame(rows).to_csv(DOCS / "settings.csv", index=False, lineterminator="\n")
    markdown.insert(DOCS / "hardware.md", {"settings": results(parts, milliseconds)})


def shares(measure: str, profile: hwprofiles.Profile | None = None) -> dict[str, float]:
    """The share of each part in the dense cost. Parts: NAME of a branch, 'NAME widths', 'rest'."""
    budget = {f"{measure}_budget": 0.9}
    search = cpt_nas.attach(
        timm.create_model(MODEL),
        torch.zeros(1, 3, SIZE, SIZE),
        profile,
        total_steps=100,
        **budget,
    )
    structure = search.structure()
    states = {
        name: BranchState(True, {g: len(units.kept) for g, units in branch.units.items()})
        for name, branch in structure.branches.items()
    }
    marginal_costs = search.regularizer.marginal_costs(states, [(measure, 1.0)])
    found = {}
    for name, state in states.items():
        widths = sum(n * marginal_costs.units[name, group][0] for group, n in state.counts.items())
        found[name] = marginal_costs.branches[name][0] - widths
        found[f"{name} widths"] = widths
    return found | {"rest": 1.0 - sum(found.values())}


def apart(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Half the sum of the absolute differences of the shares, from 0 to 1."""
    return sum(abs(one[part] - other[part]) for part in one) / 2


def results(parts: Mapping[str, Mapping[str, float]], milliseconds: Mapping[str, float]) -> str:
    """The table, with a row for each setting and measure."""
    stages = ("layer1", "layer2", "layer3")
    first, alone = next(iter(parts)), "1 thread, batch 64"
    rows = []
    for name, found in parts.items():
        row = [name, f"{milliseconds[name]:.2f}" if name in milliseconds else ""]
        for stage in stages:
            row.append(f"{100 * sum(v for k, v in found.items() if k.startswith(stage)):.0f}")
        widths = sum(v for k, v in found.items() if k.endswith("widths"))
        row.append(f"{100 * widths / (1.0 - found['rest']):.0f}")
        row += [f"{100 * apart(found, parts[other]):.0f}" for other in (first, alone)]
        rows.append(row)
    heads = ["setting", "dense ms", *(f"branches of {stage} %" for stage in stages)]
    heads += ["of them by width %", f"apart from {first} %", f"apart from {alone} %"]
    return markdown.table(heads, rows)


if __name__ == "__main__":
    main()
