"""Candidates: whole networks that the caller makes, by which a profile is calibrated and judged.

This package does not prune. Whoever cuts networks says how to build one, and which of the profile's
layers it runs at which widths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hwprofiles.cost_profile import Profile, setting_of
from hwprofiles.device import check_device
from hwprofiles.runtimes import find_runtime
from hwprofiles.runtimes.base import build_checked, example_input
from hwprofiles.runtimes.eager import NETWORK_BLOCK_S, call_of, pinned
from hwprofiles.runtimes.timers import Case
from hwprofiles.timing import MIN_ROUNDS, Progress, Rounds, anchor_workload, measure_rounds


@dataclass(frozen=True)
class Executed:
    """One layer of a network: a signature that the profile knows, at these widths."""

    signature: str
    in_channels: float
    out_channels: float


@dataclass(frozen=True)
class Candidate:
    """A network and the layers that it runs.

    Attributes:
        build: makes the network; called once, when it is measured.
        layers: every executed layer, in any order.
        macs: multiply-adds per example.
        params: number of parameters.
    """

    build: Callable[[], nn.Module]
    layers: Sequence[Executed]
    macs: float
    params: float

    def predict_s(self, profile: Profile) -> float:
        """Seconds a call by the profile, calibrated.

        Raises:
            ProfileError: a layer that the profile does not hold.
        """
        return profile.network_s((e.signature, e.in_channels, e.out_channels) for e in self.layers)

    def digest(self) -> str:
        """``digest`` of the layers."""
        return digest(self.layers)


def digest(layers: Sequence[Executed]) -> str:
    """Short hash of layers and widths: networks of one digest cost the same."""
    lines = sorted(f"{e.signature} {e.in_channels:g} {e.out_channels:g}" for e in layers)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def time_candidates(
    profile: Profile,
    candidates: Mapping[str, Candidate],
    rounds: int = MIN_ROUNDS,
    min_s: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rounds:
    """Time networks against each other in the profile's setting, in interleaved rounds.

    On the profile's machine, drift since the profile was measured is divided out.

    Args:
        profile: its workload is the setting.
        candidates: by label.
        rounds: readings of every network, 10 or more.
        min_s: go on for so many seconds, after warming up.
        seed: of the order within the rounds.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a setting that this machine does not have, a network that the runtime does not
            take, or too few rounds.
    """
    w = profile.workload
    check_device(w.device)
    runtime, setting = find_runtime(w.runtime), setting_of(w)
    runtime.check(setting)
    anchor = profile.protocol.anchor
    here = not profile.check()  # an anchor's time on another machine says nothing
    with pinned(setting), torch.inference_mode():
        x = example_input(setting, w.input_size)
        cases: dict[str, Case] = {}
        for i, (label, candidate) in enumerate(candidates.items()):
            if progress is not None:
                progress("building", i, len(candidates))
            cases[label] = call_of(build_checked(runtime, candidate.build(), x, setting), x)
        return measure_rounds(
            cases,
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            rounds=rounds,
            block_s=NETWORK_BLOCK_S,
            min_s=min_s,
            seed=seed,
            progress=progress,
            reference_s=anchor.reference_s if here and anchor is not None else None,
        )
