"""What attach refuses: one line that names the argument, and the model as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import cpt_nas
from tests.support.loops import BUDGET, KWARGS, X, attach, close_half, network, sgd, steps


def compiled_in_place() -> nn.Module:
    model = network()
    model.compile()
    return model


def with_a_compiled_part() -> nn.Module:
    model = network()
    model.layer1 = torch.compile(model.layer1)
    return model


def searched() -> nn.Module:
    model = network()
    attach(model)
    return model


MODELS = {
    "name": (lambda: "resnet18", "model: a str; must be"),
    "tuple": (lambda: (network(),), "model: a tuple; must be"),
    "nothing": (lambda: None, "model: a NoneType"),
    "class": (lambda: nn.Linear, "model: a type"),
    "empty": (nn.Identity, "model: Identity has no parameters"),
    "parallel": (lambda: nn.DataParallel(network()), r"wrapped in DataParallel; .*\.module"),
    "compiled": (lambda: torch.compile(network()), "model: compiled; attach to the model"),
    "compiled in place": (compiled_in_place, "model: compiled"),
    "compiled part": (with_a_compiled_part, "model: layer1: compiled"),
    "twice": (searched, "it has the gates of a search already"),
    "a copy": (lambda: copy.deepcopy(searched()), "it has the gates of a search already"),
    "around": (lambda: nn.Sequential(searched()), "it has the gates of a search already"),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_no_plain_model_is_refused(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(ValueError, match=message) as caught:
        cpt_nas.attach(make(), X[:1], log_gamma=0.1)
    assert "\n" not in str(caught.value)


INPUTS = {
    "text": ("x", "example_input: a str"),
    "tuple": ((X,), "example_input: a tuple"),
    "array": (X.numpy(), "example_input: a ndarray"),
    "no batch": (X[0], r"example_input: shape \(3, 16, 16\)"),
    "no example": (X[:0], r"example_input: shape \(0, 3, 16, 16\)"),
    "channels": (X[:, :1], "channels"),
    "type": (X.double(), "Double"),
    "integers": (X.long(), "Long"),
}
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "total_steps": ({"total_steps": 1.5, "macs_budget": 0.5}, "total_steps: 1.5"),
    "total_steps in words": ({"total_steps": "9", "macs_budget": 0.5}, "total_steps: '9'"),
    "model_kwargs": ({"model_kwargs": [1]}, "model_kwargs: a list"),
    "seed": ({"seed": 2**70}, "seed"),
    "profile": ({"profile": 3}, "profile: a int"),
    "budget": (BUDGET | {"macs_budget": 0.001}, "below the lowest possible"),
    "pattern": ({"include": ("x",)}, "include: 'x' matches no branch"),
}


@pytest.mark.parametrize("name", [*INPUTS, *SETTINGS])
def test_a_model_that_is_refused_is_as_it_was(name: str) -> None:
    x, message = INPUTS.get(name, (X[:1], ""))
    settings, message = SETTINGS.get(name, ({}, message))
    model = network()
    before = copy.deepcopy(model)
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match=message) as caught:
        cpt_nas.attach(model, x, **{"model_kwargs": KWARGS} | settings)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), random)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert list(model.state_dict()) == list(before.state_dict())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.state_dict().items())
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    attach(model)


def test_names_and_order_of_parameters_stay() -> None:
    model = network()
    names = [n for n, _ in model.named_parameters()]
    search = attach(model)
    assert [n for n, _ in model.named_parameters()] == names
    steps(2, model, search, sgd(model))
    assert list(model.state_dict()) == list(network().state_dict())


def test_wrapping_in_ddp_anew_after_a_cut_cannot_be_forgotten(tmp_path: Path) -> None:
    """torch's own words would be of a reduction in the prior iteration."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model = network()
        search = attach(model)
        wrapped, optimizer = nn.parallel.DistributedDataParallel(model), sgd(model)
        steps(1, wrapped, search, optimizer)
        close_half(search)
        assert search.cut()
        with pytest.raises(ValueError, match=r"^model: it was cut after it was wrapped in Distrib"):
            steps(1, wrapped, search, optimizer)
        steps(2, nn.parallel.DistributedDataParallel(model), search, optimizer)
    finally:
        dist.destroy_process_group()
