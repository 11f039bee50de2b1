"""What a search, its result and a structure say of themselves."""

from __future__ import annotations

import pytest
import torch

import cpt_nas
from tests.support.networks import build
from tests.support.profiles import synthetic_profile
from tests.support.searches import close_some

X = torch.zeros(1, 3, 32, 32)


def test_they_say_in_three_lines_what_they_are() -> None:
    search = cpt_nas.attach(build("basic").float(), X, log_gamma=0.1)
    close_some(search, seed=0)
    search.finish()
    structure = search.structure()
    for thing in (search, search.result(), structure):
        lines = repr(thing).split("\n")
        assert len(lines) == 3 and max(map(len, lines)) < 160
        left = f"{structure.branches_left} of {len(structure.branches)} branches"
        assert any(left in line for line in lines)


def test_a_result_as_a_table_sums_to_the_costs() -> None:
    model = build("basic").float()
    search = cpt_nas.attach(model, X, synthetic_profile(model), latency_budget=0.6, ramp_steps=5)
    search.finish()
    result = search.result()
    table = result.to_frame()
    live, dense = search.live_costs(), search.regularizer.dense
    for measure, suffix in (("macs", ""), ("params", ""), ("latency", "_s")):
        assert table[f"{measure}{suffix}"].sum() == pytest.approx(live[measure], rel=1e-9)
        assert table[f"{measure}_dense{suffix}"].sum() == pytest.approx(dense[measure], rel=1e-9)
    assert "<table" in result._repr_html_() and "SearchResult of" in result._repr_html_()
