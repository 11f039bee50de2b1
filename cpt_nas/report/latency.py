"""Latency of finished runs in the settings of profiles: predicted layer by layer, and measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import timm
import torch
from rich.console import Console

import hwprofiles
from cpt_nas.deploy.source import load_network
from cpt_nas.pruning.export import FILES
from cpt_nas.report.rows import LatencyRow
from cpt_nas.train.run_folder import Run
from cpt_nas.train.run_rows import columns
from hwprofiles import Profile
from hwprofiles.cost_profile import describe_setting, setting_of
from hwprofiles.messages import naming
from hwprofiles.runtimes import find_runtime
from hwprofiles.streams import PlainConsole
from hwprofiles.terminal import progress_bar
from hwprofiles.time_limit import TimeLimit

NAN = float("nan")
MEASURED_S = 1.5  # a network, at least: fifteen rounds of a fast one are over in a machine's mood


@dataclass(frozen=True)
class Latency:
    """Seconds a forward pass of a whole batch takes.

    Attributes:
        table: a row a run and profile; columns as in :class:`LatencyRow`, NaN where not known.
        settings: profile name -> what its setting is, in words.
        notes: what a reader has to know about the numbers, a sentence each.
    """

    table: pd.DataFrame
    settings: dict[str, str]
    notes: list[str]


def load_profiles(profiles: Sequence[str | Path], runs: Sequence[Run]) -> dict[str, Profile]:
    """Profiles by name; where none is given, those the runs were searched under.

    Raises:
        ValueError: a file that is no profile, or two of one name.
    """
    found: dict[str, Profile] = {}
    for source in profiles or [run.profile for run in runs if run.profile is not None]:
        profile = hwprofiles.load(source)
        known = found.setdefault(profile.name, profile)
        if known != profile:
            raise ValueError(f"profile: two are named {profile.name!r}; rename one in its file")
    return found


def latency(
    runs: Sequence[Run],
    profiles: dict[str, Profile],
    measure: bool = False,
    console: Console | None = None,
    time_limit: float = math.inf,
) -> Latency:
    """Predict, and if asked measure, every finished run under every profile.

    All networks of one setting are measured against each other, in interleaved rounds.

    Args:
        runs: unfinished ones stay NaN.
        profiles: by name.
        measure: run the exported networks here, in each profile's setting.
        console: where progress goes; None: nowhere.
        time_limit: seconds that measuring may take, of all profiles together.

    Raises:
        ValueError: a setting that this machine cannot run, or a broken export; names it.
        TimeoutError: the time is over; names the profile.
    """
    finished = [run for run in runs if run.finished]
    if measure:
        for name, profile in profiles.items():
            _refuse_unmeasurable(name, profile)
    rows, notes, limit = [], [], TimeLimit(time_limit)
    for name, profile in profiles.items():
        notes += [f"{name} is doubtful: {doubt}." for doubt in profile.doubts()]
        predicted, unknown = predict(finished, profile)
        if unknown:
            notes.append(
                f"{name} was not measured on all layers of {', '.join(unknown)}: no prediction."
            )
        measured = {}
        if measure and finished:
            measured = _measure(finished, name, profile, console, limit)
        if measure:
            notes += _differences(name, profile)
        noisy = [label for label, m in measured.items() if m.verdict != "ok"]
        if noisy:
            notes.append(f"{name}: noisy measurements of {', '.join(noisy)}; measure again.")
        for run in runs:
            m = measured.get(run.name)
            rows.append(
                LatencyRow(
                    run=run.name,
                    profile=name,
                    runtime=profile.workload.runtime,
                    predicted_s=predicted.get(run.name, NAN),
                    measured_s=m.median_s if m else NAN,
                    q25_s=m.q25_s if m else NAN,
                    q75_s=m.q75_s if m else NAN,
                    n=m.n if m else NAN,
                    verdict=m.verdict if m else None,
                )
            )
    settings = {name: describe_setting(profile) for name, profile in profiles.items()}
    return Latency(pd.DataFrame(rows, columns=columns(LatencyRow)), settings, notes)


def predict(runs: Sequence[Run], profile: Profile) -> tuple[dict[str, float], list[str]]:
    """(run name -> seconds, names of runs with layers that the profile does not know).

    Raises:
        ValueError: a run whose structure cannot be built; names its folder.
    """
    from cpt_nas.costs.cost_model import predict_latency

    seconds, unknown = {}, []
    for run in runs:
        assert run.structure is not None, "finished"
        example = torch.zeros(1, *run.recipe.data.input_size)
        with naming(f"run: {run.folder}: its structure.json does not make a network"):
            run.structure.require_rebuildable()
            dense = timm.create_model(run.structure.architecture, **run.structure.model_kwargs)
            try:
                seconds[run.name] = predict_latency(run.structure, profile, dense, example)
            except hwprofiles.MissingLayers:
                unknown.append(run.name)
    return seconds, unknown


def _refuse_unmeasurable(name: str, profile: Profile) -> None:
    """Raises ValueError where this machine cannot run a profile's setting."""
    w = profile.workload
    if w.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"profile {name}: its setting is cuda, and there is no CUDA device here")
    with naming(f"profile {name}"):
        find_runtime(w.runtime).check(setting_of(w))


def _measure(
    runs: Sequence[Run], name: str, profile: Profile, console: Console | None, limit: TimeLimit
) -> dict[str, hwprofiles.Measurement]:
    w = profile.workload
    generator = torch.Generator().manual_seed(0)
    models = {}
    for run in runs:
        shape = (w.batch_size, *run.recipe.data.input_size)
        x = torch.randn(shape, generator=generator).to(w.device, getattr(torch, w.dtype))
        models[run.name] = (load_export(run), x)
    with progress_bar(console or PlainConsole(quiet=True)) as report:

        def progress(stage: str, done: int, total: int) -> None:
            report(f"{name}: {stage}", done, total)
            limit(f"{name}: {stage}", done, total)

        return hwprofiles.time_models(
            models,
            threads=w.threads,
            min_s=MEASURED_S * len(models),
            channels_last=w.channels_last,
            runtime=w.runtime,
            progress=progress,
        )


def load_export(run: Run) -> torch.nn.Module:
    """The finished network, as a user loads it.

    Raises:
        ValueError: the export is missing or broken; names the folder.
    """
    for file in FILES:
        if not (run.export / file).is_file():
            raise ValueError(f"run: {run.folder} has no export/{file}, although it is finished")
    return load_network(run.export)


def _differences(name: str, profile: Profile) -> list[str]:
    listed = "; ".join(str(difference) for difference in profile.check())
    notes = [f"{name} was made elsewhere, measured here: {listed}."] if listed else []
    kept = profile.workload.keeps_freed_memory, hwprofiles.keep_freed_memory()
    if kept[0] != kept[1]:
        then, here = ("kept" if k else "returned" for k in kept)
        notes.append(f"{name} was measured while freed memory was {then}, here it is {here}.")
    return notes
