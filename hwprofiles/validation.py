"""Validation: how far a profile predicts networks that nobody measured for it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from hwprofiles.candidates import Candidate, time_candidates
from hwprofiles.cost_profile import Profile
from hwprofiles.fit import relative_nnls
from hwprofiles.schema_validation import Scores, ValidatedNetwork, Validation
from hwprofiles.timing import MIN_ROUNDS, Progress, Rounds

# So many networks are measured a second time for the noise floor.
MEASURED_AGAIN = 6
LEAST = 4  # networks that scores say anything about
DENSE = "dense"


class Timed(Protocol):
    """A network's time: a measurement made here, or a line of a table."""

    @property
    def median_s(self) -> float: ...

    @property
    def spread(self) -> float: ...


def validate(
    profile: Profile,
    model: str,
    dense: Candidate,
    aligned: Sequence[Candidate],
    unaligned: Sequence[Candidate] = (),
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
    timed: Rounds | None = None,
) -> Validation:
    """Measure networks here and compare them with the profile's predictions.

    Args:
        profile: with its calibration; its setting is measured in.
        model: the uncut network's name.
        dense: the uncut network.
        aligned: cut networks whose widths are multiples of the channel divisor.
        unaligned: and others.
        rounds, min_s, seed, progress: see ``time_candidates``.
        timed: readings of ``validation_networks(dense, aligned, unaligned)`` where they have been
            taken already.

    Raises:
        ValueError: fewer than four networks at the channel divisor, one that the profile was
            calibrated on, or a setting that this machine does not have.
        ProfileError: a layer that the profile does not hold.
    """
    if len(aligned) < LEAST:
        raise ValueError(f"aligned: {len(aligned)} networks, allowed are {LEAST} or more")
    networks = validation_networks(dense, aligned, unaligned)
    known = set(profile.calibration.networks)
    for label, candidate in networks.items():
        if label != DENSE and candidate.digest() in known:
            raise ValueError(f"{label}: the profile was calibrated on this network")
    predicted = {label: c.predict_s(profile) for label, c in networks.items()}
    timed = timed or time_candidates(profile, networks, rounds, min_s, seed, progress)
    cut = [label for label in networks if label != DENSE]
    chosen = random.Random(seed).sample(cut, min(MEASURED_AGAIN, len(cut)))
    again = time_candidates(
        profile,
        {label: networks[label] for label in chosen},
        rounds,
        min_s * len(chosen) / len(networks),
        seed + 1,
        progress and (lambda stage, done, total: progress(f"again, {stage}", done, total)),
    )
    repeated = {label: m.median_s for label, m in again.measurements.items()}
    seen = [r.contention for r in (timed, again) if r.contention is not None]
    return judged(
        model,
        networks,
        predicted,
        timed.measurements,
        seed,
        verdict="noisy" if "noisy" in (timed.verdict, again.verdict) else "ok",
        contention=max(seen, default=None),
        again_s=repeated,
    )


def judged(
    model: str,
    networks: Mapping[str, Candidate],
    predicted: Mapping[str, float],
    measured: Mapping[str, Timed],
    seed: int,
    verdict: Literal["ok", "noisy"],
    contention: float | None = None,
    again_s: Mapping[str, float] | None = None,
) -> Validation:
    """What predictions are worth, by measurements that are there.

    Args:
        model: the uncut network's name.
        networks: from :func:`validation_networks`.
        predicted: seconds by label.
        measured: by label.
        seed: of the networks.
        verdict: on the measurements.
        contention: cores that others wanted meanwhile.
        again_s: seconds of those that were measured a second time.
    """
    again_s = again_s or {}
    seconds = {label: m.median_s for label, m in measured.items()}
    at = [label for label in networks if label.startswith("aligned")]
    off = [label for label in networks if label.startswith("unaligned")]
    ratio = seconds[DENSE] / predicted[DENSE]
    return Validation(
        model=model,
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        verdict=verdict,
        contention=contention,
        aligned=scores([predicted[n] for n in at], [seconds[n] for n in at]),
        unaligned=scores([predicted[n] for n in off], [seconds[n] for n in off]) if off else None,
        macs_alone=alone([networks[n].macs for n in at], [seconds[n] for n in at]),
        params_alone=alone([networks[n].params for n in at], [seconds[n] for n in at]),
        speed_up_error=float(np.mean([abs(predicted[n] * ratio / seconds[n] - 1) for n in at])),
        dense_error=1 / ratio - 1,
        noise_floor=(
            float(np.mean([abs(again_s[n] / seconds[n] - 1) for n in again_s])) if again_s else None
        ),
        networks=[
            ValidatedNetwork(
                label=label,
                aligned=label in at or label == DENSE,
                layers=len(c.layers),
                macs=c.macs,
                params=c.params,
                predicted_s=predicted[label],
                measured_s=seconds[label],
                spread=measured[label].spread,
                again_s=again_s.get(label),
            )
            for label, c in networks.items()
        ],
    )


def validation_networks(
    dense: Candidate, aligned: Sequence[Candidate], unaligned: Sequence[Candidate]
) -> dict[str, Candidate]:
    """The networks to time, by label."""
    networks = {DENSE: dense}
    networks |= {f"aligned {i}": c for i, c in enumerate(aligned)}
    return networks | {f"unaligned {i}": c for i, c in enumerate(unaligned)}


def scores(predicted: Sequence[float], measured: Sequence[float]) -> Scores:
    """How far predictions are from measurements, both in seconds."""
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    tau = float(kendalltau(predicted, measured).statistic) if len(errors) > 1 else 0.0
    return Scores(
        n=len(errors),
        mape=float(errors.mean()),
        within5=float((errors <= 0.05).mean()),
        within10=float((errors <= 0.10).mean()),
        max=float(errors.max()),
        kendall_tau=0.0 if math.isnan(tau) else tau,  # all predictions are equal
    )


def alone(sizes: Sequence[float], measured: Sequence[float]) -> Scores:
    """The scores of scale * size + offset, fitted to these measurements themselves."""
    seconds: NDArray[np.float64] = np.array(measured)
    rows = np.stack([np.array(sizes, dtype=float), np.ones(len(sizes))], axis=1)
    return scores((rows @ relative_nnls(rows, seconds)).tolist(), measured)


def with_validation(profile: Profile, results: Mapping[str, Validation]) -> Profile:
    """The profile with these validations; a model has one."""
    kept = [v for v in profile.validation if v.model not in results]
    return profile.model_copy(update={"validation": [*kept, *results.values()]})
