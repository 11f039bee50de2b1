from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import hwprofiles
from hwprofiles import Profile, timing
from hwprofiles.runtimes import timers
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
