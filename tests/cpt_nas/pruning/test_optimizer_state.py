"""Optimizers follow a cut: their own parameters and state, and nobody else's."""

from __future__ import annotations

import pytest
import torch
from timm.optim import Lookahead, create_optimizer_v2
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Muon, Optimizer

from tests.support.loops import CLOSING, X, Y, attach, close_half, held, network, sgd, steps


class Sam(Optimizer):
    """Ascends, descends from there; shares the groups of the optimizer that it wraps."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, settings)
        self.inner = SGD(self.param_groups, **settings)
        self.param_groups = self.inner.param_groups

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["old"] = parameter.clone()
        self.inner.step()


class OwnLists(SGD):
    """A Lookahead that keeps its slow weights in an attribute."""

    def __init__(self, params, **settings) -> None:
        super().__init__(params, **settings)
        self.slow = [[p.clone().detach() for p in g["params"]] for g in self.param_groups]


def inner(optimizer: Optimizer) -> Optimizer:
    return getattr(optimizer, "inner", getattr(optimizer, "_base_optimizer", optimizer))


WRAPPERS = {
    "plain": lambda ps: SGD(ps, lr=0.01, momentum=0.9),
    "named": lambda ps: SGD(ps, lr=0.01, momentum=0.9),
    "sam": lambda ps: Sam(ps, lr=0.01, momentum=0.9),
    "lookahead": lambda ps: Lookahead(SGD(ps, lr=0.01, momentum=0.9), k=2),
}


@pytest.mark.parametrize("kind", list(WRAPPERS))
def test_state_follows_through_wrappers(kind: str) -> None:
    model = network()
    named = kind == "named"
    optimizer = WRAPPERS[kind](model.named_parameters() if named else model.parameters())
    search = attach(model, log_gamma=0.0, cut_interval=3)
    steps(2, model, search, optimizer)
    state = inner(optimizer).state
    expected = {n: dict(state[p]) for n, p in model.named_parameters()}
    close_half(search, ["layer2.1"])
    search.cut()
    names = {id(p): n for n, p in model.named_parameters()}
    assert [names[id(p)] for p in optimizer.param_groups[0]["params"]] == list(names.values())
    if named:
        assert optimizer.param_groups[0]["param_names"] == list(names.values())
    state = inner(optimizer).state
    assert {id(p) for p in state} == set(names)
    for name, parameter in model.named_parameters():
        assert state[parameter].keys() == expected[name].keys()
        momentum, before = state[parameter]["momentum_buffer"], expected[name]["momentum_buffer"]
        assert momentum.shape == parameter.shape
        kept = tuple(slice(n) for n in momentum.shape)  # the first half of the units stays
        assert torch.equal(momentum, before[kept])
    if kind == "sam":
        assert {id(p) for p in optimizer.state} <= set(names)
    steps(1, model, search, optimizer)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "muon", "adahessian", "adafactor"])
def test_what_it_keeps_has_the_parameters_shape_after_a_cut(name: str) -> None:
    model = network()
    optimizer = (
        Adafactor(model.parameters())
        if name == "adafactor"
        else create_optimizer_v2(model, opt=name, lr=0.001, weight_decay=0.0)
    )
    search = attach(model, log_gamma=0.0, cut_interval=1000)
    steps(2, model, search, optimizer)
    close_half(search)
    assert search.cut()
    steps(2, model, search, optimizer)
    for parameter in model.parameters():
        for value in optimizer.state[parameter].values():
            if isinstance(value, Tensor) and value.numel() > 1:
                assert all(a in (1, b) for a, b in zip(value.shape, parameter.shape, strict=True))


def test_several_optimizers() -> None:
    model = network()
    linear = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    optimizers = [Muon(linear, lr=0.01), AdamW(rest, lr=0.001)]
    search = attach(model, **CLOSING)
    with pytest.raises(ValueError, match=r"optimizer: 1 trainable .* fc.weight.* as a list"):
        steps(1, model, search, optimizers[1])
    assert steps(25, model, search, *optimizers)
    assert held(*optimizers) == {id(p) for p in model.parameters()}


class Two(nn.Module):
    """A backbone with a head beside it; only the backbone is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = network(), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def test_only_what_was_in_the_model_may_leave_an_optimizer() -> None:
    model = Two()
    optimizer = sgd(model)
    search = attach(model.backbone, **CLOSING)
    others = {id(p) for p in model.head.parameters()}
    momentum = None
    for _ in range(25):
        steps(1, model, search, optimizer)
        assert others <= held(optimizer)
        kept = optimizer.state[model.head.weight]["momentum_buffer"]
        assert momentum is None or kept is momentum
        momentum = kept
    before = model.head.weight.detach().clone()
    steps(1, model, search, optimizer)
    assert held(optimizer) == {id(p) for p in model.parameters()}
    assert not torch.equal(before, model.head.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: OwnLists(m.parameters(), lr=0.1), "OwnLists keeps tensors in 'slow'"),
        (
            lambda m: create_optimizer_v2(m, opt="adafactorbv", lr=0.1),
            r"AdafactorBigVision keeps 'exp_avg_sq_r' of shape \(16, 1, 3, 3\)",
        ),
        (lambda m: SGD(network().parameters(), lr=0.1), "trainable parameters of the model are"),
        (lambda m: [], "trainable parameters of the model are not in it"),
        (lambda m: None, "optimizer: None"),
        (lambda m: "sgd", "optimizer: a str; must be"),
        (lambda m: [m], "optimizer: a CifarResNet; must be"),
    ],
)
def test_what_cannot_follow_is_refused_before_anything_is_cut(make, message: str) -> None:
    model = network()
    optimizer = make(model)
    search = attach(model, **CLOSING)
    structure, theta = search.structure(), search.gated.all_gates()[0].theta.detach().clone()
    (nn.functional.cross_entropy(model(X), Y) + search.penalty()).backward()
    if isinstance(optimizer, Optimizer):
        optimizer.step()
    with pytest.raises(ValueError, match=message) as caught:
        search.step(optimizer)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert search.structure() == structure
    assert torch.equal(search.gated.all_gates()[0].theta, theta)


def test_finish_takes_what_step_was_given() -> None:
    model = network()
    optimizer = sgd(model)
    search = attach(model)
    steps(1, model, search, optimizer)
    close_half(search, ["layer2.1"])
    search.finish()
    assert held(optimizer) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("use", ["optimizer", "clipping", "assignment"])
def test_who_still_trains_a_parameter_that_was_cut_is_told(use: str) -> None:
    model = network()
    stale, parameters = sgd(model), list(model.parameters())
    search = attach(model)
    close_half(search, ["layer2.1"])
    search.finish()
    with pytest.raises(ValueError, match="was cut and is not the model's any more"):
        if use == "optimizer":
            stale.step()
        elif use == "clipping":
            nn.utils.clip_grad_norm_(parameters, 1.0)
        else:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
