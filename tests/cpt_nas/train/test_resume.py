"""What a run goes on with: its own recipe, profile and checkpoint, or not at all."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import yaml

import hwprofiles
from cpt_nas.train import checkpoint_file
from cpt_nas.train.checkpoint import settle_best
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.run_folder import load_run, read_recipe
from cpt_nas.train.train import train
from tests.support.profiles import synthetic_profile
from tests.support.trainings import QUIET, Stop, everything, interrupted_after, recipe

SHORT = recipe(data={"train_limit": 64}, train={"epochs": 3, "checkpoint_hist": 2})
LAST = "last.pth.tar"


def stopped_after(epochs: int, what: Recipe, folder: Path) -> None:
    """A run that ends right after so many epochs."""
    with pytest.MonkeyPatch.context() as patch:
        interrupted_after(epochs, patch)
        with pytest.raises(Stop):
            train(what, folder, console=QUIET)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, stopped after two; to be copied."""
    folder = tmp_path_factory.mktemp("halfway") / "run"
    stopped_after(2, SHORT, folder)
    return folder


@pytest.fixture
def run(halfway: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(halfway, tmp_path / "run"))


def refused(folder: Path, what: Recipe = SHORT) -> str:
    """The one line with which going on is refused; the folder is as it was."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(ValueError) as caught:
        train(what, folder, resume=True, console=QUIET)
    message = str(caught.value)
    assert message.startswith("resume: ") and "\n" not in message
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    return message


# ---- the file --------------------------------------------------------------------------------


def test_a_flipped_bit_is_damage_or_changes_nothing(halfway: Path, tmp_path: Path) -> None:
    """At 60 seeded places; some lie in padding, or in dates that nothing reads."""
    whole = (halfway / LAST).read_bytes()
    right = everything(halfway)[LAST]
    rng, folder = random.Random(0), tmp_path / "run"
    folder.mkdir()
    damaged = 0
    for _ in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (folder / LAST).write_bytes(content)
        try:
            checkpoint_file.read(folder / LAST)
        except ValueError as error:
            assert str(error).startswith("resume: ") and "\n" not in str(error)
            damaged += 1
        else:
            assert everything(folder)[LAST] == right
    assert damaged > 30


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_flipped_bit_in_a_weight_is_refused(run: Path, place: float) -> None:
    """The tensors lie in the middle of the file; torch alone would load it."""
    content = bytearray((run / LAST).read_bytes())
    start = content.index(b"data/0") + 200
    content[int(start + place * (len(content) - start) / 2)] ^= 16
    (run / LAST).write_bytes(content)
    assert "is damaged" in refused(run)


@pytest.mark.parametrize("key", list(checkpoint_file.KEYS))
def test_a_missing_or_wrong_key_is_named(run: Path, key: str) -> None:
    saved = torch.load(run / LAST, weights_only=True)
    torch.save({k: v for k, v in saved.items() if k != key}, run / LAST)
    assert key in refused(run)
    torch.save(saved | {key: {1, 2}}, run / LAST)
    assert key in refused(run)


def inner(saved: dict, *path: Any) -> Any:
    for part in path:
        saved = saved[part]
    return saved


WRONG: dict[str, tuple[str, Callable[[dict], object]]] = {
    "a tensor less": ("state_dict", lambda s: inner(s, "state_dict").popitem()),
    "another shape": ("state_dict", lambda s: s["state_dict"].update({"fc.bias": torch.ones(3)})),
    "no tensor": ("state_dict", lambda s: s["state_dict"].update({"fc.bias": "x"})),
    "a group less": ("optimizer", lambda s: s["optimizer"]["groups"].pop()),
    "a parameter less": ("optimizer", lambda s: s["optimizer"]["groups"][0]["names"].pop()),
    "an unknown parameter": (
        "optimizer",
        lambda s: s["optimizer"]["groups"][0]["names"].append("x"),
    ),
    "another optimizer": ("optimizer", lambda s: s["optimizer"]["wrapped"].append({})),
    "no groups": ("optimizer", lambda s: s["optimizer"].clear()),
    "a search without gates": ("search", lambda s: s["search"].pop("gates")),
    "a search without a rule": ("search", lambda s: s["search"].update(rule=None)),
    "a gate less": ("search", lambda s: s["search"]["gates"].popitem()),
    "no search": ("search", lambda s: s.update(search=None)),
    "rows less": ("history", lambda s: s["history"].pop()),
    "rows of another table": ("history", lambda s: s["history"][0].pop("lr")),
    "epochs": ("history", lambda s: s.update(epoch=1)),
    "steps": ("history", lambda s: s.update(step=1)),
    "random numbers": ("rng", lambda s: s.update(rng=torch.ones(3))),
    "a recipe with unknown keys": ("recipe", lambda s: s["recipe"].update(x=1)),
    "another version": ("checkpoint_version", lambda s: s.update(checkpoint_version=99)),
    "another architecture": ("arch", lambda s: s.update(arch="resnet18")),
    "another recipe": ("train.lr", lambda s: s["recipe"]["train"].update(lr=3.0)),
    "other images": ("data", lambda s: s["data"].update(images=7)),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_checkpoint_that_does_not_fit_is_refused(run: Path, name: str) -> None:
    key, change = WRONG[name]
    saved = torch.load(run / LAST, weights_only=True)
    change(saved)
    checkpoint_file.write(saved, run / LAST)
    with pytest.raises(ValueError, match=key) as caught:
        train(SHORT, run, resume=True, console=QUIET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["state_dict"]["fc.bias"].mul_(1 + 1e-6),
        lambda s: s.update(best=s["best"] + 1e-12),
        lambda s: inner(s, "history", 0).update(lr=math.nan),
        lambda s: inner(s, "search", "gates").popitem(),
        lambda s: inner(s, "optimizer", "state").clear(),
        lambda s: inner(s, "structure", "model_kwargs").update(num_classes=11),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(run: Path, change: Callable) -> None:
    """By its values, however plausible they are."""
    saved = torch.load(run / LAST, weights_only=True)
    torch.save(saved, run / LAST)
    assert checkpoint_file.read(run / LAST)["epoch"] == 2  # saved anew, and the same
    change(saved)
    torch.save(saved, run / LAST)
    assert "was changed after it was written" in refused(run)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", [1, 2], {"state_dict": {}}])
def test_what_is_no_checkpoint_is_refused(run: Path, content: Any) -> None:
    if isinstance(content, bytes):
        (run / LAST).write_bytes(content)
    else:
        torch.save(content, run / LAST)
    assert LAST in refused(run)


def test_a_checkpoint_that_was_removed_is_missed(run: Path) -> None:
    """The run is not begun anew over what it has written."""
    (run / LAST).unlink()
    assert "has no last.pth.tar" in refused(run)


def test_going_back_to_an_older_checkpoint(run: Path) -> None:
    """By hand; all that follows from the last checkpoint follows from that one."""
    train(SHORT, run, resume=True, console=QUIET)
    whole = everything(run)
    (run / "checkpoint-2.pth.tar").replace(run / LAST)
    train(SHORT, run, resume=True, console=QUIET)
    assert everything(run) == whole


@pytest.mark.parametrize("kept", [True, False], ids=["found", "gone"])
@pytest.mark.parametrize("best", [None, b"damaged", 2], ids=["missing", "damaged", "another"])
def test_the_best_checkpoint_is_the_best_epochs_or_not_there(
    run: Path, best: bytes | int | None, kept: bool
) -> None:
    """The first of two epochs was the best; its own checkpoint may still be there."""
    path, first = run / "model_best.pth.tar", run / "checkpoint-1.pth.tar"
    right = first.read_bytes()
    path.unlink()
    if isinstance(best, bytes):
        path.write_bytes(best)
    elif best is not None:
        shutil.copy(run / f"checkpoint-{best}.pth.tar", path)
    if not kept:
        first.unlink()
    state: Any = SimpleNamespace(best_epoch=1, epoch=2)
    assert settle_best(state, run) is kept
    assert (path.read_bytes() if path.exists() else None) == (right if kept else None)


# ---- the recipe ------------------------------------------------------------------------------

EDITS = {
    "train.lr": 0.01,
    "train.epochs": 5,
    "train.seed": 3,
    "train.batch_size": 16,
    "search.freeze": 0.9,
    "search.log_gamma": 0.1,
    "search.macs_budget": 0.5,
    "model.kwargs.channels": [8, 8, 8],
    "data.train_limit": 96,
}


@pytest.mark.parametrize("key", list(EDITS))
def test_a_recipe_that_was_edited_is_refused_by_its_key(run: Path, key: str) -> None:
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    *sections, last = key.split(".")
    section = inner(values, *sections)
    was, section[last] = section[last], EDITS[key]
    if key == "search.macs_budget":
        section["log_gamma"] = None
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    message = refused(run, read_recipe(run))
    assert f"{key} is {EDITS[key]}, was {was}" in message


def test_a_search_that_was_taken_out_is_refused(run: Path) -> None:
    values = SHORT.model_dump()
    assert "search" in refused(run, Recipe.from_mapping(values | {"search": None}))


def test_where_it_runs_may_change_and_is_written_down(run: Path) -> None:
    values = SHORT.model_dump()
    values["train"]["threads"] = None
    values["data"]["workers"] = 0
    result = train(Recipe.from_mapping(values), run, resume=True, console=QUIET)
    assert result["changes"] == [
        {"epoch": 2, "key": "data.workers", "was": 4, "now": 0},
        {"epoch": 2, "key": "train.threads", "was": 1, "now": None},
    ]
    assert read_recipe(run) == Recipe.from_mapping(values)
    assert load_run(run).result["changes"] == result["changes"]


# ---- the profile and the structure -----------------------------------------------------------


def profiled(folder: Path, name: str) -> tuple[Recipe, Path]:
    kwargs = SHORT.model.kwargs
    model = timm.create_model("cpt_resnet20", **kwargs, num_classes=10, in_chans=1)
    path = folder / "profile.yaml"
    hwprofiles.save(synthetic_profile(model, name, (1, 8, 8)), path)
    search = {"profile": str(path), "latency_budget": 0.6, "log_gamma": None, "theta_lr": None}
    return recipe(data={"train_limit": 64}, train={"epochs": 2}, search=search), path


@pytest.mark.parametrize(("epochs", "fate"), [(0, "moved"), (1, "measured anew")])
def test_a_run_goes_on_with_its_own_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, fate: str
) -> None:
    what, path = profiled(tmp_path, "made_up")
    train(what, tmp_path / "whole", console=QUIET)
    if epochs:
        stopped_after(epochs, what, tmp_path / "run")
    else:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint_file, "write", _stop)
            train(what, tmp_path / "run", console=QUIET)
        assert not (tmp_path / "run" / LAST).exists()
    if fate == "moved":
        path.unlink()
    else:
        content = path.read_text().replace("const_s: ", "const_s: 1")
        path.write_text(content)
    train(what, tmp_path / "run", resume=True, console=QUIET)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_profile_that_was_changed_in_the_run_is_refused(tmp_path: Path) -> None:
    what, _ = profiled(tmp_path, "made_up")
    stopped_after(1, what, tmp_path / "run")
    other = hwprofiles.load(tmp_path / "run" / "profile.yaml").model_copy(update={"name": "other"})
    hwprofiles.save(other, tmp_path / "run" / "profile.yaml")
    assert "is not the profile" in refused(tmp_path / "run", what)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_retraining_goes_on_with_its_own_structure(tmp_path: Path, epochs: int) -> None:
    train(SHORT, tmp_path / "found", console=QUIET)
    values = recipe(data={"train_limit": 64}, train={"epochs": 2}, search=None).model_dump()
    values["model"]["structure"] = str(tmp_path / "found" / "structure.json")
    again = Recipe.from_mapping(values)
    train(again, tmp_path / "whole", console=QUIET)
    if epochs:
        stopped_after(epochs, again, tmp_path / "run")
    else:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint_file, "write", _stop)
            train(again, tmp_path / "run", console=QUIET)
    shutil.rmtree(tmp_path / "found")
    train(again, tmp_path / "run", resume=True, console=QUIET)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
