"""The target: the machine and the setting in which the finished network is to run.

A profile holds for one machine, its software and one setting. Unless the user says otherwise, the
target is this machine in the profile's setting, whatever device trains. A profile of another
machine has to be allowed (``allow_foreign``); a stated setting that is not the profile's is a
contradiction, and always refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hwprofiles.cost_profile import Profile, ProfileError
from hwprofiles.device import Difference


class Target(BaseModel):
    """The stated setting; None is as in the profile.

    Attributes:
        device: 'cpu' or 'cuda'.
        batch_size: examples a call.
        dtype: of parameters and inputs.
        threads: on the CPU.
        channels_last: memory format.
        runtime: what the network runs in.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)

    device: Literal["cpu", "cuda"] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    channels_last: bool | None = None
    runtime: str | None = None


def target_of(profile: Profile) -> Target:
    """The profile's own setting."""
    return Target(**{field: getattr(profile.workload, field) for field in Target.model_fields})


def setting_differences(profile: Profile, target: Target) -> list[Difference]:
    """Where the stated setting is not the profile's."""
    return [
        Difference(f"workload.{field}", getattr(profile.workload, field), wanted, "the target")
        for field, wanted in target.model_dump(exclude_none=True).items()
        if getattr(profile.workload, field) != wanted
    ]


def require_target(
    profile: Profile, target: Target | None = None, allow_foreign: bool = False
) -> None:
    """Refuse a profile that is not the target's.

    Args:
        profile: to be used.
        target: the stated setting, if any.
        allow_foreign: the network is to run on the profile's machine, not on this one.

    Raises:
        ProfileError: lists every difference, in one line.
    """
    stated = setting_differences(profile, target or Target())
    if stated:
        raise ProfileError(
            f"profile {profile.name} is not of the stated target: {_listed(stated)}. Measure one "
            "in that setting"
        )
    machine = [] if allow_foreign else profile.check()
    if machine:
        raise ProfileError(
            f"profile {profile.name} is of another machine or software: {_listed(machine)}. "
            "Measure one here (hwprofiles measure), or, if the network is to run there, allow it "
            "(allow_foreign=True, --allow-foreign)"
        )


def _listed(found: list[Difference]) -> str:
    return "; ".join(map(str, found))
