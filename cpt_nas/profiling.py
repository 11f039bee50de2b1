"""Profiles one can trust: calibrated and validated on random cut networks, built and measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

import hwprofiles
from cpt_nas.candidates import candidate, random_structures
from cpt_nas.cost import Cost, build_cost
from cpt_nas.structure import dense_structure
from hwprofiles import Candidate, Profile
from hwprofiles.schema import Validation
from hwprofiles.timing import MIN_ROUNDS, Progress

CALIBRATED_ON = 10
# This share of the structures to validate on is off the channel step.
OFF_STEP = 1 / 3
LEAST_STRUCTURES = 6
# Apart from the seeds that users give, so that seed 0 calibrates and validates on others.
CALIBRATION_STREAM = 1 << 32


def calibrate(
    profile: Profile,
    models: Mapping[str, nn.Module],
    structures: int = CALIBRATED_ON,
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Calibrate a profile on random sub-networks of its models, cut and measured here.

    Args:
        profile: as measured; its setting is measured in.
        models: the profile's models by name, uncut. They are not changed.
        structures: sub-networks, shared out evenly over the models.
        rounds, min_s: see ``hwprofiles.candidates.time_candidates``.
        seed: of the structures and the order of measuring.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a model in which nothing can be gated, or a setting that is not available here.
    """
    dense, cut = {}, []
    for i, (name, model) in enumerate(models.items()):
        cost = _cost(model, name, hwprofiles.uncalibrated(profile))
        dense[name] = _dense(model, cost)
        share = structures // len(models) + (i < structures % len(models))
        drawn = random_structures(
            model, cost, share, CALIBRATION_STREAM + seed, profile.channel_step
        )
        cut += [candidate(model, cost, s) for s in drawn]
    return hwprofiles.calibrate(profile, dense, cut, rounds, min_s, seed, progress)


def validate(
    profile: Profile,
    name: str,
    model: nn.Module,
    structures: int = 30,
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Validation:
    """Predict random sub-networks that the profile was not calibrated on, and measure them here.

    Two thirds are at the channel step and one third off it; with a step of 1 all are at it.

    Args:
        profile: with its calibration; its setting is measured in.
        name: of the model.
        model: uncut. It is not changed.
        structures: sub-networks, 6 or more.
        rounds, min_s: see ``hwprofiles.candidates.time_candidates``.
        seed: of the structures and the order of measuring.
        progress: called with (stage, done, total).

    Raises:
        ValueError: too few structures, a model in which nothing can be gated, layers that the
            profile does not hold, or a setting that is not available here.
    """
    if structures < LEAST_STRUCTURES:
        raise ValueError(f"structures: {structures}, allowed are {LEAST_STRUCTURES} or more")
    cost = _cost(model, name, profile)
    step, used = profile.channel_step, list(profile.calibration.networks)
    off = 0 if step == 1 else round(OFF_STEP * structures)
    at_step = random_structures(model, cost, structures - off, seed, step, exclude=used)
    made = [candidate(model, cost, s) for s in at_step]
    used += [c.digest() for c in made]
    off_step = random_structures(model, cost, off, seed, step, aligned=False, exclude=used)
    return hwprofiles.validate(
        profile,
        name,
        _dense(model, cost),
        made,
        [candidate(model, cost, s) for s in off_step],
        rounds,
        min_s,
        seed,
        progress,
    )


def _dense(model: nn.Module, cost: Cost) -> Candidate:
    return candidate(model, cost, dense_structure(model, "", {}))


def _cost(model: nn.Module, name: str, profile: Profile) -> Cost:
    cost = build_cost(model, torch.zeros(1, *profile.workload.input_size), profile)
    if not cost.branches and not cost.groups:
        raise ValueError(f"model: nothing can be gated in {name}, so there is nothing to cut")
    return cost
