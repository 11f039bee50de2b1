"""The same network, whatever the seed, the first weights, the starting width, the first theta.

What the paper on unit pruning claims, on LeNet-300-100 and the embedded digits. All the runs are in
docs/results/papers.md; here are the ends of each variation.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cpt_nas.train.recipe import load_recipe
from cpt_nas.train.train import train

DIGITS = (
    *("data.name=digits", "data.input_size=[1, 16, 16]", "model.kwargs.img_size=16"),
    *("train.epochs=40", "train.batch_size=64", "search.log_gamma=0.1"),
)
# For another width log gamma is changed so that a multiply-add keeps its price: eq. 13 divides by
# those of the whole network.
VARIATIONS = {
    "seed": ("train.seed=1",),
    "first weights": ("model.kwargs.weight_init=xavier_uniform",),
    "wider": ("model.kwargs.hidden=[600, 200]", "search.log_gamma=0.2557"),
    "narrower": ("model.kwargs.hidden=[150, 100]", "search.log_gamma=0.0505"),
    "first theta": ("search.theta_init=0.75",),
}


def found(folder: Path, *sets: str) -> tuple[float, int]:
    """Accuracy in %, and units left."""
    recipe = load_recipe("papers/lenet300_mnist", [*DIGITS, *sets])
    result = train(recipe, folder)
    structure = json.loads((folder / "structure.json").read_text())
    groups = structure["branches"]["features"]["units"].values()
    return result["test_acc"], sum(len(g["kept"]) for g in groups)


@pytest.mark.slow
def test_what_is_found_does_not_hang_on_where_the_search_begins(tmp_path: Path) -> None:
    runs = {name: found(tmp_path / name, *sets) for name, sets in VARIATIONS.items()}
    runs["base"] = found(tmp_path / "base")
    accuracies, units = zip(*runs.values())
    assert min(accuracies) > 95, runs
    # Of 360 test images: the spread of seeds alone is about 1 point.
    assert max(accuracies) - min(accuracies) < 3, runs
    # Of 250 to 800 units at the start.
    assert max(units) < 1.5 * min(units), runs
    assert max(units) < 200, runs
