"""Candidates of a tiny network, and made-up times for them."""

from __future__ import annotations

from collections.abc import Callable

from hwprofiles import Candidate, Executed, Profile, calibration
from hwprofiles.profile_file import parse
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
