"""A loop of one's own that is stopped and goes on, as the guide has it."""

from __future__ import annotations

import copy
import functools
import io
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import cpt_nas
from tests.support.families import FAMILIES
from tests.support.loops import BUDGET, KWARGS, X, Y, attach, network, sgd, steps


class Training:
    """Ten steps and more, every one on its own mini-batch."""

    def __init__(self, family: str, opt: str, settings: dict[str, Any]) -> None:
        if family == "cpt":
            name, kwargs, size = "cpt_resnet20", KWARGS, 16
        else:
            name, kwargs, size = FAMILIES[family]
        torch.manual_seed(0)
        kwargs = {"num_classes": 5, "drop_path_rate": 0.0, **kwargs}
        if family in ("cpt", "resnet"):
            del kwargs["drop_path_rate"]
        self.model = timm.create_model(name, **kwargs)
        self.optimizer = create_optimizer_v2(self.model, opt=opt, lr=0.002, momentum=0.9)
        self.x = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1))
        self.search = cpt_nas.attach(self.model, self.x[:1], model_kwargs=kwargs, **settings)
        self.ema = ModelEmaV3(self.model, decay=0.5)
        self.step = 0

    def go(self, until: int) -> None:
        for step in range(self.step, until):
            torch.manual_seed(step)
            chosen = torch.randint(8, (4,))
            out = self.model(self.x[chosen])
            loss = torch.nn.functional.cross_entropy(out, chosen % 5) + self.search.penalty()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.search.step(self.optimizer, self.ema)
            self.ema.update(self.model)
        self.step = until

    def save(self) -> bytes:
        file = io.BytesIO()
        parts = {
            "search": self.search.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict(),
            "step": self.step,
        }
        torch.save(parts, file)
        return file.getvalue()

    def load(self, content: bytes) -> None:
        saved = torch.load(io.BytesIO(content), weights_only=True)
        self.search.load_state_dict(saved["search"], self.optimizer, self.ema)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.ema.module.load_state_dict(saved["ema"])
        self.step = saved["step"]


FAST = {"log_gamma": 3.0, "theta_lr": 0.15, "cut_interval": 3, "freeze_step": 12}
TIMES = {"total_steps": 14, "ramp": 0.5, "freeze": 0.85, "cut_interval": 3}


@pytest.mark.parametrize(
    ("family", "opt", "settings"),
    [
        ("resnet", "momentum", FAST),
        ("vit_layerscale_qknorm", "adamw", FAST),
        ("convnext", "adamw", TIMES | {"macs_budget": 0.6}),
        ("efficientnet", "momentum", TIMES | {"params_budget": 0.7}),
        ("cpt", "lookahead_momentum", FAST),
    ],
)
def test_a_loop_that_was_stopped_ends_as_one_that_was_not(
    family: str, opt: str, settings: dict[str, Any]
) -> None:
    whole = Training(family, opt, settings)
    saved = []
    for at in (8, 13):  # between cuts, and after the freeze
        whole.go(at)
        saved.append(whole.save())
    whole.go(16)
    assert whole.search.frozen and whole.search.removed
    for content in saved:
        resumed = Training(family, opt, settings)
        resumed.load(content)
        resumed.go(16)
        assert resumed.search.structure() == whole.search.structure()
        for mine, other in ((resumed.model, whole.model), (resumed.ema.module, whole.ema.module)):
            state = other.state_dict()
            assert list(mine.state_dict()) == list(state)
            assert all(torch.equal(v, state[k]) for k, v in mine.state_dict().items())


@functools.cache
def searched() -> cpt_nas.Search:
    model = network()
    search = attach(model, **BUDGET)
    steps(20, model, search, sgd(model))
    assert not search.frozen and search.structure() != search.dense
    return search


def state() -> dict[str, Any]:
    return copy.deepcopy(searched().state_dict())


def without(saved: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = saved
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return saved


UNITS = "layer3/0/act1.theta"
WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (lambda s: None, "it is no state of a search"),
    "a key less": (lambda s: without(s, "generator"), "'generator' is missing"),
    "another model": (
        lambda s: without(s, "structure", "branches", "layer1.0"),
        "structure is of another model",
    ),
    "a gate less": (lambda s: without(s, "gates", UNITS), "gates: layer3/0/act1 must hold"),
    "units less": (
        lambda s: s | {"gates": s["gates"] | {UNITS: torch.ones(1)}},
        "gates: layer3/0/act1 must hold",
    ),
    "other budgets": (
        lambda s: s | {"rule": s["rule"] | {"log_gammas": {"params": 1.0}}},
        "other budgets",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_state_that_does_not_fit_changes_nothing(name: str) -> None:
    change, message = WRONG[name]
    wrong = change(state())
    model = network()
    search = attach(model, **BUDGET)
    shapes = [p.shape for p in model.parameters()]
    with pytest.raises(ValueError, match=message) as caught:
        search.load_state_dict(wrong, sgd(model))
    assert "\n" not in str(caught.value)
    assert [p.shape for p in model.parameters()] == shapes and search.steps == 0
    search.load_state_dict(state(), sgd(model))


def test_only_a_fresh_search_takes_a_state() -> None:
    model = network()
    search = attach(model, **BUDGET)
    steps(1, model, search, sgd(model))
    with pytest.raises(ValueError, match="the search has begun; load into a freshly attached one"):
        search.load_state_dict(state())


def test_an_optimizer_that_was_not_told_is_refused_at_the_next_step() -> None:
    model = network()
    search, optimizer = attach(model, **BUDGET), sgd(model)
    search.load_state_dict(state())
    torch.nn.functional.cross_entropy(model(X), Y).backward()
    with pytest.raises(ValueError, match="trainable parameters of the model are not in it"):
        search.step(optimizer)
