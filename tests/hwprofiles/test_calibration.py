"""Calibration on networks whose times are made up: the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import hwprofiles
from hwprofiles import Candidate, Executed, MissingLayers, Profile
from tests.support.hwprofiles_candidates import SPECS, candidate, dense_scaled, truth_of
from tests.support.stand_ins import TinyNet


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
    made = hwprofiles.calibrate(profile, {"tiny": whole}, networks[::2], SPECS)
    c = made.calibration
    assert c.n == 13 and c.verdict == "ok" and c.drift == pytest.approx(0, abs=1e-9)
    # The unknowns are drawn to what work costs, which costs some per cent on so few networks.
    assert c.left_out_error is not None and c.left_out_error < 0.03
    for network in [*networks[1::2], whole]:
        assert network.predict_s(made) == pytest.approx(truth(network), rel=0.03)
    assert made.dense["tiny"].calibrated_error == pytest.approx(0, abs=0.03)
    assert made.validation == []


def test_the_level_is_that_of_the_whole_networks(
    made_up_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    truth = truth_of(made_up_profile, 1.0, 1.0, 0.0)
    profile, whole = dense_scaled(made_up_profile, truth)
    pretend(lambda c: 1.21 * truth(c))  # the machine has become slower
    made = hwprofiles.calibrate(profile, {"tiny": whole}, networks, SPECS)
    assert made.calibration.drift == pytest.approx(0.21)
    assert made.calibration.verdict == "ok"
    assert made.dense["tiny"].median_s == pytest.approx(1.21 * truth(whole))
    assert whole.predict_s(made) == pytest.approx(1.21 * truth(whole), rel=0.01)
    assert made.dense["tiny"].calibrated_error == pytest.approx(0, abs=0.01)


def test_calibration_refuses(
    made_up_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    pretend(lambda c: 1e-3)
    whole = candidate(made_up_profile, 1.0)
    with pytest.raises(ValueError, match="networks: 3, allowed are 10 or more"):
        hwprofiles.calibrate(made_up_profile, {"tiny": whole}, networks[:2], SPECS)
    with pytest.raises(ValueError, match=r"dense: \['other'\], the profile's are \['tiny'\]"):
        hwprofiles.calibrate(made_up_profile, {"other": whole}, networks, SPECS)
    alien = Candidate(TinyNet, [Executed("conv9d(1->1)", 1, 1)], 0, 0)
    with pytest.raises(MissingLayers, match="conv9d"):
        hwprofiles.calibrate(made_up_profile, {"tiny": whole}, [alien, *networks], SPECS)
