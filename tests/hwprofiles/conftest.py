from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

import hwprofiles
from hwprofiles import Candidate, Profile, calibration, timing, validation
from hwprofiles.profile_file import parse
from hwprofiles.runtimes import timers
from hwprofiles.timing import Measurement, Rounds
from tests.support.hwprofiles_candidates import Truth, candidate
from tests.support.stand_ins import FakeClock, TinyNet


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    # Whether the real machine was interrupted or busy says nothing about fake time.
    monkeypatch.setattr(timers, "_involuntary_switches", lambda: 0)
    monkeypatch.setattr(timing.ContentionMeter, "read", lambda self, threads: None)
    return FakeClock()


@pytest.fixture
def tiny() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet()


@pytest.fixture(scope="session")
def tiny_profile() -> Iterator[Profile]:
    """A profile measured here; nothing may be asserted about its times."""
    torch.manual_seed(0)
    yield hwprofiles.measure({"tiny": TinyNet()}, (3, 8, 8), rounds=10, min_s=0.0)


@pytest.fixture
def made_up_profile(tiny_profile: Profile) -> Profile:
    """With made-up coefficients: what was measured differs from run to run."""
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    for i, layer in enumerate(content["layers"]):
        dense = layer["form"] == "dense"
        layer["alone"]["coefficients"] = {
            **{"const_s": 1e-5 * (1 + i % 3), "per_in_s": 2e-7},
            **{"per_out_s": 1e-7 * dense, "per_in_out_s": 5e-8 * dense},
        }
    return parse(content)


@pytest.fixture
def networks(made_up_profile: Profile) -> list[Candidate]:
    shares = np.linspace(0.2, 0.95, 24)
    return [candidate(made_up_profile, float(s), i // 2 % 4) for i, s in enumerate(shares)]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Measurements come from a function of the candidate instead of the clock."""

    def install(truth: Truth, spread: float = 0.01, again: float = 1.0) -> None:
        calls = []

        def time_them(profile: Profile, found: Mapping[str, Candidate], *_: Any) -> Rounds:
            factor = again if calls else 1.0
            calls.append(len(found))
            readings = np.linspace(1 - spread, 1 + spread, 11)
            times = {
                label: Measurement(tuple(factor * truth(c) * readings))
                for label, c in found.items()
            }
            return Rounds(times, (1e-4,) * 10, 0.0, 11, 0.0)

        monkeypatch.setattr(calibration, "time_candidates", time_them)
        monkeypatch.setattr(validation, "time_candidates", time_them)

    return install


@pytest.fixture
def content(tiny_profile: Profile) -> dict[str, Any]:
    """What the tiny profile's file holds."""
    return copy.deepcopy(tiny_profile.model_dump(mode="json", by_alias=True))
