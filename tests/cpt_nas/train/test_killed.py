"""Wherever a run is killed, it resumes, and ends as the one that was not killed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cpt_nas.train.recipe import Recipe
from cpt_nas.train.train import train
from tests.support.trainings import QUIET, everything, killed_at, recipe

SHORT = recipe(
    data={"train_limit": 64},
    train={"epochs": 2, "model_ema": True, "model_ema_decay": 0.9},
    search={"macs_budget": 0.6, "log_gamma": None, "theta_lr": None},
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(SHORT, folder, console=QUIET)
    return everything(folder)


def resumed(folder: Path, what: Recipe = SHORT) -> dict:
    """As the command line does: without a recipe nothing has begun, and the same folder will do."""
    train(what, folder, resume=(folder / "recipe.yaml").exists(), console=QUIET)
    return everything(folder)


@pytest.mark.parametrize("n", [1, 6, 8, 16])
def test_a_killed_run_ends_as_the_whole_one(tmp_path: Path, whole: dict, n: int) -> None:
    assert killed_at(n, SHORT, tmp_path / "run") == 9
    assert resumed(tmp_path / "run") == whole


def test_another_run_is_another(tmp_path: Path, whole: dict) -> None:
    """What the other tests compare tells runs apart."""
    other = recipe(**(SHORT.model_dump() | {"train": SHORT.train.model_dump() | {"seed": 1}}))
    assert resumed(tmp_path / "run", other) != whole


@pytest.mark.slow
def test_a_run_killed_anywhere_and_killed_again_ends_as_the_whole_one(
    tmp_path: Path, whole: dict
) -> None:
    """At every os.replace; then, going on, at another one."""
    n = 1
    while killed_at(n, SHORT, tmp_path / f"{n}") == 9:
        again = tmp_path / f"{n}-again"
        shutil.copytree(tmp_path / f"{n}", again)
        assert resumed(tmp_path / f"{n}") == whole, n
        resume = (again / "recipe.yaml").exists()
        killed_at(1 + 7 * n % 20, SHORT, again, resume=resume)
        assert resumed(again) == whole, n
        n += 1
    assert n > 25
