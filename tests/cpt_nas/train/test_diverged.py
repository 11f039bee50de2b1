"""A training that diverges stops with what to try; what was good stays, and JSON is strict."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cpt_nas.train import train as training
from cpt_nas.train.divergence import DivergedError, LossWatch, guessing, no_better
from cpt_nas.train.evaluate import evaluate
from cpt_nas.train.run_folder import load_run
from cpt_nas.train.run_rows import as_json
from cpt_nas.train.train import train
from tests.support.trainings import QUIET, everything, recipe

SETTINGS = {"data": {"train_limit": 64}}


@pytest.mark.parametrize("search", [{}, None], ids=["search", "dense"])
@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_a_rate_that_is_far_too_high_stops_the_training(
    tmp_path: Path, search: dict | None, opt: str
) -> None:
    high = {"lr": 1e6, "epochs": 20, "opt": opt, "warmup_epochs": 0}
    with pytest.raises(DivergedError) as caught:
        train(recipe(**SETTINGS, train=high, search=search), tmp_path / "run", console=QUIET)
    message = str(caught.value)
    for part in ("at step ", "in epoch ", "learning rate ", "try a lower train.lr", "last.pth.tar"):
        assert part in message
    assert "\n" not in message and len(message.replace(str(tmp_path), "")) < 250
    assert not (tmp_path / "run" / "export").exists()
    assert not load_run(tmp_path / "run").finished
    saved = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=True)
    assert all(t.isfinite().all() for t in saved["state_dict"].values())


def test_weights_that_the_search_finds_lost_are_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that loses them is taken on a finite loss, and the search looks at them first."""
    from cpt_nas.search.backward import LostWeightsError
    from cpt_nas.search.search import Search

    def lost(*_: object) -> bool:
        raise LostWeightsError

    monkeypatch.setattr(Search, "step", lost)
    with pytest.raises(DivergedError, match="a weight is not finite at step 1, in epoch 1, learn"):
        train(recipe(**SETTINGS), tmp_path / "run", console=QUIET)


class Broken:
    """Gives a loss of NaN from the n-th call on."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.plain = torch.nn.functional.cross_entropy

    def __call__(self, *arguments: object, **settings: object) -> torch.Tensor:
        self.left -= 1
        loss = self.plain(*arguments, **settings)
        return loss if self.left > 0 else loss * math.nan


def test_the_last_good_checkpoint_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps an epoch: the fifth is the first of the third epoch."""
    two = recipe(**SETTINGS, train={"epochs": 4}, search=None)
    states = []
    save = training.checkpoint.save_checkpoint

    def saving(*arguments: object) -> None:
        save(*arguments)
        states.append({k: v for k, v in everything(tmp_path / "run").items() if k != ".lock"})

    monkeypatch.setattr(training.checkpoint, "save_checkpoint", saving)
    broken = Broken(5)
    monkeypatch.setattr(training.nn, "CrossEntropyLoss", lambda **_: lambda x, y: broken(x, y))
    with pytest.raises(DivergedError, match="the loss is nan at step 5, in epoch 3") as caught:
        train(two, tmp_path / "run", console=QUIET)
    assert "of epoch 2" in str(caught.value)
    assert everything(tmp_path / "run") == states[1]


def test_a_network_that_is_broken_in_the_end_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite losses while it trains, and an infinite one on the test images."""
    from cpt_nas.train import results

    monkeypatch.setattr(results, "evaluate", lambda *a: (math.inf, evaluate(*a)[1]))
    with pytest.raises(DivergedError, match="the loss on the test images is inf"):
        train(recipe(**SETTINGS, train={"epochs": 1}), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "export").exists()
    assert not load_run(tmp_path / "run").finished


@pytest.mark.parametrize("search", [{}, None], ids=["search", "dense"])
def test_a_divergence_with_finite_numbers_is_not_exported(
    tmp_path: Path, search: dict | None
) -> None:
    """AdamW's steps are bounded: at a rate of 3000 the loss is ten thousand, and no number lost."""
    high = {"lr": 3e3, "opt": "adamw", "warmup_epochs": 0, "epochs": 2}
    with pytest.raises(DivergedError, match=r"of guessing 2.3, .* diverged, nothing is exported"):
        train(recipe(**SETTINGS, train=high, search=search), tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "export").exists()
    assert not load_run(tmp_path / "run").finished
    torch.load(tmp_path / "run" / "last.pth.tar", weights_only=True)


def test_a_network_that_has_learnt_nothing_is_told(tmp_path: Path) -> None:
    """It may be what was wanted, of one step say; it is exported with a warning."""
    console = Console(file=io.StringIO(), width=80)
    still = recipe(**SETTINGS, train={"epochs": 1, "lr": 1e-9, "warmup_epochs": 0}, search=None)
    result = train(still, tmp_path / "run", console=console)
    assert "warning: accuracy" in console.file.getvalue()
    (doubt,) = result["doubts"]
    assert "on the 360 test images is no better than guessing (" in doubt
    assert load_run(tmp_path / "run").doubts == [doubt]
    assert (tmp_path / "run" / "export").is_dir()


def test_guessing_knows_how_frequent_the_classes_are() -> None:
    """A network that always says the most frequent of two classes has learnt nothing, either."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    loss, accuracy = guessing(labels)
    assert loss == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert accuracy == pytest.approx(90)
    assert no_better(90, 1000, accuracy) and not no_better(94, 1000, accuracy)


def test_an_accelerators_losses_are_read_now_and_then_and_the_first_is_named(
    tmp_path: Path,
) -> None:
    """A device that is not the CPU is only looked at every tenth step, and at an epoch's end."""

    class State:
        step, epoch, history = 0, 0, ()

        class optimizer:
            param_groups = ({"lr": 0.5},)

    watch, state = LossWatch(tmp_path, torch.device("meta")), State()
    for step in range(9):
        state.step = step
        state.optimizer.param_groups = ({"lr": 0.5 + step},)
        watch.see(torch.tensor(math.inf if step > 2 else 1.0), state)
    with pytest.raises(DivergedError, match=r"loss is inf at step 4, in epoch 1, .* rate 3.5"):
        watch.check(state)
    watch.check(state)  # each is looked at once


def test_results_are_strict_json(tmp_path: Path) -> None:
    assert as_json({"a": [math.nan, 1.0], "b": {"c": -math.inf}}) == {
        "a": [None, 1.0],
        "b": {"c": None},
    }
    train(recipe(**SETTINGS, train={"epochs": 1}), tmp_path / "run", console=QUIET)
    path = tmp_path / "run" / "result.json"

    def refuse(name: str) -> None:
        raise AssertionError(name)

    result = json.loads(path.read_text(), parse_constant=refuse)
    result["test_loss"] = math.inf
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"result.json is not JSON: holds Infinity"):
        load_run(tmp_path / "run")
