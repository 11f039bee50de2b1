"""Profiles one can trust: calibrated and validated on random cut networks, built and measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

import hwprofiles
from cpt_nas.calibration.random_structures import TooFew, candidate, random_structures
from cpt_nas.costs.cost_model import CostModel, build_cost
from cpt_nas.costs.terms import PARAMETER
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import dense_structure
from hwprofiles import Candidate, Profile
from hwprofiles.schema_validation import Validation
from hwprofiles.timing import MIN_ROUNDS, Progress, Rounds
from hwprofiles.validation import DENSE

# So many cut networks a model are measured at a time, until those that are left out of the fit are
# predicted with this mean error, or a batch has not lessened it by this share, or there are as many
# as this, a model.
BATCH, MOST = 40, 200
ENOUGH = 0.02
LEAST_GAIN = 0.1
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
        structures: sub-networks, shared out evenly over the models; None: :data:`BATCH` a model at
            a time, until networks that are left out of the fit are predicted well
            (:func:`is_enough`).
        rounds, min_s: see ``hwprofiles.candidates.time_candidates``; for every batch.
        seed: of the structures and the order of measuring.
        progress: called with (stage, done, total).

    Raises:
        ValueError: a model in which nothing can be gated, or a setting that is not available here.
    """
    fit = _Fit(profile, models, seed)
    fit.draw(BATCH * len(models) if structures is None else structures, ())
    session = _Session(profile, rounds, min_s, seed, progress)
    fit.add(session.time(fit.networks()), session.wall_s)
    return fit.profile() if structures is not None else _fitted_well(fit, session, ())


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
    fit = _Fit(profile, models, seed)
    fit.draw(BATCH * len(models), ())
    networks = fit.networks()
    own = len(networks)
    used = [c.digest() for c in networks.values()]
    judged = {n: _to_validate(profile, n, m, structures, seed, used) for n, m in models.items()}
    for name, made in judged.items():
        networks |= {f"{name}: {label}": c for label, c in made.networks().items()}
        del networks[f"{name}: {DENSE}"]  # is among the calibration's
    session = _Session(profile, rounds, min_s, seed, progress)
    timed = session.time(networks, share=1 + len(models))
    fit.add(timed, own / len(networks) * session.wall_s)
    profile = _fitted_well(fit, session, [c.digest() for c in networks.values()])
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


def is_enough(errors: Sequence[float], networks: int, models: int = 1) -> bool:
    """Whether more networks would not tell more.

    Args:
        errors: left-out error after each batch, the last one's last.
        networks: that were measured in all, the dense ones not counted.
        models: of the profile.
    """
    if errors[-1] <= ENOUGH or networks + BATCH * models > MOST * models:
        return True
    return len(errors) > 1 and errors[-1] > (1 - LEAST_GAIN) * errors[-2]


def _fitted_well(fit: _Fit, session: _Session, used: Sequence[str]) -> Profile:
    """Measure further batches until it is enough. ``used``: networks that none may be."""
    profile = fit.profile()
    errors = [_left_out(profile)]
    while not is_enough(errors, len(fit.cut), len(fit.models)):
        session.note = f"{len(fit.cut)} networks, left out {errors[-1]:.1%} off, "
        try:
            labels = fit.draw(BATCH * len(fit.models), used)
        except TooFew:
            break  # the model has no more
        fit.add(session.time(labels), session.wall_s)
        profile = fit.profile()
        errors.append(_left_out(profile))
    return profile


def _left_out(profile: Profile) -> float:
    error = profile.calibration.left_out_error
    assert error is not None  # cut networks were measured
    return error


@dataclass
class _Session:
    """Times batches of networks in the profile's setting, and says what it is at."""

    profile: Profile
    rounds: int
    min_s: float
    seed: int
    progress: Progress | None
    note: str = ""
    wall_s: float = 0.0

    def time(self, networks: Mapping[str, Candidate], share: int = 1) -> Rounds:
        """``share``: so many times ``min_s`` at least. Afterwards ``wall_s`` is what it took."""
        begin = time.perf_counter()
        timed = hwprofiles.time_candidates(
            self.profile, networks, self.rounds, share * self.min_s, self.seed, self._report
        )
        self.wall_s = time.perf_counter() - begin
        return timed

    def _report(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.note + stage, done, total)


class _Fit:
    """Networks to fit a profile's costs to, batch by batch, and their readings."""

    def __init__(self, profile: Profile, models: Mapping[str, nn.Module], seed: int) -> None:
        plain = hwprofiles.uncalibrated(profile)
        self.models = models
        self.cut: list[Candidate] = []
        self._measured = profile
        self._seed = seed
        self._costs = {n: _cost(m, n, plain) for n, m in models.items()}
        self._dense = {n: _dense(m, self._costs[n]) for n, m in models.items()}
        self._dense_labels = list(hwprofiles.calibration_networks(self._dense, []))
        self._timed: Rounds | None = None
        self._wall_s = 0.0
        self._batches = 0

    def networks(self) -> dict[str, Candidate]:
        """All by label."""
        return hwprofiles.calibration_networks(self._dense, self.cut)

    def draw(self, count: int, used: Sequence[str]) -> dict[str, Candidate]:
        """So many more cut networks; these and the dense ones by label.

        Raises:
            TooFew: a model has no more.
        """
        batch = []
        for i, (name, model) in enumerate(self.models.items()):
            share = count // len(self.models) + (i < count % len(self.models))
            drawn = random_structures(
                model,
                self._costs[name],
                share,
                CALIBRATION_STREAM * (1 + self._batches) + self._seed,
                self._measured.channel_divisor,
                exclude=[*used, *(c.digest() for c in self.cut)],
            )
            batch += [candidate(model, self._costs[name], s) for s in drawn]
        known = {*self.networks()} - {*self._dense_labels}
        self.cut += batch
        self._batches += 1
        return {label: c for label, c in self.networks().items() if label not in known}

    def add(self, timed: Rounds, wall_s: float) -> None:
        """Readings of the last batch; the dense networks say how fast the machine was then."""
        if self._timed is None:
            self._timed = timed
        else:
            self._timed = self._timed.joined(timed, self._dense_labels)
        self._wall_s += wall_s

    def profile(self) -> Profile:
        """The profile, fitted to all of them."""
        specs = {
            name: [t.layer for t in cost.terms if t.layer.type != PARAMETER]
            for name, cost in self._costs.items()
        }
        return hwprofiles.calibrate(
            self._measured,
            self._dense,
            self.cut,
            specs,
            seed=self._seed,
            timed=self._timed,
            wall_s=self._wall_s,
        )


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
