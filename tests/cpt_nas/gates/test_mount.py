"""Gates in a module: folding against multiplying; the module is as it was between two calls."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from cpt_nas.adapters import Branch, Slice, UnitGroup
from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.gates.mount import Live, Mounting, is_gated, strip
from cpt_nas.pruning.search_space import PrunableBranch

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).double()


def put(gate: BernoulliGate, model: nn.Module, fold: bool = True) -> None:
    """Three units of two channels each, read by the last convolution."""
    reads = Slice("2.weight", 1, 2)
    group = UnitGroup("1", "filters", 3, (reads,), (), (reads,), {}, {})
    branch = Branch("", (group,), (), "2", (), None)
    mounting = Mounting(model, lambda g: Live(g, model))
    mounting.units(PrunableBranch("", branch, ""), "1", gate, fold)


def sampled() -> BernoulliGate:
    gate = BernoulliGate(3, theta=0.6, estimator="straight_through").double()
    gate.sample(torch.tensor([0.1, 0.9, 0.2]))
    return gate


def test_folding_gives_the_output_and_every_gradient_of_multiplying() -> None:
    results = []
    for fold in (True, False):
        model, gate = network(), sampled()
        put(gate, model, fold)
        out = model(X)
        out.square().sum().backward()
        results.append((out, gate.slopes(), model[0].weight.grad, model[2].weight.grad))
    for folded, multiplied in zip(*results, strict=True):
        # float64: sums in another order, nothing else
        assert torch.allclose(folded, multiplied, rtol=1e-12, atol=1e-12)
    # a closed unit gets a gradient too: it can reopen
    assert results[0][1][1, 1] != 0


def test_between_two_calls_the_model_is_plain() -> None:
    model, plain = network(), network()
    put(sampled(), model)
    for broken in (False, True):
        if broken:
            with pytest.raises(RuntimeError):
                model(X[:, :1])
        else:
            model(X)
        assert type(model[2]) is nn.Conv2d and model[2].weight is model[2]._parameters["weight"]
        assert list(model.state_dict()) == list(plain.state_dict())
        names = [n for n, _ in plain.named_parameters()]
        assert [n for n, _ in model.named_parameters()] == names


def test_what_counts_is_the_mode_of_the_whole_model() -> None:
    """Parts may be in eval mode while the model trains: frozen batch norms."""
    model, gate = network(), sampled()
    put(gate, model)
    training = model(X)
    model[2].eval()
    assert torch.equal(model(X), training)
    model.eval()
    assert not torch.equal(model(X), training)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_copy_keeps_what_the_gates_said(way: str, fold: bool) -> None:
    model, gate = network().eval(), sampled()
    gate.theta.data[1] = 0.0
    put(gate, model, fold)
    expected = model(X)
    clone = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    gate.theta.data[:] = torch.tensor([0.0, 1.0, 0.0])
    assert torch.equal(clone(X), expected) and torch.equal(clone.train()(X), expected)
    assert not torch.equal(model(X), expected)
    assert is_gated(clone)
    strip(clone)
    assert not is_gated(clone) and torch.equal(clone(X), network()(X))


def test_what_is_no_parameter_is_refused_by_name() -> None:
    model = network()
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.raises(ValueError, match=r"model: 2\.weight is computed, not a parameter"):
        put(sampled(), model)
    assert not is_gated(model)
