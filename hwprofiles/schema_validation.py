"""The sections of a profile file that say how far its predictions were off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hwprofiles.fields import Cores, Count, Macs, Name, Off, Ratio, Section, Seed, Share, Text, Time


class Scores(Section):
    """How far predictions are from measurements; relative errors."""

    n: Count
    mape: Ratio
    within5: Share
    within10: Share
    max: Ratio
    kendall_tau: Annotated[float, Field(ge=-1, le=1)]


class ValidatedNetwork(Section):
    """One network that was cut, measured and predicted."""

    label: Text
    aligned: bool = Field(description="all its widths are multiples of the channel divisor")
    layers: Count
    macs: Macs
    params: Macs
    predicted_s: Time
    measured_s: Time
    spread: Ratio = Field(description="interquartile range / median")
    again_s: Time | None = Field(description="measured a second time; null: not")


class Validation(Section):
    """Predictions for networks that were not measured before, written by a later command."""

    model: Name
    utc: Text
    seed: Seed
    verdict: Literal["ok", "noisy"]
    contention: Cores | None
    aligned: Scores = Field(description="networks at the channel divisor")
    unaligned: Scores | None = Field(description="null: none, as with a channel divisor of 1")
    macs_alone: Scores = Field(
        description="networks at the divisor by scale * MACs + offset, both fitted to these very "
        "networks, which favours them"
    )
    params_alone: Scores = Field(description="the same by parameters")
    speed_up_error: Ratio = Field(description="mean relative error of cut / dense, at the divisor")
    dense_error: Off = Field(description="the uncut network: predicted / measured - 1")
    noise_floor: Ratio | None = Field(
        description="mean relative difference of networks that were measured twice; null: none was"
    )
    networks: list[ValidatedNetwork] = Field(min_length=1)
