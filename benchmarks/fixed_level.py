"""The papers' law: which estimator is the default, what leaves gates hanging, what settles them.

    python benchmarks/fixed_level.py [--seeds 0 1 2]

Searches on scikit-learn's digits under a fixed log gamma, MACs only (alpha = 1), one thread. A row
a run goes to docs/results/fixed_level.csv, and the tables into docs/results/fixed_level.md; runs
that are in the CSV already are not repeated. Half an hour on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import digits_loop as loop
import markdown
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import cpt_nas

DOCS = Path(__file__).parents[1] / "docs" / "results"
CSV = DOCS / "fixed_level.csv"
STEPS = 1500
ESTIMATORS = ("endpoint", "straight_through")
# (network, gate) -> log gamma
LEVELS = {("lenet", "units"): 0.3, ("resnet", "both"): 0.05, ("resnet", "layers"): 0.1}
NETWORKS = {"resnet": loop.resnet, "lenet": loop.lenet}
CHANGES = ("as it is", "two passes for branches", "falling theta rate", "3 x longer")


def jobs(seeds: list[int]) -> list[dict[str, Any]]:
    """What is run: both estimators, and with the first seed what might settle the gates."""
    made = []
    for (network, gate), level in LEVELS.items():
        for seed in seeds:
            same = {"network": network, "gate": gate, "log_gamma": level, "seed": seed}
            for change in CHANGES if network == "resnet" and seed == seeds[0] else CHANGES[:1]:
                made += [same | {"estimator": e, "change": change} for e in ESTIMATORS]
    return sorted(made, key=lambda job: CHANGES.index(job["change"]))


def run(job: dict[str, Any], data: loop.Images) -> dict[str, Any]:
    """A row."""
    steps = 3 * STEPS if job["change"] == "3 x longer" else STEPS
    hook: loop.Hook | None = None
    if job["change"] == "falling theta rate":
        hook = FallingRate(steps)
    elif job["change"] == "two passes for branches":
        hook = TwoPasses()
    watch = Slopes(hook, steps)
    _, row = loop.search(
        NETWORKS[job["network"]],
        data,
        steps,
        job["seed"],
        before_step=watch,
        gate=job["gate"],
        estimator=job["estimator"],
        log_gamma=job["log_gamma"],
        alpha=1.0,
        warmup_steps=steps // 10,
        ramp_steps=steps // 10,
        cut_interval=10,
    )
    return job | {"steps": steps} | row | watch.read()


class FallingRate:
    """theta's rate falls linearly to a hundredth over the last two thirds."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(
        self, search: cpt_nas.Search, x: Tensor, y: Tensor, step: int, loss: float
    ) -> None:
        share = min(1.0, max(0.0, 1.5 * (1 - step / self.steps)))
        for group in search.rule.theta_optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = search.settings.rate() * max(0.01, share)


class TwoPasses:
    """Eq. 21 for branches: the loss with a branch less the loss without it, on the same images.

    One branch a step, in turn; a branch keeps its last difference until it is its turn again.
    """

    def __init__(self) -> None:
        self.differences: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self, search: cpt_nas.Search, x: Tensor, y: Tensor, step: int, loss: float
    ) -> None:
        slots = [slot for slot in search.gates if loop.is_branch(search, slot)]
        if not slots or search.log_gamma == 0:
            return
        slot = slots[step % len(slots)]
        gate: Any = search.gates[slot]
        drawn = gate.mask
        before = momenta(search.model, 0.0)
        losses = {}
        for value in (0.0, 1.0):  # after the weights' step, so both are computed
            gate.mask = torch.full_like(drawn, value)
            losses[value] = functional.cross_entropy(search.model(x), y)
        gate.mask = drawn
        for module, momentum in before.items():
            module.momentum = momentum  # type: ignore[assignment]
        self.differences[slot] = (losses[1.0] - losses[0.0]).reshape(1)
        gate.gradient = lambda slopes, slot=slot: self.differences[slot]


def momenta(model: nn.Module, value: float) -> dict[nn.Module, Any]:
    """Set the momentum of all norms' statistics; returns what it was."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = {m: m.momentum for m in norms}
    for module in norms:
        module.momentum = value
    return before


class Slopes:
    """What the loss says at theta's two ends, of the gates that are undecided at the end.

    Averages over the last steps, over the price: the slope where the gate is on, where it is off,
    and where straight-through's mean gradient is zero, beside theta.
    """

    KEEP = 0.995

    def __init__(self, hook: loop.Hook | None, steps: int) -> None:
        self.hook, self.steps = hook, steps
        self.sums: dict[str, Tensor] = {}
        self.rows: list[Tensor] = []

    def __call__(
        self, search: cpt_nas.Search, x: Tensor, y: Tensor, step: int, loss: float
    ) -> None:
        if self.hook is not None:
            self.hook(search, x, y, step, loss)
        if step < 0.8 * self.steps:
            return
        self.rows = []
        price = search.regularizer.gradients(search.rule.levels(search.steps))
        for (slot, gate), cost in zip(search.gates.items(), price, strict=True):
            slopes, on = gate.slopes(), gate.mask  # type: ignore[operator]
            new = torch.stack([on, 1 - on, *slopes])
            old = self.sums.get(slot)
            kept = new if old is None or old.shape != new.shape else self.KEEP * old + new
            self.sums[slot] = kept
            theta = gate.theta.detach()
            seen = (kept[:2] > 3).all(0)
            low = search.settings.threshold
            hangs = (theta > low) & (theta < 1 - low) & seen & (cost > 0)
            if hangs.any():
                means = kept[2:, hangs] / kept[:2, hangs] / cost[hangs]
                self.rows.append(torch.stack([theta[hangs], *means]))

    def read(self) -> dict[str, float]:
        if not self.rows:
            return dict.fromkeys(("slope_on", "slope_off", "theta", "fixed_point"), float("nan"))
        theta, on, off = torch.cat(self.rows, 1)
        # theta * on + (1 - theta) * off + 1 = 0, over the price
        fixed = ((1 + off) / (off - on)).clamp(0, 1)
        names = {"slope_on": on, "slope_off": off, "theta": theta, "fixed_point": fixed}
        return {name: float(value.median()) for name, value in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    data, done = loop.images(), pd.read_csv(CSV).to_dict("records") if CSV.exists() else []
    for job in jobs(arguments.seeds):
        if any(all(row[k] == v for k, v in job.items()) for row in done):
            continue
        done.append(run(job, data))
        print({k: v for k, v in done[-1].items() if k not in ("slope_on", "slope_off")}, flush=True)
        pd.DataFrame(done).to_csv(CSV, index=False, lineterminator="\n", float_format="%.5g")
    table = pd.read_csv(CSV)
    contents = {"estimators": estimators(table), "settling": settling(table)}
    markdown.insert(DOCS / "fixed_level.md", contents)


def estimators(table: pd.DataFrame) -> str:
    """Means over the seeds, a row a level and estimator."""
    rows = []
    table = table[table["change"] == CHANGES[0]]
    keys = ["network", "gate", "log_gamma", "estimator"]
    for (network, gate, level, estimator), runs in table.groupby(keys, sort=False):
        rows.append([f"{network}, {gate}", f"{level}", estimator.replace("_", "-"), *_means(runs)])
    heads = ["network, gates", "log γ", "estimator", *_HEADS]
    return markdown.table(heads, rows)


def settling(table: pd.DataFrame) -> str:
    """What each change does to the gates that hang, the first seed."""
    rows = []
    first = table["seed"] == table["seed"].iloc[0]
    table = table[first & (table["network"] == "resnet")]
    for (gate, estimator, change), runs in table.groupby(["gate", "estimator", "change"]):
        hanging = [f"{runs[k].median():.2f}" for k in ("theta", "fixed_point")]
        slopes = [f"{runs[k].median():.1f}" for k in ("slope_on", "slope_off")]
        values = ["–" if v == "nan" else v for v in (*slopes, *hanging)]
        rows.append([gate, estimator.replace("_", "-"), change, *_means(runs), *values])
    heads = ["gates", "estimator", "change", *_HEADS]
    heads += ["slope on / price", "slope off / price", "theta", "ST's fixed point"]
    return markdown.table(heads, rows)


_HEADS = ("test acc. %", "range", "MACs / dense", "undecided %: units", "branches")


def _means(runs: pd.DataFrame) -> list[str]:
    accuracy = runs["accuracy"]
    return [
        f"{accuracy.mean():.2f}",
        f"{accuracy.min():.2f}-{accuracy.max():.2f}",
        f"{runs['macs_ratio'].mean():.3f}",
        f"{100 * runs['undecided_units'].mean():.0f}",
        f"{100 * runs['undecided_branches'].mean():.0f}",
    ]


if __name__ == "__main__":
    main()
