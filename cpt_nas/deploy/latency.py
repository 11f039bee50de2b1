"""Latency of a deployed network and of the dense one, measured, beside what was promised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cpt_nas.costs.cost_model import predict_latency
from cpt_nas.deploy.source import Source
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import dense_structure
from hwprofiles import Measurement, MissingLayers, Profile
from hwprofiles.cost_profile import describe_setting
from hwprofiles.runtimes.base import Runtime, Setting

DENSE, CUT = "dense", "cut"
MEASURED_S = 1.5  # a network, at least: fifteen rounds of a fast one are over in a machine's mood


@dataclass(frozen=True)
class Promise:
    """What a profile says.

    Attributes:
        name: of the profile.
        setting: that it holds in, in words.
        seconds: of the dense and of the cut network; none where it does not know their layers.
        notes: why it may not be what is measured, a sentence each.
    """

    name: str
    setting: str
    seconds: dict[str, float]
    notes: list[str]


@dataclass(frozen=True)
class Latency:
    """Seconds a call.

    Attributes:
        setting: in which they were measured, in words.
        measured: of the dense and of the cut network; of a network that was not cut only dense.
        promise: None where there is no profile.
    """

    setting: str
    measured: dict[str, Measurement]
    promise: Promise | None


def promised(
    profile: Profile, source: Source, dense: nn.Module, runtime: Runtime, setting: Setting
) -> Promise:
    """What a profile says of a network, and where it is of another setting than what is measured.

    Args:
        profile: to ask.
        source: of the cut network.
        dense: the uncut one.
        runtime, setting: that the measurement runs in.
    """
    w = profile.workload
    notes, seconds = [], {}
    stated = {
        "runtime": runtime.name,
        "device": setting.device.type,
        "input_size": tuple(source.input_size),
        "batch_size": setting.batch_size,
        "dtype": setting.precision,
        "threads": setting.threads,
        "channels_last": setting.channels_last,
    }
    if setting.device.type == "cuda" == w.device:
        del stated["threads"]  # they only launch
    differ = [
        f"{key} {getattr(w, key)}, measured in {value}"
        for key, value in stated.items()
        if getattr(w, key) != value
    ]
    if differ:
        notes.append(f"promised in another setting: {'; '.join(differ)}")
    elif elsewhere := profile.check():
        notes.append(f"promised for another machine: {'; '.join(map(str, elsewhere))}")
    example = torch.zeros(1, *source.input_size)
    uncut = dense_structure(
        find_branches(dense), source.structure.architecture, source.structure.model_kwargs
    )
    try:
        seconds = {
            label: predict_latency(structure, profile, dense, example)
            for label, structure in ((DENSE, uncut), (CUT, source.structure))
        }
    except MissingLayers:
        notes.append(f"{profile.name} was not measured on all layers of this network")
    return Promise(profile.name, describe_setting(profile), seconds, notes)
