"""What a step's backward passes tell the gates: in the loss's scale, finite, and of every gate."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.amp import GradScaler
from torch.utils.checkpoint import checkpoint

import cpt_nas
from tests.support.loops import BUDGET, FIXED, X, Y, attach, loss, network, sgd, steps

MODES = pytest.mark.parametrize("mode", [FIXED, BUDGET], ids=["fixed", "budget"])


class Run:
    """A search in a loop with or without a GradScaler, some of whose steps overflow."""

    def __init__(
        self,
        mode: dict[str, Any],
        scaler: GradScaler | None,
        number: int = 30,
        losses: tuple[int, ...] = (),
        gradients: tuple[int, ...] = (),
    ) -> None:
        model = network()
        self.search = search = attach(model, **mode)
        optimizer = sgd(model)
        scaler = scaler or GradScaler("cpu", enabled=False)
        self.taken = 0
        optimizer.register_step_post_hook(lambda *_: setattr(self, "taken", self.taken + 1))
        self.log_gammas = []
        for step in range(number):
            optimizer.zero_grad()
            value = loss(model, search) * (float("inf") if step in losses else 1.0)
            scaler.scale(value).backward()
            if step in gradients:
                next(model.parameters()).grad[0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            before = search.steps
            search.step(optimizer)
            assert search.frozen or (search.steps == before) == (step in (*losses, *gradients))
            self.log_gammas.append(search.log_gamma)
            for gate in search.gated.all_gates():
                assert gate.theta.isfinite().all() and gate.memory.isfinite().all()
        self.weights = model.state_dict()
        self.gates = {k: v.clone() for k, v in search.gates.state_dict().items()}


@MODES
@settings(max_examples=2, deadline=None)
@given(power=st.integers(1, 24), interval=st.integers(1, 9))
def test_a_scaled_loss_gives_the_same_search(mode: dict, power: int, interval: int) -> None:
    """Powers of two are exact: every theta, importance, level and weight is the same."""
    short = mode | {"total_steps": 20} if mode is BUDGET else mode
    plain = Run(short, None, 20)
    scaled = Run(short, GradScaler("cpu", init_scale=2.0**power, growth_interval=interval), 20)
    assert plain.log_gammas == scaled.log_gammas
    assert plain.search.structure() == scaled.search.structure()
    for kept in ("weights", "gates"):
        a, b = getattr(plain, kept), getattr(scaled, kept)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@MODES
@pytest.mark.parametrize("where", ["losses", "gradients"])
def test_skipped_steps_are_no_steps(mode: dict, where: str) -> None:
    run = Run(mode, GradScaler("cpu", init_scale=1024.0), 20, **{where: (0, 1, 7)})
    assert run.taken == 17
    assert run.search.structure().branches_left > 0


def test_gradients_that_are_gone_do_not_tell_whether_the_scaler_skipped() -> None:
    model = network()
    search, optimizer = attach(model), sgd(model)
    (loss(model, search) * 1024).backward()
    optimizer.zero_grad()
    with pytest.raises(ValueError, match=r"call search.step\(\) before optimizer.zero_grad"):
        search.step(optimizer)


def test_a_loss_that_has_diverged_is_said() -> None:
    model = network()
    search = attach(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e9)
    with pytest.raises(ValueError, match=r"model: .* is not finite any more: .* lower the"):
        steps(20, model, search, optimizer)
    assert all(g.theta.isfinite().all() for g in search.gated.all_gates())


def accumulated(passes: int) -> cpt_nas.Search:
    """Without batch statistics, so that mini-batches are independent."""
    model = network().double().eval()
    search = cpt_nas.attach(model, X[:1].double(), log_gamma=0.05, theta_init=0.7)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        for x, y in zip(X.double().chunk(passes), Y.chunk(passes)):
            part = nn.functional.cross_entropy(model(x), y) + search.penalty()
            (part / passes).backward()
        optimizer.step()
        search.step(optimizer)
    return search


@pytest.mark.parametrize("passes", [2, 8])
def test_accumulated_mini_batches_are_one_large_batch(passes: int) -> None:
    for a, b in zip(accumulated(1).gated.all_gates(), accumulated(passes).gated.all_gates()):
        assert torch.allclose(a.theta, b.theta, rtol=1e-5, atol=1e-6)
        for mine, other in zip(a.importance(), b.importance()):
            assert torch.allclose(mine, other, rtol=1e-4, atol=1e-7)  # memory is in float32


@pytest.mark.parametrize("way", ["blocks", "whole", "reentrant"])
@pytest.mark.parametrize("views", [1, 2])
def test_checkpointing_computes_the_same_again(way: str, views: int) -> None:
    """Also where several forward passes wait for one backward pass."""
    found = []
    for again in (False, True):
        model = network().double()
        search = cpt_nas.attach(model, X[:1].double(), log_gamma=0.01, theta_init=0.6)
        run: Any = model
        if again and way == "blocks":
            model.set_grad_checkpointing(True)
        elif again:
            run = lambda x, m=model: checkpoint(m, x, use_reentrant=way == "reentrant")  # noqa: E731
        images = [x.requires_grad_() for x in (X.double(), X.flip(0).double())]
        sum(nn.functional.cross_entropy(run(x), Y) for x in images[:views]).backward()
        gates = [g.slopes() for g in search.gated.all_gates()]
        found.append([*(p.grad for p in model.parameters()), *gates])
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def by_autograd_grad(model: nn.Module, search: cpt_nas.Search) -> None:
    parameters = list(model.parameters())
    for p, g in zip(parameters, torch.autograd.grad(loss(model, search), parameters)):
        p.grad = g


def swapped(model: nn.Module, search: cpt_nas.Search) -> None:
    model.layer1[0].bn2 = nn.BatchNorm2d(8)
    loss(model, search).backward()


LEFT_OUT = {
    "no forward pass": (lambda m, s: None, "has not run in training mode"),
    "eval mode": (lambda m, s: loss(m.eval(), s).backward(), "has not run in training mode"),
    "parts": (
        lambda m, s: loss(lambda x: m.forward_head(m.forward_features(x)), s).backward(),
        "forward_features",
    ),
    "a copy": (lambda m, s: loss(copy.deepcopy(m), s).backward(), "a copy has no part"),
    "autograd.grad": (by_autograd_grad, "no gradient has reached the gates"),
    "no penalty": (
        lambda m, s: nn.functional.cross_entropy(m(X), Y).backward(),
        "the penalty has no part in the loss",
    ),
    "a layer swapped": (swapped, r"no longer reads the gate 'layer1/0' \(1 of 8\)"),
}


@pytest.mark.parametrize("name", list(LEFT_OUT))
def test_a_loop_that_leaves_the_gates_out_is_told(name: str) -> None:
    backward, message = LEFT_OUT[name]
    model = network()
    search = attach(model)
    backward(model, search)
    with pytest.raises(ValueError, match=message) as caught:
        search.step(sgd(model))
    assert "\n" not in str(caught.value) and search.steps == 0


def test_frozen_batch_statistics_do_not_silence_the_branch_gates() -> None:
    """They sit in the affine of norms, which are in eval mode then."""
    model = network()
    search = attach(model, theta_init=0.7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    steps(8, model, search, sgd(model))
    for gate in search.gated.all_gates():
        assert float(gate.memory[:2].sum()) > 0 and float(gate.memory[4:].sum()) > 0


def test_a_training_without_a_step_of_the_search_is_not_finished() -> None:
    model = network()
    search, optimizer = attach(model, **BUDGET), sgd(model)
    loss(model, search).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"without a step of the search; call search.step"):
        search.finish()
