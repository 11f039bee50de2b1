"""Candidates of a tiny network, and made-up times for them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hwprofiles import Candidate, Coefficients, Executed, Profile, trace
from hwprofiles.profile_file import parse
from tests.support.stand_ins import TinyNet

Truth = Callable[[Candidate], float]
SPECS = {"tiny": trace(TinyNet(), torch.zeros(1, 3, 8, 8))}


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
    """Layers take their time alone, by a factor of their form, and so much more each."""

    def seconds(c: Candidate) -> float:
        total = per_layer * len(c.layers)
        for e in c.layers:
            layer = profile.layer(e.signature)
            assert layer.alone is not None
            alone = Coefficients(*layer.alone.coefficients.model_dump().values())
            factor = dense if layer.form == "dense" else channel
            total += factor * alone.at(e.in_channels, e.out_channels)
        return total

    return seconds


def dense_scaled(profile: Profile, truth: Truth) -> tuple[Profile, Candidate]:
    """The profile as if its dense network had been measured by the same truth."""
    whole = candidate(profile, 1.0)
    content = profile.model_dump(mode="json", by_alias=True)
    time = truth(whole)
    content["dense"]["tiny"] |= {"median_s": time, "q25_s": time, "q75_s": time}
    return parse(content), whole
