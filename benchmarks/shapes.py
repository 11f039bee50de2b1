"""ResNet-20s rebuilt from their numbers of units with fresh weights, and measured.

The time of a network does not depend on its weights. So networks that were trained on another
machine can be measured on this one, and runs with the same shape are measured once.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd
import timm
import torch
from torch import nn

import cpt_nas  # noqa: F401  (registers cpt_resnet20)
import hwprofiles
from cpt_nas.costs.cost_model import build_cost, predict_latency
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to, dense_structure

MODEL, SIZE, CLASSES = "cpt_resnet20", 32, 10
SETTINGS = {"t1-b1": (1, 1), "t1-b64": (1, 64), "t4-b1": (4, 1)}  # setting -> threads, batch size
MEASURED_S = 3  # the least time for a shape in a setting
STEP_ROUNDS = 12


class Shape(NamedTuple):
    """The shape of a cut network.

    Attributes:
        kwargs: the dense model's arguments as JSON, such as '{}' or '{"layers": [1, 1, 2]}'.
        units: the units left in each branch, such as '16-0-16'; 0 where the branch is removed.
    """

    kwargs: str
    units: str

    @classmethod
    def of(cls, kwargs: Mapping[str, object], structure: Structure) -> Shape:
        counts = [
            len(branch.units["act1"].kept) if branch.kept else 0
            for branch in structure.branches.values()
        ]
        return cls(json.dumps(kwargs, sort_keys=True), "-".join(map(str, counts)))

    def dense_model(self) -> nn.Module:
        model: nn.Module = timm.create_model(MODEL, **self._arguments())
        return model

    def structure(self) -> Structure:
        """The structure that keeps the first units of each branch."""
        structure = dense_structure(find_branches(self.dense_model()), MODEL, self._arguments())
        counts = map(int, self.units.split("-"))
        for branch, count in zip(structure.branches.values(), counts, strict=True):
            branch.kept = count > 0
            for group in branch.units.values():
                group.kept = list(range(count))
        return structure

    def model(self) -> nn.Module:
        return cut_to(self.dense_model(), self.structure())

    def _arguments(self) -> dict[str, object]:
        return {"num_classes": CLASSES, "in_chans": 3} | json.loads(self.kwargs)


DENSE = Shape("{}", "-".join(map(str, [16] * 3 + [32] * 3 + [64] * 3)))


def measure(
    shapes: Iterable[Shape], profiles: Mapping[str, hwprofiles.Profile] | None = None
) -> pd.DataFrame:
    """A row a shape and setting: the predicted seconds, the measured ones and their quartiles.

    All shapes are measured in interleaved rounds, setting by setting.

    Args:
        shapes: the shapes; one that comes several times is measured once.
        profiles: the profile of each setting; None: nothing is predicted.
    """
    rows = []
    for setting, (threads, batch_size) in SETTINGS.items():
        x = torch.randn(batch_size, 3, SIZE, SIZE)
        names = {f"{shape.kwargs} {shape.units}": shape for shape in shapes}
        models = {name: (shape.model().eval(), x) for name, shape in names.items()}
        timed = hwprofiles.time_models(models, threads=threads, min_s=MEASURED_S * len(models))
        for name, shape in names.items():
            m = timed[name]
            row = {"shape": shape, "profile": setting, "measured_s": m.median_s}
            row |= {"q25_s": m.q25_s, "q75_s": m.q75_s, "n": m.n, "verdict": m.verdict}
            if profiles is not None:
                row["predicted_s"] = predicted(shape, profiles[setting])
            rows.append(row)
    return pd.DataFrame(rows)


@functools.cache
def counts(shape: Shape) -> dict[str, float]:
    """The 'macs' and 'params' of a shape."""
    model = shape.dense_model()
    cost = build_cost(model, torch.zeros(1, 3, SIZE, SIZE), find_branches(model))
    return cost.of_structure(shape.structure())


def predicted(shape: Shape, profile: hwprofiles.Profile) -> float:
    """The seconds that a profile predicts; NaN where the profile lacks a layer."""
    example = torch.zeros(1, 3, SIZE, SIZE)
    try:
        return predict_latency(shape.structure(), profile, shape.dense_model(), example)
    except hwprofiles.MissingLayers:
        return float("nan")


def step_times(shapes: Iterable[Shape]) -> dict[Shape, float]:
    """The median seconds of a training step of 128 images on one thread."""
    torch.set_num_threads(1)
    x, y = torch.randn(128, 3, SIZE, SIZE), torch.randint(CLASSES, (128,))
    models = {shape: shape.model().train() for shape in dict.fromkeys(shapes)}
    optimizers = {
        n: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for n, m in models.items()
    }
    times: dict[Shape, list[float]] = {shape: [] for shape in models}
    for _ in range(STEP_ROUNDS):
        for shape, model in models.items():
            begin = time.perf_counter()
            loss = nn.functional.cross_entropy(model(x), y)
            optimizers[shape].zero_grad()
            loss.backward()
            optimizers[shape].step()
            times[shape].append(time.perf_counter() - begin)
    return {shape: statistics.median(found) for shape, found in times.items()}
