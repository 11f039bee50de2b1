"""Profiles of another machine or setting are refused, with every difference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hwprofiles import Profile, ProfileError, Target, require_target
from hwprofiles.profile_file import parse
from hwprofiles.target import setting_differences


@pytest.fixture
def foreign(tiny_profile: Profile) -> Profile:
    content = copy.deepcopy(tiny_profile.model_dump(mode="json", by_alias=True))
    content["fingerprint"]["device"] |= {"name": "abacus", "cores": 777}
    content["fingerprint"]["software"]["torch"] = "0.1"
    return parse(content)


def test_the_default_target_is_this_machine_in_the_profiles_setting(tiny_profile: Profile) -> None:
    require_target(tiny_profile)
    w = tiny_profile.workload
    same: dict[str, Any] = {f: getattr(w, f) for f in Target.model_fields}
    require_target(tiny_profile, Target(**same))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "cuda"),
        ("batch_size", 8),
        ("dtype", "bfloat16"),
        ("threads", 3),
        ("channels_last", True),
        ("runtime", "onnxruntime"),
    ],
)
def test_a_stated_setting_that_differs_is_always_refused(
    tiny_profile: Profile, field: str, value: object
) -> None:
    target = Target.model_validate({field: value})
    (found,) = setting_differences(tiny_profile, target)
    assert found.field == f"workload.{field}" and found.here == value
    for allow in (False, True):
        with pytest.raises(ProfileError, match=rf"workload\.{field}: profile has .*target is"):
            require_target(tiny_profile, target, allow_foreign=allow)


def test_another_machine_is_refused_unless_it_is_meant(foreign: Profile) -> None:
    with pytest.raises(ProfileError) as caught:
        require_target(foreign)
    line = str(caught.value)
    for part in ("device.name: profile has abacus", "device.cores", "software.torch", "--allow-fo"):
        assert part in line
    assert "\n" not in line
    require_target(foreign, allow_foreign=True)
    with pytest.raises(ProfileError, match=r"workload\.threads"):
        require_target(foreign, Target(threads=64), allow_foreign=True)


def test_a_gpus_profile_where_there_is_none(
    tiny_profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    content["workload"]["device"] = "cuda"
    profile = parse(content)
    with pytest.raises(ProfileError, match=r"device\.name: .* here is no CUDA device"):
        require_target(profile)
    require_target(profile, allow_foreign=True)
