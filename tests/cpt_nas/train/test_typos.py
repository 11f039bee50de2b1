"""Whatever value a key is given: it is taken, or refused in one line that names a key.

Everything before the first step is done: the recipe is checked, images are loaded, model, search,
optimizer and schedule are built.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import hwprofiles
from cpt_nas.data.load import load_data
from cpt_nas.train.recipe import Recipe, load_recipe
from cpt_nas.train.setup import build_training, choose_device
from hwprofiles.messages import one_line

RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [8, 8, 8]}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
search: {macs_budget: 0.5}
"""
VALUES = [
    *("null", "true", "none", "''", "x" * 6000, "'[/b]'", '"\\0"', "12ms", "2026-01-01"),
    *("0", "-1", "0.5", "1e300", ".nan", "-.inf", "999999999999999999999999999999"),
    *("[]", "[0]", "[1,x]", "[[1]]", "{a: 1}"),
]
TYPOS = {
    "model.name": ["resnet18.zzz", "cpt_pruned", "vit_tiny_patch16_224", "hf-hub:timm/resnet18"],
    "model.kwargs": [
        *("{channels: [0, 8, 8]}", "{channels: [8, -8, 8]}", "{channels: [8.5, 8, 8]}"),
        *("{channels: [.inf, 8, 8]}", "{layers: [1, 1]}", "{layers: 1}", "{layers: [0, 0, 0]}"),
        *("{act_layer: rellu}", "{act_layer: 3}", "{norm_layer: x}", "{global_pool: medium}"),
        *("{num_classes: 3}", "{num_classes: 0}", "{num_classes: '10'}", "{in_chans: 3}"),
        *("{drop_rate: 2}", "{drop_path_rate: 5}", "{bogus: 1}", "{shortcut: Q}"),
    ],
    "model.structure": ["nowhere.json", "."],
    "data.input_size": ["[1, 8]", "[2, 8, 8]", "[1, 0, 0]", "[1, -8, 8]", "[1, 8, 8, 8]"],
    "data.name": ["digit", "torch/nothing", "torch/", "images"],
    "data.mean": ["[.nan]", "[0.1, 0.2]"],
    "data.std": ["[0]", "[.nan]", "[-1]"],
    "train.opt": ["fusedsgd", "adahessian", "sgdd", "bnbadam", "lookahead_", "lbfgs"],
    "train.sched": ["plateau", "none", "cosin"],
    "train.device": ["cuda:x", "gpu", "cuda:999", "mps", "CPU", "cuda:"],
    "train.min_lr": ["0.2"],
    "train.warmup_epochs": ["2"],
    "search.include": ["layer1", "['[']", "['zzz*']"],
    "search.estimator": ["endpoints"],
    "search.profile": ["nowhere.yaml", "."],
    "search.target": ["{device: tpu}", "{batch_size: 0}", "{threads: true}"],
    "search.latency_budget": ["12", "1.5ms", "50%"],
    "search.macs_budget": ["1e-9", "0.5M", "50%", "1.5.2"],
    "search.freeze": ["0.01"],
    "search.theta_init": ["0.05"],
}


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, dotted."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from keys(inner, f"{prefix}{name}.")


KEYS = sorted(set(keys(Recipe)))
WORDS = {"budget", *(word for key in KEYS for word in key.split("."))}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("typos") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def accepted(file: Path, key: str, value: str) -> bool:
    """Whether a training would begin; where not, that it is said as it should be."""
    try:
        recipe = load_recipe(file, [f"{key}={value}"])
        device = choose_device(recipe.train.device)
        data = load_data(recipe.data, recipe.train)
        source = recipe.search.profile if recipe.search is not None else None
        profile = None if source is None else hwprofiles.load(source)
        build_training(recipe, data, device, profile, None)
    except (ValueError, OSError) as error:
        line = one_line(error)
        assert any(word in line for word in (key.split(".")[-1], *WORDS)), line
        return False
    return True


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("key", KEYS)
def test_a_typo_is_taken_or_refused_in_one_line(file: Path, key: str) -> None:
    for value in VALUES:
        accepted(file, key, value)
    for value in TYPOS.get(key, []):
        assert not accepted(file, key, value), value


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    key=st.sampled_from(KEYS),
    value=st.one_of(
        st.integers().map(str), st.floats().map(str), st.text(max_size=20), st.sampled_from(VALUES)
    ),
)
def test_any_value_is_taken_or_refused_in_one_line(file: Path, key: str, value: str) -> None:
    accepted(file, key, value)


def test_a_batch_that_has_no_statistic_is_refused(file: Path) -> None:
    recipe = load_recipe(file, ["data.input_size=[1, 1, 1]", "train.batch_size=1"])
    data = load_data(recipe.data, recipe.train)
    with pytest.raises(ValueError, match=r"^train.batch_size: 1 at \[1, 1, 1\] does not train"):
        build_training(recipe, data, torch.device("cpu"), None, None)


def test_what_is_taken_has_numbers_that_stay_numbers(file: Path) -> None:
    """The largest that the bounds leave: one step of weights and theta is finite."""
    level = ["search.macs_budget=null", "search.log_gamma=1000000"]
    kappa = ["search.cost=complexity", "search.kappa=1000000"]
    for changes in (["search.theta_lr=1"], level, kappa, [*level, *kappa]):
        recipe = load_recipe(file, [*changes, "search.cut_interval=1000"])
        data = load_data(recipe.data, recipe.train)
        state = build_training(recipe, data, torch.device("cpu"), None, None)
        assert state.search is not None
        for x, y in data.train(0):
            loss = torch.nn.functional.cross_entropy(state.model(x), y) + state.search.penalty()
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()
            state.search.step(state.optimizer)
            assert torch.isfinite(loss)
