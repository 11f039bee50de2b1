"""Calibration: what layers cost in whole networks.

A layer in a chain of separately timed calls is not the layer inside a network: the clock is read in
between, caches differ, and a runtime that rewrites the graph has no such layer at all. So whole
networks, dense and cut at random, are measured, and the cost of every layer is fitted to them
(:mod:`hwprofiles.network_fit`). What layers take alone stays in the profile, to be read.

The dense networks were measured with their layers, too. Machines drift by some per cent between two
such sessions; costs and the dense networks' times are this one's, and the drift is written beside
them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from hwprofiles.assemble import (
    BYTES,
    UNITS,
    coefficients_section,
    cost_model,
    timed_again,
    weights_section,
)
from hwprofiles.candidates import Candidate, time_candidates
from hwprofiles.cost_profile import Profile
from hwprofiles.device import Fingerprint
from hwprofiles.fit import fit_weights
from hwprofiles.layers import LayerSpec
from hwprofiles.network_fit import NetworkFit, fit_network_weights, fit_networks
from hwprofiles.schema import (
    Calibration,
    ChannelDivisor,
    Created,
    EndToEnd,
    FitRange,
    Interval,
    LayerProfile,
    Protocol,
    Weights,
    Workload,
)
from hwprofiles.timing import MIN_ROUNDS, Progress, Rounds

# The dense networks count double: ratios to dense are taken of them.
DENSE_WEIGHT = 2.0


def uncalibrated(profile: Profile) -> Profile:
    """The same profile as if no cut network had been measured: layers alone, to one scale."""
    plain = Calibration(scale=profile.calibration.scale, n=len(profile.dense))
    return _with(profile, plain)


def calibrate(
    profile: Profile,
    dense: Mapping[str, Candidate],
    candidates: Sequence[Candidate],
    specs: Mapping[str, Sequence[LayerSpec]],
    rounds: int = MIN_ROUNDS,
    min_s: float = 8.0,
    seed: int = 0,
    progress: Progress | None = None,
    timed: Rounds | None = None,
    wall_s: float | None = None,
) -> Profile:
    """Measure whole networks here and fit the costs of the profile's layers to them.

    Args:
        profile: its setting is measured in.
        dense: model name -> the uncut network, of every model of the profile.
        candidates: cut networks, of all models together; about as many as there are layers.
        specs: model name -> the uncut network's layers, in order.
        rounds, min_s, seed, progress: see ``time_candidates``.
        timed: readings of ``calibration_networks(dense, candidates)``, and maybe of others, where
            they have been taken already.
        wall_s: and how long that took for these networks.

    Returns:
        The profile with a new calibration and new weights, whose dense networks are predicted by
        it.

    Raises:
        ValueError: fewer networks than ten, dense networks that are not the profile's models, or a
            setting that this machine does not have.
        ProfileError: a candidate runs a layer that the profile does not hold, or the networks'
            times are far from their layers' sums.
    """
    if set(dense) != set(profile.workload.models):
        raise ValueError(f"dense: {sorted(dense)}, the profile's are {profile.workload.models}")
    networks = calibration_networks(dense, candidates)
    for candidate in networks.values():
        candidate.predict_s(profile)  # every layer is known
    begin = time.perf_counter()
    timed = timed or time_candidates(profile, networks, rounds, min_s, seed, progress)
    now = [timed.measurements[f"dense {m}"].median_s for m in dense]
    then = [profile.dense[m].median_s for m in dense]
    drift = float(np.exp(np.mean(np.log(np.array(now) / np.array(then)))))
    made = list(networks.values())
    seconds = [timed.measurements[label].median_s for label in networks]
    fit = _fit(specs, made, seconds, len(dense), profile.workload, seed)
    calibration = _section(fit, profile.layers, made, profile.calibration.scale, seed).model_copy(
        update={
            "drift": drift - 1,
            "wall_s": time.perf_counter() - begin if wall_s is None else wall_s,
            "verdict": timed.verdict,
        }
    )
    weights = _weights(fit, specs, made, seconds, profile.workload)
    profile = profile.model_copy(
        update={
            "weights": weights,
            "layers": [_ranged(layer, made) for layer in profile.layers],
            "dense": {
                m: timed_again(profile.dense[m], timed.measurements[f"dense {m}"]) for m in dense
            },
        }
    )
    return _with(profile, calibration, dense).require_possible()


def calibration_networks(
    dense: Mapping[str, Candidate], candidates: Sequence[Candidate]
) -> dict[str, Candidate]:
    """The networks to time, by label."""
    networks = {f"dense {m}": c for m, c in dense.items()}
    return networks | {f"cut {i}": c for i, c in enumerate(candidates)}


def network_profile(
    name: str,
    created: Created,
    fingerprint: Fingerprint,
    workload: Workload,
    protocol: Protocol,
    divisor: ChannelDivisor,
    layers: Sequence[LayerProfile],
    dense: Mapping[str, EndToEnd],
    specs: Mapping[str, Sequence[LayerSpec]],
    networks: Sequence[Candidate],
    seconds: Sequence[float],
    seed: int,
) -> Profile:
    """A profile of a device that timed whole networks and nothing else.

    Args:
        layers: of the model's layers, none timed alone.
        dense: model name -> its uncut network; there is one model.
        specs: model name -> its layers, in order.
        networks: the uncut network first, then the cut ones.
        seconds: of each.
        seed: of the networks.

    Raises:
        ValueError: fewer than ten networks.
        ProfileError: times that no network can have.
    """
    fit = _fit(specs, networks, seconds, len(dense), workload, seed)
    calibration = _section(fit, layers, networks, None, seed).model_copy(
        update={"verdict": protocol.verdict}
    )
    profile = Profile(
        name=name,
        created=created,
        fingerprint=fingerprint,
        workload=workload,
        protocol=protocol,
        units=UNITS,
        weights=_weights(fit, specs, networks, seconds, workload),
        cost_model=cost_model(divisor, calibration),
        layers=list(layers),
        dense=dict(dense),
    )
    return _with(profile, calibration, dict(zip(dense, networks))).require_possible()


def _fit(
    specs: Mapping[str, Sequence[LayerSpec]],
    networks: Sequence[Candidate],
    seconds: Sequence[float],
    dense: int,
    workload: Workload,
    seed: int,
) -> NetworkFit:
    """``dense``: so many of the networks, the first ones, are uncut."""
    known = {spec.signature: spec for layers in specs.values() for spec in layers}
    weights = [DENSE_WEIGHT if i < dense else 1.0 for i in range(len(networks))]
    layers = [candidate.layers for candidate in networks]
    return fit_networks(known, layers, seconds, workload.batch_size, weights, seed)


def _section(
    fit: NetworkFit,
    layers: Sequence[LayerProfile],
    networks: Sequence[Candidate],
    scale: float | None,
    seed: int,
) -> Calibration:
    return Calibration(
        scale=scale,
        n=len(networks),
        layers={x.signature: coefficients_section(fit.coefficients[x.signature]) for x in layers},
        intervals={s: Interval(low_s=a, high_s=b) for s, (a, b) in fit.intervals.items()},
        unknowns=fit.unknowns,
        left_out_error=fit.left_out_error,
        left_out_p95=fit.left_out_p95,
        seed=seed,
        networks=[c.digest() for c in networks],
    )


def _weights(
    fit: NetworkFit,
    specs: Mapping[str, Sequence[LayerSpec]],
    networks: Sequence[Candidate],
    seconds: Sequence[float],
    workload: Workload,
) -> Weights:
    known = {spec.signature: spec for layers in specs.values() for spec in layers}
    layers = [candidate.layers for candidate in networks]
    size = BYTES[workload.dtype]
    alone = fit_weights(list(specs.values()), fit.coefficients, size)
    return weights_section(fit_network_weights(known, layers, seconds, alone, size, len(specs)))


def _ranged(layer: LayerProfile, networks: Sequence[Candidate]) -> LayerProfile:
    """The layer with the widths that it had in these networks, and alone."""
    runs = [e for c in networks for e in c.layers if e.signature == layer.signature]
    ins = [*layer.fit_range.in_channels, *(int(e.in_channels) for e in runs)]
    outs = [*layer.fit_range.out_channels, *(int(e.out_channels) for e in runs)]
    wider = FitRange(in_channels=(min(ins), max(ins)), out_channels=(min(outs), max(outs)))
    return layer.model_copy(update={"fit_range": wider})


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
