"""How much longer a training step takes with gates, folded or multiplied, than without.

    python benchmarks/gate_overhead.py [--rounds 40]

The times of steps in the same round are compared, so that slow changes of the machine's speed
cancel. Writes docs/results/gate_overhead.csv.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from pathlib import Path

import pandas as pd
import timm
import torch
from torch import nn

import cpt_nas


def stepper(model: nn.Module, x: torch.Tensor, y: torch.Tensor, search: cpt_nas.Search | None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        began = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), y)
        if search is not None:
            loss = loss + search.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if search is not None:
            search.step(optimizer)
        return time.perf_counter() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--model", default="cpt_resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(arguments.batch_size, 3, 32, 32)
    y = torch.randint(10, (arguments.batch_size,))
    plain = timm.create_model(arguments.model, num_classes=10)
    steps = {"plain": stepper(copy.deepcopy(plain), x, y, None)}
    for name, fold in (("folded", True), ("multiplied", False)):
        model = copy.deepcopy(plain)
        # With no price and a tiny rate no gate closes, so all forms do the same work.
        search = cpt_nas.attach(model, x[:1], log_gamma=0.0, theta_lr=1e-9, fold=fold)
        steps[name] = stepper(model, x, y, search)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 3):
        for name in random.Random(round_).sample(list(steps), len(steps)):
            taken = steps[name]()
            if round_ >= 3:
                times[name].append(taken)
    rows = []
    for name in steps:
        ratios = [a / b for a, b in zip(times[name], times["plain"], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        rows.append({"form": name, "ratio": quartiles[1], "q25": quartiles[0], "q75": quartiles[2]})
    table = pd.DataFrame(rows).round(3)
    table.insert(0, "model", arguments.model)
    table.to_csv(Path(__file__).parents[1] / "docs" / "results" / "gate_overhead.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
