"""Calibration and validation on networks whose times are made up: the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from torch import nn

import hwprofiles
from hwprofiles import Candidate, Executed, MissingLayers, Profile, calibration, validation
from hwprofiles.candidates import time_candidates
from hwprofiles.profile_file import parse
from hwprofiles.timing import Measurement, Rounds
from hwprofiles.validation import alone, scores
from tests.support.stand_ins import TinyNet

Truth = Callable[[Candidate], float]


def candidate(profile: Profile, share: float, left_out: int = 0) -> Candidate:
    """The tiny network at a share of its hidden width, without its last layers."""
    layers = []
    for layer in profile.layers[: len(profile.layers) - left_out]:
        narrow = max(1, round(share * layer.in_channels))
        for _ in range(sum(layer.count.values())):
            layers.append(Executed(layer.signature, narrow, layer.out_channels))
    macs = 1e6 * share + 1e5 * len(layers)
    return Candidate(TinyNet, layers, macs=macs, params=1e4 * share)


@pytest.fixture
def tiny_profile(tiny_profile: Profile) -> Profile:
    """With made-up coefficients: what was measured differs from run to run."""
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    for i, layer in enumerate(content["layers"]):
        dense = layer["form"] == "dense"
        layer["coefficients"] = {
            **{"const_s": 1e-5 * (1 + i % 3), "per_in_s": 2e-7},
            **{"per_out_s": 1e-7 * dense, "per_in_out_s": 5e-8 * dense},
        }
    return parse(content)


@pytest.fixture
def networks(tiny_profile: Profile) -> list[Candidate]:
    shares = np.linspace(0.2, 0.95, 12)
    return [candidate(tiny_profile, float(s), i % 4) for i, s in enumerate(shares)]


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


def truth_of(profile: Profile, dense: float, channel: float, per_layer: float) -> Truth:
    def seconds(c: Candidate) -> float:
        ((a, b, n),) = calibration.features(profile, [c])
        return float(dense * a + channel * b + per_layer * n)

    return seconds


def dense_scaled(profile: Profile, truth: Truth) -> tuple[Profile, Candidate]:
    """The profile as if its dense network had been measured by the same truth."""
    whole = candidate(profile, 1.0)
    content = profile.model_dump(mode="json", by_alias=True)
    time = truth(whole)
    content["dense"]["tiny"] |= {"median_s": time, "q25_s": time, "q75_s": time}
    return parse(content), whole


def test_features_are_sums_by_form_and_the_number_of_layers(tiny_profile: Profile) -> None:
    c = candidate(tiny_profile, 0.5)
    ((dense, channel, n),) = calibration.features(tiny_profile, [c])
    plain = hwprofiles.uncalibrated(tiny_profile)
    assert dense + channel == pytest.approx(c.predict_s(plain)) and n == len(c.layers)
    only = Candidate(TinyNet, [e for e in c.layers if "conv2d" in e.signature], 0, 0)
    ((dense, channel, _),) = calibration.features(tiny_profile, [only])
    assert channel == 0 and dense > 0


@pytest.mark.parametrize("true", [(1.0, 1.0, 0.0), (1.2, 0.8, 0.0), (0.9, 1.2, 3e-6)])
def test_unseen_networks_are_predicted(
    tiny_profile: Profile,
    networks: list[Candidate],
    pretend: Callable[..., None],
    true: tuple[float, float, float],
) -> None:
    truth = truth_of(tiny_profile, *true)
    pretend(truth)
    profile, whole = dense_scaled(tiny_profile, truth)
    made = hwprofiles.calibrate(profile, {"tiny": whole}, networks[::2])
    c = made.calibration
    assert c.n == 7 and c.verdict == "ok" and c.drift == pytest.approx(0, abs=1e-9)
    # The factors are drawn to each other, which costs up to some per cent on so few networks.
    assert c.left_out_error is not None and c.left_out_error < 0.03
    for network in [*networks[1::2], whole]:
        assert network.predict_s(made) == pytest.approx(truth(network), rel=0.03)
    assert made.dense["tiny"].calibrated_error == pytest.approx(0, abs=0.03)
    assert made.validation == []


def test_without_noise_or_shrinkage_the_fit_is_exact(tiny_profile: Profile) -> None:
    made = [candidate(tiny_profile, s, i % 4) for i, s in enumerate((0.2, 0.4, 0.5, 0.7, 0.9, 1))]
    table = calibration.features(tiny_profile, made)
    seconds = table @ np.array([1.2, 1.2, 0.0])
    scale, by_form, per_layer = calibration.fit_calibration(table, seconds, np.ones(len(made)))
    assert scale == pytest.approx(1.2) and per_layer == pytest.approx(0, abs=1e-12)
    assert by_form == pytest.approx({"dense": 1.0, "channel": 1.0})


def test_the_level_is_that_of_the_whole_networks(
    tiny_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    truth = truth_of(tiny_profile, 1.0, 1.0, 0.0)
    profile, whole = dense_scaled(tiny_profile, truth)
    pretend(lambda c: 1.21 * truth(c))  # the machine has become slower
    made = hwprofiles.calibrate(profile, {"tiny": whole}, networks)
    assert made.calibration.drift == pytest.approx(0.21)
    assert made.calibration.verdict == "noisy"
    assert whole.predict_s(made) == pytest.approx(1.21 * truth(whole), rel=0.01)
    assert made.dense["tiny"].calibrated_error == pytest.approx(0.21, rel=0.05)


def test_calibration_refuses(
    tiny_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    pretend(lambda c: 1e-3)
    whole = candidate(tiny_profile, 1.0)
    with pytest.raises(ValueError, match="candidates: 2, allowed are 3 or more"):
        hwprofiles.calibrate(tiny_profile, {"tiny": whole}, networks[:2])
    with pytest.raises(ValueError, match=r"dense: \['other'\], the profile's are \['tiny'\]"):
        hwprofiles.calibrate(tiny_profile, {"other": whole}, networks)
    alien = Candidate(TinyNet, [Executed("conv9d(1->1)", 1, 1)], 0, 0)
    with pytest.raises(MissingLayers, match="conv9d"):
        hwprofiles.calibrate(tiny_profile, {"tiny": whole}, [alien, *networks])


def test_validation_reports_what_is_off(
    tiny_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    truth = truth_of(tiny_profile, 1.0, 1.0, 0.0)
    profile, whole = dense_scaled(tiny_profile, truth)
    pretend(truth)
    profile = hwprofiles.calibrate(profile, {"tiny": whole}, networks[:4])
    unseen = networks[4:]
    wrong = id(unseen[0])
    pretend(
        lambda c: truth(c) * (1.25 if id(c) == wrong else 1.04 if c is not whole else 1.0),
        again=1.02,
    )
    v = hwprofiles.validate(profile, "tiny", whole, unseen[:6], unseen[6:])
    assert v.at_step.n == 6 and v.off_step is not None and v.off_step.n == 2
    assert v.at_step.mape == pytest.approx((5 * (1 - 1 / 1.04) + (1 - 1 / 1.25)) / 6, abs=2e-3)
    assert v.at_step.within5 == v.at_step.within10 == pytest.approx(5 / 6)
    assert v.at_step.max == pytest.approx(0.2, abs=2e-3)
    assert v.dense_error == pytest.approx(0, abs=2e-3)
    assert v.speed_up_error == pytest.approx(v.at_step.mape, abs=2e-3)
    assert v.noise_floor == pytest.approx(0.02)
    assert len(v.networks) == 9 and sum(n.again_s is not None for n in v.networks) == 6
    both = hwprofiles.with_validation(hwprofiles.with_validation(profile, {"tiny": v}), {"tiny": v})
    assert both.validation == [v]
    assert parse(both.model_dump(mode="json", by_alias=True)) == both


def test_no_validation_on_what_was_calibrated_on(
    tiny_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    pretend(truth_of(tiny_profile, 1.0, 1.0, 0.0))
    whole = candidate(tiny_profile, 1.0)
    profile = hwprofiles.calibrate(tiny_profile, {"tiny": whole}, networks[:4])
    with pytest.raises(ValueError, match="step 3: the profile was calibrated on this network"):
        hwprofiles.validate(profile, "tiny", whole, [*networks[5:8], networks[3]])
    with pytest.raises(ValueError, match="at_step: 3 networks, allowed are 4 or more"):
        hwprofiles.validate(profile, "tiny", whole, networks[5:8])


def test_scores_by_hand() -> None:
    s = scores([1.0, 2.0, 3.3, 4.0], [1.0, 2.1, 3.0, 5.0])
    assert s.n == 4 and s.max == pytest.approx(0.2)
    assert s.mape == pytest.approx((0 + 0.1 / 2.1 + 0.1 + 0.2) / 4)
    assert s.within5 == 0.5 and s.within10 == 0.75 and s.kendall_tau == 1.0
    assert scores([3, 2, 1], [1, 2, 3]).kendall_tau == -1.0
    assert scores([1, 1, 1], [1, 2, 3]).kendall_tau == 0.0


def test_size_alone_gets_the_best_line_with_nothing_negative() -> None:
    sizes = [1.0, 2.0, 3.0, 4.0]
    assert alone(sizes, [0.5 + 2 * s for s in sizes]).mape == pytest.approx(0, abs=1e-9)
    # A decreasing time cannot be fitted by a scale: only the offset is left.
    assert alone(sizes, [4.0, 3.0, 2.0, 1.0]).kendall_tau == 0.0


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
