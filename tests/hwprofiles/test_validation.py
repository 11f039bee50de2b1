"""Validation on networks whose times are made up: the truth is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import hwprofiles
from hwprofiles import Candidate, Profile
from hwprofiles.profile_file import parse
from hwprofiles.validation import alone, scores
from tests.support.hwprofiles_candidates import SPECS, candidate, dense_scaled, truth_of


def test_validation_reports_what_is_off(
    made_up_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    truth = truth_of(made_up_profile, 1.0, 1.0, 0.0)
    profile, whole = dense_scaled(made_up_profile, truth)
    pretend(truth)
    profile = hwprofiles.calibrate(profile, {"tiny": whole}, networks[:12], SPECS)
    unseen = networks[12:20]
    wrong = id(unseen[0])
    pretend(
        lambda c: truth(c) * (1.25 if id(c) == wrong else 1.04 if c is not whole else 1.0),
        again=1.02,
    )
    v = hwprofiles.validate(profile, "tiny", whole, unseen[:6], unseen[6:])
    assert v.aligned.n == 6 and v.unaligned is not None and v.unaligned.n == 2
    assert v.aligned.mape == pytest.approx((5 * (1 - 1 / 1.04) + (1 - 1 / 1.25)) / 6, abs=6e-3)
    assert v.aligned.within5 == v.aligned.within10 == pytest.approx(5 / 6)
    assert v.aligned.max == pytest.approx(0.2, abs=6e-3)
    assert v.dense_error == pytest.approx(0, abs=6e-3)
    assert v.speed_up_error == pytest.approx(v.aligned.mape, abs=6e-3)
    assert v.noise_floor == pytest.approx(0.02)
    assert len(v.networks) == 9 and sum(n.again_s is not None for n in v.networks) == 6
    both = hwprofiles.with_validation(hwprofiles.with_validation(profile, {"tiny": v}), {"tiny": v})
    assert both.validation == [v]
    assert parse(both.model_dump(mode="json", by_alias=True)) == both


def test_no_validation_on_what_was_calibrated_on(
    made_up_profile: Profile, networks: list[Candidate], pretend: Callable[..., None]
) -> None:
    pretend(truth_of(made_up_profile, 1.0, 1.0, 0.0))
    whole = candidate(made_up_profile, 1.0)
    profile = hwprofiles.calibrate(made_up_profile, {"tiny": whole}, networks[:12], SPECS)
    with pytest.raises(ValueError, match="aligned 3: the profile was calibrated on this network"):
        hwprofiles.validate(profile, "tiny", whole, [*networks[15:18], networks[3]])
    with pytest.raises(ValueError, match="aligned: 3 networks, allowed are 4 or more"):
        hwprofiles.validate(profile, "tiny", whole, networks[15:18])


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
