"""Profiles one can trust: calibrated and validated on random cut networks, built and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

import hwprofiles
from cpt_nas.calibration.random_structures import candidate, random_structures
from cpt_nas.costs.cost_model import CostModel, build_cost
from cpt_nas.costs.terms import PARAMETER
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import dense_structure
from hwprofiles import Candidate, LayerSpec, Profile
from hwprofiles.schema_validation import Validation
from hwprofiles.timing import MIN_ROUNDS, Progress
from hwprofiles.validation import DENSE

# Networks that costs are fitted to: about one a coefficient, and no fewer or more than these.
FEWEST, MOST = 40, 120
# This share of the structures to validate on is off the channel divisor.
UNALIGNED = 1 / 3
LEAST_STRUCTURES = 6
# Apart from the seeds that users give, so that seed 0 calibrates and validates on others.
CALIBRATION_STREAM = 1 << 32


@dataclass(frozen=True)
class _Validated:
    """Networks of one model to validate on, apart from the dense one."""

    dense: Candidate
    aligned: list[Candidate]
    unaligned: list[Candidate]

    def networks(self) -> dict[str, Candidate]:
        return hwprofiles.validation_networks(self.dense, self.aligned, self.unaligned)


def calibrate(
    profile: Profile,
    models: Mapping[str, nn.Module],
    structures: int | None = None,
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Fit the costs of a profile's layers to random sub-networks, cut and measured here.

    Args:
        profile: as measured; its setting is measured in.
        models: the profile's models by name, uncut. They are not changed.
        structures: sub-networks, shared out evenly over the models; None: as many as there are
            coefficients to fit, :data:`FEWEST` to :data:`MOST`.
        rounds, min_s: see ``hwprofiles.candidates.time_candidates``.
        seed: of the structures and the order of measuring.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a model in which nothing can be gated, or a setting that is not available here.
    """
    made = _to_calibrate(profile, models, structures, seed)
    return hwprofiles.calibrate(
        profile, made.dense, made.cut, made.specs, rounds, min_s, seed, progress
    )


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

    Two thirds are at the channel divisor and one third off it; with a divisor of 1 all are at it.

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
    used = list(profile.calibration.networks)
    made = _to_validate(profile, name, model, structures, seed, used)
    return hwprofiles.validate(
        profile, name, made.dense, made.aligned, made.unaligned, rounds, min_s, seed, progress
    )


def calibrate_and_validate(
    profile: Profile,
    models: Mapping[str, nn.Module],
    structures: int = 30,
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Both at once: all networks are measured in one set of interleaved rounds.

    A machine's speed drifts by some per cent between two sessions. Here the networks that the
    profile is calibrated on and those that it is judged on saw the same machine, so the errors are
    the prediction's. How far another session is off, a second profile or ``validate`` tells.

    Args:
        structures: sub-networks of every model to validate on, 6 or more.
        min_s: seconds for the calibration's networks, and as many for every model's others.

    Raises:
        ValueError: as :func:`calibrate` and :func:`validate`.
    """
    fitted = _to_calibrate(profile, models, None, seed)
    networks = hwprofiles.calibration_networks(fitted.dense, fitted.cut)
    own = len(networks)
    used = [c.digest() for c in networks.values()]
    judged = {n: _to_validate(profile, n, m, structures, seed, used) for n, m in models.items()}
    for name, made in judged.items():
        networks |= {f"{name}: {label}": c for label, c in made.networks().items()}
        del networks[f"{name}: {DENSE}"]  # is among the calibration's
    seconds = min_s * (1 + len(models))
    begin = time.perf_counter()
    timed = hwprofiles.time_candidates(profile, networks, rounds, seconds, seed, progress)
    wall_s = own / len(networks) * (time.perf_counter() - begin)
    profile = hwprofiles.calibrate(
        profile, fitted.dense, fitted.cut, fitted.specs, seed=seed, timed=timed, wall_s=wall_s
    )
    results = {}
    for name, made in judged.items():
        readings = {DENSE: timed.measurements[f"dense {name}"]}
        readings |= {
            label: timed.measurements[f"{name}: {label}"]
            for label in made.networks()
            if label != DENSE
        }
        results[name] = hwprofiles.validate(
            profile,
            name,
            made.dense,
            made.aligned,
            made.unaligned,
            rounds,
            min_s,
            seed,
            progress,
            timed=replace(timed, measurements=readings),
        )
    return hwprofiles.with_validation(profile, results)


@dataclass(frozen=True)
class _Fitted:
    """Networks to fit to, and the uncut models' layers in order."""

    dense: dict[str, Candidate]
    cut: list[Candidate]
    specs: dict[str, list[LayerSpec]]


def _to_calibrate(
    profile: Profile, models: Mapping[str, nn.Module], structures: int | None, seed: int
) -> _Fitted:
    costs = {n: _cost(m, n, hwprofiles.uncalibrated(profile)) for n, m in models.items()}
    specs = {n: [t.layer for t in c.terms if t.layer.type != PARAMETER] for n, c in costs.items()}
    if structures is None:
        wanted = sum(_unknowns(c) for c in costs.values())
        structures = min(MOST, max(FEWEST * len(models), wanted))
    dense, cut = {}, []
    for i, (name, model) in enumerate(models.items()):
        dense[name] = _dense(model, costs[name])
        share = structures // len(models) + (i < structures % len(models))
        drawn = random_structures(
            model, costs[name], share, CALIBRATION_STREAM + seed, profile.channel_divisor
        )
        cut += [candidate(model, costs[name], s) for s in drawn]
    return _Fitted(dense, cut, specs)


def _unknowns(cost: CostModel) -> int:
    """Coefficients that cut networks can tell: those of widths that a gate can narrow."""
    gated: dict[str, tuple[bool, bool]] = {}
    for term in cost.terms:
        a, b = gated.get(term.layer.signature, (False, False))
        b_now = term.layer.form == "dense" and term.group_out is not None
        gated[term.layer.signature] = (a or term.group_in is not None, b or b_now)
    return sum((1 + a) * (1 + b) for a, b in gated.values())


def _to_validate(
    profile: Profile,
    name: str,
    model: nn.Module,
    structures: int,
    seed: int,
    used: Sequence[str],
) -> _Validated:
    if structures < LEAST_STRUCTURES:
        raise ValueError(f"structures: {structures}, allowed are {LEAST_STRUCTURES} or more")
    cost = _cost(model, name, profile)
    divisor = profile.channel_divisor
    off = 0 if divisor == 1 else round(UNALIGNED * structures)
    aligned = random_structures(model, cost, structures - off, seed, divisor, exclude=used)
    made = [candidate(model, cost, s) for s in aligned]
    used = [*used, *(c.digest() for c in made)]
    unaligned = random_structures(model, cost, off, seed, divisor, aligned=False, exclude=used)
    return _Validated(_dense(model, cost), made, [candidate(model, cost, s) for s in unaligned])


def _dense(model: nn.Module, cost: CostModel) -> Candidate:
    return candidate(model, cost, dense_structure(find_branches(model), "", {}))


def _cost(model: nn.Module, name: str, profile: Profile) -> CostModel:
    example = torch.zeros(1, *profile.workload.input_size)
    cost = build_cost(model, example, find_branches(model), profile)
    if not cost.branches and not cost.groups:
        raise ValueError(f"model: nothing can be gated in {name}, so there is nothing to cut")
    return cost
