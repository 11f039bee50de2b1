"""Whole networks, timed in a profile's setting."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from hwprofiles import Candidate, Profile
from hwprofiles.candidates import time_candidates
from tests.support.stand_ins import TinyNet


def test_real_networks_are_timed_in_the_profiles_setting(tiny_profile: Profile) -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(TinyNet):
        def forward(self, x: Any) -> Any:
            seen.append(tuple(x.shape))
            assert not self.training
            return super().forward(x)

    made = {"a": Candidate(Spy, [], 0, 0), "b": Candidate(lambda: nn.Flatten(), [], 0, 0)}
    timed = time_candidates(tiny_profile, made)
    assert set(timed.measurements) == {"a", "b"} and set(seen) == {(1, 3, 8, 8)}
    assert timed.measurements["a"].n >= 10
    assert timed.measurements["a"].median_s > timed.measurements["b"].median_s > 0
    assert math.isfinite(timed.spread)
