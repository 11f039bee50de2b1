"""How many cut networks a profile's costs are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

import hwprofiles
from cpt_nas.calibration import profiling
from hwprofiles import Candidate, Profile
from hwprofiles.timing import Measurement, Rounds
from tests.support.networks import build
from tests.support.profiles import synthetic_profile

Latency = Callable[[Candidate], float]


@dataclass
class Device:
    """Instead of measuring: a made-up latency, and a clock that is slower in every session."""

    truth: Latency
    slower: float = 1.0
    sessions: list[set[str]] = field(default_factory=list)

    def time(
        self, profile: Profile, networks: Mapping[str, Candidate], *_: object, **__: object
    ) -> Rounds:
        speed = self.slower ** len(self.sessions)
        self.sessions.append({c.digest() for label, c in networks.items() if "dense" not in label})
        times = {label: Measurement((speed * self.truth(c),) * 10) for label, c in networks.items()}
        return Rounds(times, (1e-4,) * 10, 0.0, 10)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Latency, float], tuple[Profile, Device]]:
    def run(truth: Latency, slower: float = 1.0) -> tuple[Profile, Device]:
        device = Device(truth, slower)
        monkeypatch.setattr(hwprofiles, "time_candidates", device.time)
        monkeypatch.setattr(profiling, "BATCH", 12)
        monkeypatch.setattr(profiling, "MOST", 36)
        model = build("basic").float()
        plain = synthetic_profile(model, "a")
        return profiling.calibrate_and_validate(plain, {"a": model}, 6, min_s=0), device

    return run


def of_macs(candidate: Candidate) -> float:
    return 1e-4 + 1e-10 * candidate.macs


def of_chance(candidate: Candidate) -> float:
    return 1e-3 * (1 + int(candidate.digest(), 16) % 1000 / 1000)


def test_one_batch_where_networks_left_out_are_predicted_well(
    measured: Callable[..., tuple[Profile, Device]],
) -> None:
    profile, device = measured(of_macs)
    assert len(device.sessions) == 1
    assert profile.calibration.n == 13 and profile.calibration.left_out_error < 0.02


def test_further_batches_are_other_networks_at_one_speed(
    measured: Callable[..., tuple[Profile, Device]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "is_enough", lambda errors, *_: len(errors) == 3)
    profile, device = measured(of_macs, 1.5)
    assert [len(s) for s in device.sessions] == [18, 12, 12]  # the first one with those to validate
    assert len(set.union(*device.sessions)) == 42
    c = profile.calibration
    assert c.n == 37 and len(set(c.networks)) == 37 and c.left_out_error < 0.02
    assert profile.validation[0].aligned.max < 0.05


def test_it_ends_where_no_number_of_networks_would_do(
    measured: Callable[..., tuple[Profile, Device]],
) -> None:
    profile, device = measured(of_chance)
    assert len(device.sessions) <= 3 and profile.calibration.left_out_error > 0.1


@pytest.mark.parametrize(
    ("errors", "networks", "enough"),
    [
        ([0.02], 40, True),
        ([0.021], 40, False),
        ([0.10, 0.05], 80, False),
        ([0.10, 0.095], 80, True),  # no longer falls
        ([0.10, 0.11], 80, True),
        ([0.10, 0.05], 200, True),  # the most
    ],
)
def test_enough(errors: list[float], networks: int, enough: bool) -> None:
    assert profiling.is_enough(errors, networks) is enough


def test_several_models_share_one_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(of_macs)
    monkeypatch.setattr(hwprofiles, "time_candidates", device.time)
    a = build("basic").float()
    profile = synthetic_profile(a, "a")
    b = profile.dense["a"]
    workload = profile.workload.model_copy(update={"models": ["a", "b"]})
    profile = profile.model_copy(update={"workload": workload, "dense": {"a": b, "b": b}})
    made = profiling.calibrate(profile, {"a": a, "b": a}, structures=11)
    assert made.calibration.n == 13 and len(device.sessions) == 1
    assert np.isfinite(made.dense["b"].calibrated_error)
