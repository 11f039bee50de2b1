"""Calibration: from sums of layers to whole networks.

A layer in a chain of separately timed calls is not quite the layer inside a network: the clock is
read in between, caches differ, and a network does things between its layers that no layer does. So
whole networks, dense and cut at random, are measured, and

    network = scale * (by_form[dense] * convolutions and linear layers + by_form[channel] * others)
              + per_layer_s * number of layers

is fitted to them. It changes layers' coefficients only, so that a network's cost stays multilinear
in its widths.

The dense networks were measured with their layers, too. Machines drift by some per cent between two
such sessions; the fit takes this one's times, and the drift is written beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwprofiles.candidates import Candidate, time_candidates
from hwprofiles.fit import relative_nnls
from hwprofiles.layers import Form
from hwprofiles.profile_file import Profile
from hwprofiles.schema import Calibration
from hwprofiles.timing import MIN_ROUNDS, Progress, Rounds

# The dense networks count double: ratios to dense are taken of them.
DENSE_WEIGHT = 2.0
# How strongly the two factors are drawn to one common scale, and the constant to zero. Without it
# ten networks would fit the noise.
SHRINKAGE = 0.3
# Above this the two sessions disagree so much that the verdict is noisy.
MAX_DRIFT = 0.05
FORMS: tuple[Form, ...] = ("dense", "channel")


def uncalibrated(profile: Profile) -> Profile:
    """The same profile with networks as plain sums of their layers."""
    plain = Calibration(scale=1.0, offset_s=0.0, n=1)
    return _with(profile, plain)


def calibrate(
    profile: Profile,
    dense: Mapping[str, Candidate],
    candidates: Sequence[Candidate],
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
    timed: Rounds | None = None,
    wall_s: float | None = None,
) -> Profile:
    """Measure whole networks here and fit the profile's calibration to them.

    Args:
        profile: its setting is measured in, its layers' costs are summed.
        dense: model name -> the uncut network, of every model of the profile.
        candidates: cut networks, about ten.
        rounds, min_s, seed, progress: see ``time_candidates``.
        timed: readings of ``calibration_networks(dense, candidates)``, and maybe of others, where
            they have been taken already.
        wall_s: and how long that took for these networks.

    Returns:
        The profile with a new calibration, whose dense networks are predicted by it.

    Raises:
        ValueError: fewer than three candidates, dense networks that are not the profile's models,
            or a setting that this machine does not have.
        ProfileError: a candidate runs a layer that the profile does not hold, or the networks'
            times are far from their layers' sums.
    """
    if len(candidates) < 3:
        raise ValueError(f"candidates: {len(candidates)}, allowed are 3 or more")
    if set(dense) != set(profile.workload.models):
        raise ValueError(f"dense: {sorted(dense)}, the profile's are {profile.workload.models}")
    networks = calibration_networks(dense, candidates)
    table = features(profile, list(networks.values()))
    begin = time.perf_counter()
    timed = timed or time_candidates(profile, networks, rounds, min_s, seed, progress)
    now = [timed.measurements[f"dense {m}"].median_s for m in dense]
    then = [profile.dense[m].median_s for m in dense]
    drift = float(np.exp(np.mean(np.log(np.array(now) / np.array(then)))))
    seconds = np.array([timed.measurements[label].median_s for label in networks])
    weights = np.array([DENSE_WEIGHT if label.startswith("dense") else 1.0 for label in networks])
    left_out = [_error_without(table, seconds, weights, i) for i in range(len(dense), len(seconds))]
    scale, by_form, per_layer_s = fit_calibration(table, seconds, weights)
    calibration = Calibration(
        scale=scale,
        offset_s=0.0,
        n=len(networks),
        by_form=by_form,
        per_layer_s=per_layer_s,
        left_out_error=float(np.mean(left_out)),
        seed=seed,
        drift=drift - 1,
        wall_s=time.perf_counter() - begin if wall_s is None else wall_s,
        verdict="noisy" if timed.verdict == "noisy" or abs(drift - 1) > MAX_DRIFT else "ok",
        networks=[c.digest() for c in networks.values()],
    )
    return _with(profile, calibration, dense).require_possible()


def calibration_networks(
    dense: Mapping[str, Candidate], candidates: Sequence[Candidate]
) -> dict[str, Candidate]:
    """The networks to time, by label."""
    networks = {f"dense {m}": c for m, c in dense.items()}
    return networks | {f"cut {i}": c for i, c in enumerate(candidates)}


def features(profile: Profile, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """[networks, 3]: seconds in 'dense' layers, seconds in 'channel' layers, number of layers."""
    plain = uncalibrated(profile)
    rows = []
    for candidate in candidates:
        sums: dict[Form, float] = dict.fromkeys(FORMS, 0.0)
        for e in candidate.layers:
            cost = plain.cost(e.signature).at(e.in_channels, e.out_channels)
            sums[plain.layer(e.signature).form] += cost
        rows.append([*(sums[form] for form in FORMS), float(len(candidate.layers))])
    return np.array(rows)


def fit_calibration(
    table: NDArray[np.float64], seconds: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, dict[Form, float], float]:
    """Fit to whole networks by relative error, nothing negative, shrunk to one common scale.

    Args:
        table: from ``features``.
        seconds: [networks], measured.
        weights: [networks], how much each counts.

    Returns:
        (scale, form -> factor on top of it, seconds a layer)
    """
    ratio = table[:, :2].sum(axis=1) / seconds * weights
    scale = float((ratio * weights).sum() / (ratio**2).sum())
    # A further row a feature draws it to its prior. Rows are relative: seconds 1 leaves them as is.
    relative = table / seconds[:, None] * weights[:, None]
    strength = SHRINKAGE * np.sqrt((relative**2).mean(axis=0))
    prior = np.array([scale, scale, 0.0])
    rows = np.vstack([relative, np.diag(strength)])
    # relative_nnls wants positive targets; a prior of zero needs none but a vanishing one.
    targets = np.concatenate([weights, np.maximum(strength * prior, 1e-12)])
    x = relative_nnls(rows, targets, targets)
    return scale, dict(zip(FORMS, (x[:2] / scale).tolist(), strict=True)), float(x[2])


def _error_without(
    table: NDArray[np.float64],
    seconds: NDArray[np.float64],
    weights: NDArray[np.float64],
    left_out: int,
) -> float:
    """Relative error of one network, predicted from the others."""
    rest = np.arange(len(seconds)) != left_out
    scale, by_form, per_layer = fit_calibration(table[rest], seconds[rest], weights[rest])
    x = np.array([*(scale * by_form[form] for form in FORMS), per_layer])
    return float(abs(table[left_out] @ x / seconds[left_out] - 1))


def _with(
    profile: Profile, calibration: Calibration, dense: Mapping[str, Candidate] | None = None
) -> Profile:
    model = profile.cost_model.model_copy(update={"calibration": calibration})
    profile = profile.model_copy(update={"cost_model": model, "validation": []})
    if dense is None:
        return profile
    ends = {
        name: profile.dense[name].model_copy(
            update={
                "calibrated_error": c.predict_s(profile) / profile.dense[name].median_s - 1,
            }
        )
        for name, c in dense.items()
    }
    return profile.model_copy(update={"dense": ends})
