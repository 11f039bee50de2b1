"""Recipes: every fault is named, nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cpt_nas.search.settings import SearchConfig
from cpt_nas.sections import ConfigError
from cpt_nas.train import recipe as packaged
from cpt_nas.train.optimizer import build_scheduler
from cpt_nas.train.recipe import Recipe, TrainConfig, load_recipe

RECIPES = sorted([*packaged.RECIPES.glob("*.yaml"), *packaged.RECIPES.glob("papers/*.yaml")])


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_load_and_survive_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_recipes_are_there() -> None:
    assert {"digits", "cifar10_resnet20"} <= {p.stem for p in RECIPES}


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {name: resnet18}")
    recipe = load_recipe(path, ["train.epochs=3", "search.log_gamma=0.5", "model.kwargs.x=[1, 2]"])
    assert recipe.train.epochs == 3
    assert recipe.search == SearchConfig(log_gamma=0.5)
    assert recipe.model.kwargs == {"x": [1, 2]}
    assert recipe.flat()["search.log_gamma"] == 0.5


def test_numbers_and_texts_survive_a_round_trip(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {name: x, kwargs: {a: 1e-3, b: '1e-3', c: 2020-01-01}}")
    recipe = load_recipe(path)
    assert recipe.model.kwargs == {"a": 1e-3, "b": "1e-3", "c": "2020-01-01"}
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("model: {name: x", [], "is not YAML"),
        ("- 1", [], "must hold a mapping"),
        ("{}", [], "model: is missing"),
        ("model: {name: x}\ntrian: {}", [], "trian: unknown key"),
        ("model: {name: x}\ntrain: {epochs: many}", [], "train.epochs.*'many'"),
        ("model: {name: x}\ntrain: {epochs: 0}", [], "train.epochs.*greater than 0.*0"),
        ("model: {name: x}\ntrain: {device: tpu}", [], "must be cpu, cuda or cuda:N"),
        ("model: {name: x}\nsearch: {freeze: 0.1}", [], "freeze .0.1. must come after"),
        ("model: {name: x}\nsearch: {alpha: 2}", [], "search.alpha"),
        ("model: {name: x}\nsearch: {estimation: 1}", [], "search.estimation.*less than 1.*1"),
        ("model: {name: x}\nsearch: {log_gamma: .nan}", [], "search.log_gamma"),
        ("model: {name: x}", ["epochs"], "--set: 'epochs' must be key=value"),
        ("model: {name: x}", ["train.epochs=[1"], "is not YAML"),
        ("model: {name: x}\ntrain: {lr: 1}\ntrain: {lr: 2}", [], "line 3: the key 'train' stands"),
        ("model: &m {name: x, kwargs: *m}", [], "line 1: an alias is not allowed"),
        ("model: {name: x}", ["model.kwargs.x=&a [*a]"], "the value line 1: an alias"),
        ("model: {name: x}", ["model.name.first=1"], "name is not a section"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(write(tmp_path, text), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sgd", "AdamW", "lookahead_sgd"])
def test_an_optimizer_goes_by_timms_names(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "model: {name: x}")
    assert load_recipe(path, [f"train.opt={name}"]).train.opt == name


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {name: x}\ntrain: {epochs: 0, lr: -1}\nsearch: {alpha: 2}")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    for name in ("train.epochs", "train.lr", "search.alpha"):
        assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "smoke/vit"])
def test_a_packaged_recipe_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Wherever it is called, and a folder of that name is not taken for the recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.removesuffix(".yaml")).mkdir(parents=True)
    file = packaged.RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    assert load_recipe(name) == load_recipe(file)


def test_a_file_in_the_folder_comes_before_a_packaged_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("model: {name: mine}")
    assert load_recipe("digits").model.name == "mine"


@pytest.mark.parametrize("name", ["digitz", "../recipes/digits", "smoke"])
def test_an_unknown_name_lists_the_packaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"no such file: {name}; those .* are ") as caught:
        load_recipe(name)
    names = packaged.recipe_names()
    assert {"digits", "cifar10_resnet20", "smoke/vit"} <= set(names)
    assert str(caught.value).endswith(", ".join(names))


def test_shares_become_steps() -> None:
    settings = SearchConfig(warmup=0.1, ramp=0.2, freeze=0.5).settings(1000, seed=7)
    assert (settings.warmup_steps, settings.ramp_steps, settings.freeze_step) == (100, 200, 500)
    assert settings.seed == 7


def test_the_demo_is_the_digits_recipe() -> None:
    from cpt_nas.cli.demo import recipe

    shipped = load_recipe(RECIPES[[p.stem for p in RECIPES].index("digits")])
    changed = {"profile": "x.yaml", "latency_budget": 0.5, "macs_budget": None}
    assert recipe(shipped.train.epochs, "x.yaml") == Recipe.model_validate(
        shipped.model_dump() | {"search": shipped.search.model_dump() | changed}
    )
    assert recipe(3, None).search is None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sched": "multistep"}, "decay_milestones"),
        ({"decay_milestones": [3]}, "decay_milestones"),
        ({"sched": "multistep", "decay_milestones": [6, 3]}, "decay_milestones"),
        ({"sched": "multistep", "decay_milestones": []}, "decay_milestones"),
        ({"sched": "multistep", "decay_milestones": [0, 3]}, "decay_milestones"),
        ({"sched": "multistep", "decay_milestones": [3, 10]}, "decay_milestones"),
        ({"decay_rate": 0.5}, "decay_rate"),
        ({"sched": "step", "decay_rate": 2}, "decay_rate"),
        ({"cycle_limit": 3}, "cycle_limit"),
        ({"sched": "step", "cycle_limit": 2}, "cycle_limit"),
        ({"cycle_decay": 0.5}, "cycle_decay"),
    ],
)
def test_what_a_schedule_does_not_read_is_refused(values: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=f"train: {field}: .*must be"):
        Recipe.from_mapping({"model": {"name": "x"}, "train": {"epochs": 10, **values}})


def rates(steps: int, **values: Any) -> list[float]:
    """The rate in each step."""
    settings = TrainConfig(lr=1.0, **values)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    scheduler = build_scheduler(optimizer, settings, steps)
    found = []
    for step in range(settings.epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(step + 1)
    return found


def test_the_rate_falls_at_the_milestones() -> None:
    found = rates(10, epochs=6, sched="multistep", decay_milestones=(2, 5), decay_rate=0.2)
    # timm's milestones are reached one update early.
    assert [found[i] for i in (0, 18, 19, 48, 49)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])


def test_warm_restarts_begin_at_the_full_rate() -> None:
    found = rates(10, epochs=6, cycle_limit=3, min_lr=0.1)
    assert found[0] == found[20] == found[40] == 1.0
    assert found[:20] == pytest.approx(found[20:40])
    assert found[10] == pytest.approx(0.55)
    assert min(found) == found[59] == found[19] < 0.11
    fallen = rates(10, epochs=6, cycle_limit=3, cycle_decay=0.5)
    assert [fallen[i] for i in (0, 20, 40)] == pytest.approx([1, 0.5, 0.25])
