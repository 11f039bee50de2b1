"""Calibration on networks whose times are made up: the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import hwprofiles
from hwprofiles import Candidate, Executed, MissingLayers, Profile, calibration
from tests.support.hwprofiles_candidates import candidate, dense_scaled, truth_of
from tests.support.stand_ins import TinyNet


def test_features_are_sums_by_form_and_the_number_of_layers(made_up_profile: Profile) -> None:
    c = candidate(made_up_profile, 0.5)
    ((dense, channel, n),) = calibration.features(made_up_profile, [c])
    plain = hwprofiles.uncalibrated(made_up_profile)
    assert dense + channel == pytest.approx(c.predict_s(plain)) and n == len(c.layers)
    only = Candidate(TinyNet, [e for e in c.layers if "conv2d" in e.signature], 0, 0)
    ((dense, channel, _),) = calibration.features(made_up_profile, [only])
    assert channel == 0 and dense > 0


@pytest.mark.parametrize("true", [(1.0, 1.0, 0.0), (1.2, 0.8, 0.0), (0.9, 1.2, 3e-6)])
def test_unseen_networks_are_predicted(
    made_up_profile: Profile,
    networks: list[Candidate],
    pretend: Callable[..., None],
    true: tuple[float, float, float],
) -> None:
    truth = truth_of(made_up_profile, *true)
    pretend(truth)
    profile, whole = dense_scaled(made_up_profile, truth)
    made = hwprofiles.calibrate(profile, {"tiny": whole}, networks[::2])
    c = made.calibration
    assert c.n == 7 and c.verdict == "ok" and c.drift == pytest.approx(0, abs=1e-9)
    # The factors are drawn to each other, which costs up to some per cent on so few networks.
    assert c.left_out_error is not None and c.left_out_error < 0.03
    for network in [*networks[1::2], whole]:
        assert network.predict_s(made) == pytest.approx(truth(network), rel=0.03)
    assert made.dense["tiny"].calibrated_error == pytest.approx(0, abs=0.03)
    assert made.validation == []


def test_without_noise_or_shrinkage_the_fit_is_exact(made_up_profile: Profile) -> None:
    made = [
        candidate(made_up_profile, s, i % 4) for i, s in enumerate((0.2, 0.4, 0.5, 0.7, 0.9, 1))
    ]
    table = calibration.features(made_up_profile, made)
    seconds = table @ np.array([1.2, 1.2, 0.0])
    scale, by_form, per_layer = calibration.fit_calibration(table, seconds, np.ones(len(made)))
    assert scale == pytest.approx(1.2) and per_layer == pytest.approx(0, abs=1e-12)
    assert by_form == pytest.approx({"dense": 1.0, "channel": 1.0})


def test_the_level_is_that_of_the_whole_networks(
    made_up_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    truth = truth_of(made_up_profile, 1.0, 1.0, 0.0)
    profile, whole = dense_scaled(made_up_profile, truth)
    pretend(lambda c: 1.21 * truth(c))  # the machine has become slower
    made = hwprofiles.calibrate(profile, {"tiny": whole}, networks)
    assert made.calibration.drift == pytest.approx(0.21)
    assert made.calibration.verdict == "noisy"
    assert whole.predict_s(made) == pytest.approx(1.21 * truth(whole), rel=0.01)
    assert made.dense["tiny"].calibrated_error == pytest.approx(0.21, rel=0.05)


def test_calibration_refuses(
    made_up_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    pretend(lambda c: 1e-3)
    whole = candidate(made_up_profile, 1.0)
    with pytest.raises(ValueError, match="candidates: 2, allowed are 3 or more"):
        hwprofiles.calibrate(made_up_profile, {"tiny": whole}, networks[:2])
    with pytest.raises(ValueError, match=r"dense: \['other'\], the profile's are \['tiny'\]"):
        hwprofiles.calibrate(made_up_profile, {"other": whole}, networks)
    alien = Candidate(TinyNet, [Executed("conv9d(1->1)", 1, 1)], 0, 0)
    with pytest.raises(MissingLayers, match="conv9d"):
        hwprofiles.calibrate(made_up_profile, {"tiny": whole}, [alien, *networks])
