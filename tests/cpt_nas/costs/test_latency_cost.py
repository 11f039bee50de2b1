"""The latency of gates: calibrated, multilinear, never negative, nothing for what is gone."""

from __future__ import annotations

import copy

import pytest
import torch

from cpt_nas.calibration.random_structures import random_structures
from cpt_nas.costs.cost_model import CostModel, build_cost, structure_theta
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import cut_to, dense_structure
from tests.support.networks import build
from tests.support.profiles import synthetic_profile

CALIBRATION = {"scale": 1.2, "n": 9}
EXAMPLE = torch.zeros(1, 3, 32, 32).double()


def latency(
    cost: CostModel, branches: dict[str, torch.Tensor], units: dict[str, torch.Tensor]
) -> float:
    return float(cost(branches, units)[cost.names.index("latency")])


def test_soft_cost_at_integer_widths_is_the_profile_of_the_cut_network(case: str) -> None:
    """theta of 0 and 1 anywhere, against a sum over the layers traced in the cut network."""
    model = build(case)
    profile = synthetic_profile(model, calibration=CALIBRATION)
    cost = build_cost(model, EXAMPLE, find_branches(model), profile)
    for structure in random_structures(model, cost, 3, 2, 2, aligned=False):
        branches, units = structure_theta(structure)
        soft_units = {}
        for key, theta in units.items():
            branch, group = key.rsplit("/", 1)
            left = structure.branches[branch].units[group]
            soft_units[key] = torch.zeros(left.total).index_fill(0, torch.tensor(left.kept), 1.0)
            assert soft_units[key].sum() == theta.sum()
        zero = {n: torch.zeros(1) for n in cost.branches if n not in branches}
        full = dense_structure(find_branches(model), "", {})
        for name in zero:  # a closed branch whose units are still there
            for group, u in full.branches[name].units.items():
                soft_units[f"{name}/{group}"] = torch.ones(u.total)
        soft = latency(cost, branches | zero, soft_units)
        cut = cut_to(copy.deepcopy(model), structure)
        # Each cut layer by the coefficients of the dense layer that it was: by its name.
        dense = {t.layer.name: t.layer.signature for t in cost.terms}
        traced = build_cost(cut, EXAMPLE, find_branches(cut)).terms
        total = 0.0
        for term in traced:
            name = term.layer.name
            if name not in dense:  # a removed branch leaves a Sequential with other paths
                name = name.replace(".act", ".act3" if name.rsplit(".", 1)[0] + ".act3" in dense
                                    else ".act2")  # fmt: skip
            total += profile.cost(dense[name]).at(term.layer.in_channels, term.layer.out_channels)
        assert soft == pytest.approx(total, rel=1e-9)


def test_monotone_and_not_negative_in_every_theta(case: str) -> None:
    model = build(case)
    cost = build_cost(
        model, EXAMPLE, find_branches(model), synthetic_profile(model, calibration=CALIBRATION)
    )
    full = dense_structure(find_branches(model), "", {})
    branches, units = structure_theta(full)
    generator = torch.Generator().manual_seed(0)
    branches = {n: torch.rand(1, generator=generator) for n in branches}
    units = {k: torch.rand(len(t), generator=generator) for k, t in units.items()}
    assert latency(cost, branches, units) > 0
    for table in (branches, units):
        for key, theta in table.items():
            values = []
            for value in (0.0, 0.3, 1.0):
                changed = theta.clone()
                changed[0] = value
                values.append(
                    latency(cost, branches | {key: changed}, units)
                    if table is branches
                    else latency(cost, branches, units | {key: changed})
                )
            assert 0 <= values[0] <= values[1] <= values[2]


def test_a_closed_branch_costs_nothing(case: str) -> None:
    """Its layers' share is zero, whatever its units are; the calibration's constant goes, too."""
    model = build(case)
    cost = build_cost(
        model, EXAMPLE, find_branches(model), synthetic_profile(model, calibration=CALIBRATION)
    )
    full = dense_structure(find_branches(model), "", {})
    branches, units = structure_theta(full)
    closed = {n: torch.zeros(1) for n in branches}
    gone = latency(cost, closed, units)
    half = latency(cost, closed, {k: t * 0.5 for k, t in units.items()})
    assert gone == pytest.approx(half) and gone == pytest.approx(latency(cost, {}, {}))
    outside = full.model_copy(deep=True)
    for branch in outside.branches.values():
        branch.kept = False
    per_layer = cost.per_layer(outside, "latency")
    for term, value in zip(cost.terms, per_layer, strict=True):
        assert (value == 0) == (term.branch is not None)
    assert gone == pytest.approx(sum(per_layer))
