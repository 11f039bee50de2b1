"""Random structures, and the layers that their networks run."""

from __future__ import annotations

import copy
import itertools
from collections import Counter

import pytest
import torch
from torch import nn

import hwprofiles
from cpt_nas.calibration.random_structures import candidate, executed, random_structures
from cpt_nas.costs.cost_model import CostModel, build_cost
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to, dense_structure
from tests.support.networks import build
from tests.support.profiles import synthetic_profile

SIZE = (3, 32, 32)


def make(case: str, calibration: dict[str, object] | None = None) -> tuple[nn.Module, CostModel]:
    model = build(case)
    profile = synthetic_profile(model, calibration=calibration)
    return model, build_cost(model, torch.zeros(1, *SIZE).double(), find_branches(model), profile)


def widths(structure: Structure) -> list[tuple[int, int]]:
    return [
        (len(u.kept), u.total)
        for b in structure.branches.values()
        if b.kept
        for u in b.units.values()
    ]


@pytest.mark.parametrize("aligned", [True, False])
def test_executed_layers_are_those_of_the_cut_network(case: str, aligned: bool) -> None:
    """Traced after cutting: the same types at the same widths, and nothing else."""
    model, cost = make(case)
    for structure in random_structures(model, cost, 3, 0, 4, aligned):
        told = Counter(
            (e.signature.split("(")[0], e.in_channels, e.out_channels)
            for e in executed(cost, structure)
        )
        cut = cut_to(copy.deepcopy(model), structure)
        traced = hwprofiles.trace(cut, torch.zeros(1, *SIZE).double())
        seen = Counter((s.type, s.in_channels, s.out_channels) for s in traced)
        assert told == seen


def test_a_candidates_prediction_is_the_cost_of_its_structure(case: str) -> None:
    """Two ways to the same number: the sum over layers, and the multilinear cost of theta."""
    calibration = {"scale": 1.3, "n": 9}
    model, cost = make(case, calibration)
    profile = synthetic_profile(model, calibration=calibration)
    structures = [
        dense_structure(find_branches(model), "", {}),
        *random_structures(model, cost, 4, 3, 2, False),
    ]
    for structure in structures:
        made = candidate(model, cost, structure)
        costs = cost.of_structure(structure)
        assert made.predict_s(profile) == pytest.approx(costs["latency"], rel=1e-12)
        assert made.params == sum(p.numel() for p in made.build().parameters())
        assert made.macs == costs["macs"]


def test_costs_are_spread_over_the_range() -> None:
    model, cost = make("basic_projected")
    full = cost.of_structure(dense_structure(find_branches(model), "", {}))["latency"]
    structures = random_structures(model, cost, 16, 0, 1, aligned=False)
    shares = sorted(cost.of_structure(s)["latency"] / full for s in structures)
    assert shares[-1] > 0.9 and shares[-1] <= 1 and shares[0] < 0.65
    assert max(b - a for a, b in itertools.pairwise(shares)) < 0.2
    gone = [sum(not b.kept for b in s.branches.values()) for s in structures]
    assert 0 in gone and max(gone) >= 2


def test_widths_are_at_the_step_or_off_it(case: str) -> None:
    model, cost = make(case)
    per_unit = {g.width for f in find_branches(model).branches for g in f.branch.groups}
    if per_unit != {1}:  # whole groups: their units are wider than a channel
        return
    for left, total in [w for s in random_structures(model, cost, 6, 1, 4) for w in widths(s)]:
        assert left % 4 == 0 or left == total
    off = random_structures(model, cost, 6, 1, 4, aligned=False)
    narrower = [left for s in off for left, total in widths(s) if left < total]
    assert sum(left % 4 != 0 for left in narrower) > 0.5 * len(narrower)


def test_a_seed_gives_the_same_and_none_is_given_twice() -> None:
    model, cost = make("basic")
    first = random_structures(model, cost, 8, 5, 4)
    assert first == random_structures(model, cost, 8, 5, 4)
    assert first != random_structures(model, cost, 8, 6, 4)
    digests = [candidate(model, cost, s).digest() for s in first]
    dense = candidate(model, cost, dense_structure(find_branches(model), "", {})).digest()
    assert len({*digests, dense}) == 9
    others = random_structures(model, cost, 8, 5, 4, exclude=digests)
    assert not {candidate(model, cost, s).digest() for s in others} & set(digests)


def test_more_structures_than_there_are() -> None:
    model, cost = make("basic")
    with pytest.raises(ValueError, match=r"structures: 500, but only \d+ different"):
        random_structures(model, cost, 500, 0, 16)


def test_the_model_is_left_as_it_is() -> None:
    model, cost = make("basic")
    before = [p.shape for p in model.parameters()]
    candidate(model, cost, random_structures(model, cost, 1, 0, 1)[0]).build()
    assert [p.shape for p in model.parameters()] == before
