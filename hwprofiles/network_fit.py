"""What layers cost, seen on whole networks alone.

A runtime that rewrites the graph has no layers that could be timed one by one: it fuses, pads and
reorders. But whole networks can be timed in every runtime, and a network's cost is multilinear in
its widths: every signature has up to four unknowns (:func:`hwprofiles.layers.layer_cost`), and a
network is the sum of its layers. So many random cut networks are timed, and

    seconds of network i = sum over its layers of layer_cost(unknowns of the signature, widths)

is solved for the unknowns by relative error, none negative. There may be more unknowns than
networks: each is drawn faintly to a prior, its share of what layers, multiply-adds and moved bytes
cost on average in the same networks. What cannot be told apart, as a convolution from the norm that
always follows it, shares the cost; the sum is what a search needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwprofiles.candidates import Executed
from hwprofiles.fit import WEIGHT_LAYERS, WeightsFit, relative_nnls
from hwprofiles.layers import Coefficients, LayerSpec

# How strongly unknowns are drawn to the prior; that of the smallest left-out error is taken.
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
FOLDS = 10
# Fits to random halves of the networks say how well each layer is known.
HALVES = 10
INTERVAL = (0.1, 0.9)
BYTES_PER_NUMBER = 4

Table = NDArray[np.float64]


@dataclass(frozen=True)
class NetworkFit:
    """Costs of layers, and how far they are from networks that they were not fitted to.

    Attributes:
        coefficients: signature -> seconds as a function of the widths, one call of the layer.
        left_out_error: mean relative error of a tenth of the networks predicted from the others.
        left_out_p95: 95 % of these errors are smaller.
        strength: how strongly the unknowns were drawn to the prior.
        unknowns: how many there were.
        intervals: signature -> from where to where 80 % of the costs at full width lie, of fits to
            other halves of the networks.
    """

    coefficients: dict[str, Coefficients]
    left_out_error: float
    left_out_p95: float
    strength: float
    unknowns: int
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class _Unknown:
    """One coefficient of one signature; ``basis`` has a 1 where it is."""

    spec: LayerSpec
    basis: Coefficients

    def of(self, layer: Executed) -> float:
        """What the layer adds to a network for one second of this unknown, at dense widths 1."""
        return self.basis.at(
            layer.in_channels / self.spec.in_channels, layer.out_channels / self.spec.out_channels
        )


def fit_networks(
    specs: Mapping[str, LayerSpec],
    networks: Sequence[Sequence[Executed]],
    seconds: Sequence[float],
    batch_size: int = 1,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> NetworkFit:
    """Layers' costs from whole networks.

    Args:
        specs: signature -> the layer; all that the networks run.
        networks: the layers that each runs.
        seconds: of each, positive.
        batch_size: examples a call.
        weights: how much each network counts; default 1.
        seed: of which networks are left out together.

    Raises:
        ValueError: fewer networks than ``FOLDS``.
    """
    if len(networks) < FOLDS:
        raise ValueError(f"networks: {len(networks)}, allowed are {FOLDS} or more")
    unknowns = _unknowns(specs, networks)
    table = _table(unknowns, networks)
    times: Table = np.array(seconds)
    counts: Table = np.ones(len(times)) if weights is None else np.array(weights, dtype=float)
    coarse = _coarse(specs, networks, batch_size)
    folds = np.arange(len(times)) % FOLDS
    np.random.default_rng(seed).shuffle(folds)
    best: tuple[float, float, float] | None = None
    for strength in STRENGTHS:
        errors = np.zeros(len(times))
        for fold in range(FOLDS):
            rest = folds != fold
            x = _solve(
                table[rest],
                times[rest],
                counts[rest],
                strength,
                _prior(unknowns, coarse[rest], times[rest], batch_size),
            )
            errors[~rest] = np.abs(table[~rest] @ x / times[~rest] - 1)
        mean = float(errors.mean())
        if best is None or mean < best[0]:
            best = (mean, float(np.quantile(errors, 0.95)), strength)
    assert best is not None
    error, p95, strength = best
    x = _solve(table, times, counts, strength, _prior(unknowns, coarse, times, batch_size))
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(HALVES):
        half = rng.permutation(len(times))[: len(times) // 2]
        prior = _prior(unknowns, coarse[half], times[half], batch_size)
        halves.append(_solve(table[half], times[half], counts[half], strength, prior))
    return NetworkFit(
        _coefficients(specs, unknowns, x),
        error,
        p95,
        strength,
        len(unknowns),
        _intervals(unknowns, np.array(halves)),
    )


def fit_network_weights(
    specs: Mapping[str, LayerSpec],
    networks: Sequence[Sequence[Executed]],
    seconds: Sequence[float],
    layers: WeightsFit,
    bytes_per_param: int,
    dense: int,
) -> WeightsFit:
    """The three coarse weights, of whole networks.

    What a layer costs beside its multiply-adds and parameters is told by networks of other depths
    and widths. How the two share the rest is not: they grow alike with the widths, so that any
    share fits. Single layers tell it, whose ratios of the two are far apart.

    Args:
        specs: signature -> the layer; all that the networks run.
        networks: the layers that each runs, the ``dense`` uncut ones first.
        seconds: of each, positive.
        layers: the fit to single layers, for the ratio of multiply-adds to parameters.
        bytes_per_param: of the workload's dtype.
        dense: how many networks are uncut; the shares are those of their time.
    """
    rows = np.zeros((len(networks), 3))
    for i, network in enumerate(networks):
        for layer in network:
            spec = specs[layer.signature]
            macs = spec.macs_coefficients.at(layer.in_channels, layer.out_channels)
            params = spec.params_coefficients.at(layer.in_channels, layer.out_channels)
            rows[i] += [spec.type in WEIGHT_LAYERS, macs, params * bytes_per_param]
    times: Table = np.array(seconds)
    ratio = np.array([layers.seconds_per_mac, layers.seconds_per_param_byte])
    if not ratio.any():
        ratio = np.array([1.0, 0.0])
    per_layer, scale = relative_nnls(np.column_stack([rows[:, 0], rows[:, 1:] @ ratio]), times)
    x = np.array([per_layer, *(scale * ratio)])
    terms = (rows[:dense] * x).sum(axis=0)
    shares = terms / terms.sum()
    return WeightsFit(
        float(x[0]),
        float(x[1]),
        float(x[2]),
        (float(shares[0]), float(shares[1]), float(shares[2])),
        float(np.mean(np.abs(rows @ x / times - 1))),
    )


def _unknowns(
    specs: Mapping[str, LayerSpec], networks: Sequence[Sequence[Executed]]
) -> list[_Unknown]:
    """The coefficients that these networks can tell: no width that never varies has one."""
    ins: dict[str, set[float]] = {}
    outs: dict[str, set[float]] = {}
    for layer in (layer for network in networks for layer in network):
        ins.setdefault(layer.signature, set()).add(layer.in_channels)
        outs.setdefault(layer.signature, set()).add(layer.out_channels)
    unknowns = []
    for signature in ins:
        spec = specs[signature]
        varies_in = len(ins[signature]) > 1
        varies_out = spec.form == "dense" and len(outs[signature]) > 1
        known = (True, varies_in, varies_out, varies_in and varies_out)
        unknowns += [
            _Unknown(spec, Coefficients(*row))
            for row, there in zip(np.eye(4).tolist(), known, strict=True)
            if there
        ]
    return unknowns


def _table(unknowns: Sequence[_Unknown], networks: Sequence[Sequence[Executed]]) -> Table:
    """[networks, unknowns]: what each unknown adds to each network, a second of it."""
    by_signature: dict[str, list[int]] = {}
    for j, unknown in enumerate(unknowns):
        by_signature.setdefault(unknown.spec.signature, []).append(j)
    table = np.zeros((len(networks), len(unknowns)))
    for i, network in enumerate(networks):
        for layer in network:
            for j in by_signature[layer.signature]:
                table[i, j] += unknowns[j].of(layer)
    return table


def _coarse(
    specs: Mapping[str, LayerSpec], networks: Sequence[Sequence[Executed]], batch_size: int
) -> Table:
    """[networks, 3]: layers, multiply-adds, bytes moved."""
    rows = np.zeros((len(networks), 3))
    for i, network in enumerate(networks):
        for layer in network:
            spec = specs[layer.signature]
            macs = spec.macs_coefficients.at(layer.in_channels, layer.out_channels)
            params = spec.params_coefficients.at(layer.in_channels, layer.out_channels)
            out = spec.activation_bytes * batch_size * layer.out_channels / spec.out_channels
            rows[i] += [1.0, macs * batch_size, params * BYTES_PER_NUMBER + out]
    return rows


def _prior(unknowns: Sequence[_Unknown], coarse: Table, seconds: Table, batch_size: int) -> Table:
    """[unknowns]: seconds of each by what layers, multiply-adds and bytes cost on average."""
    per_layer, per_mac, per_byte = relative_nnls(coarse, seconds)
    prior = np.zeros(len(unknowns))
    last = {unknown.spec.signature: j for j, unknown in enumerate(unknowns)}
    for j, unknown in enumerate(unknowns):
        if unknown.basis.const:
            prior[j] += per_layer
    # All else that a layer does goes with its last coefficient, the product of all that varies.
    for signature, j in last.items():
        spec = unknowns[j].spec
        assert spec.signature == signature
        bytes_moved = spec.params * BYTES_PER_NUMBER + spec.activation_bytes * batch_size
        prior[j] += per_mac * spec.macs * batch_size + per_byte * bytes_moved
    return prior


def _solve(table: Table, seconds: Table, weights: Table, strength: float, prior: Table) -> Table:
    """[unknowns], none negative: relative error of the networks and distance to the prior."""
    relative = table / seconds[:, None] * weights[:, None]
    pull = strength * np.sqrt((relative**2).sum(axis=0))
    rows = np.vstack([relative, np.diag(pull)])
    targets = np.concatenate([weights, np.maximum(pull * prior, 1e-12)])
    return relative_nnls(rows, targets, targets)


def _intervals(unknowns: Sequence[_Unknown], fits: Table) -> dict[str, tuple[float, float]]:
    """At full width every unknown counts once."""
    sums: dict[str, Table] = {}
    for j, unknown in enumerate(unknowns):
        s = unknown.spec.signature
        sums[s] = sums.get(s, np.zeros(len(fits))) + fits[:, j]
    quantiles = {s: np.quantile(values, INTERVAL) for s, values in sums.items()}
    return {s: (float(low), float(high)) for s, (low, high) in quantiles.items()}


def _coefficients(
    specs: Mapping[str, LayerSpec], unknowns: Sequence[_Unknown], x: Table
) -> dict[str, Coefficients]:
    """From seconds at dense widths of 1 to seconds a channel."""
    sums = {unknown.spec.signature: np.zeros(4) for unknown in unknowns}
    for unknown, value in zip(unknowns, x, strict=True):
        c, b = unknown.spec, unknown.basis
        row = np.array([b.const, b.per_in, b.per_out, b.per_in_out])
        size = np.array([1, c.in_channels, c.out_channels, c.in_channels * c.out_channels])
        sums[c.signature] += value * row / size
    return {signature: Coefficients(*values.tolist()) for signature, values in sums.items()}
