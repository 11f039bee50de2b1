"""From samples to numbers: a layer's coefficients, the channel divisor, the three coarse weights.

All fits minimise the relative error and allow no negative coefficient: a layer never gets faster by
getting wider, and a small layer counts as much as a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hwprofiles.layers import Coefficients, Form, LayerSpec

DIVISOR_CANDIDATES = (64, 32, 16, 8, 4, 2)
# Rounding up to a multiple of the divisor may cost this share of what the added channels would cost
# if time were proportional to them. 0 is a perfect staircase, 1 none at all.
ROUNDING_TOLERANCE = 0.3
# Blocks and vectors have up to so many channels. What is coarser has few multiples in a layer, and
# has to be seen in two.
USUAL_DIVISOR = 16
# The dense widths count more: every search starts there, and ratios to dense are taken of them.
DENSE_WEIGHT = 2.0
WIDTHS_OF_WEIGHTS_FIT = (0.25, 0.5, 0.75, 1.0)
# Types that count as layers, each with all that follows it up to the next.
WEIGHT_LAYERS = ("conv2d", "linear")
# Of the mean layer's time: one of less has no share in the fit of the weights.
LEAST_TIME = 0.01
# Keeps kappa finite on a device where nothing but the number of layers costs time.
MIN_SHARE = 1e-3


@dataclass(frozen=True)
class Point:
    """One measured size of a layer."""

    in_channels: int
    out_channels: int
    seconds: float


@dataclass(frozen=True)
class LayerFit:
    """Coefficients in seconds, and the mean absolute relative error at the points."""

    coefficients: Coefficients
    error: float


@dataclass(frozen=True)
class WeightsFit:
    """t = seconds_per_layer + seconds_per_mac * MACs + seconds_per_param_byte * bytes, a layer.

    ``shares`` are those of the three terms in the dense networks' time.
    """

    seconds_per_layer: float
    seconds_per_mac: float
    seconds_per_param_byte: float
    shares: tuple[float, float, float]
    error: float

    @property
    def kappa(self) -> float:
        """Layer constant: share_0 / (share_F + share_P), at most 1000."""
        return self.shares[0] / max(self.shares[1] + self.shares[2], MIN_SHARE)

    @property
    def alpha(self) -> float:
        """Compute weight: share_F / (share_F + share_P); one half where neither costs anything."""
        both = self.shares[1] + self.shares[2]
        return self.shares[1] / both if both else 0.5


def relative_nnls(
    rows: NDArray[np.float64],
    seconds: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Non-negative x that minimises sum (weight * (rows @ x / seconds - 1))^2.

    Args:
        rows: [points, features].
        seconds: [points], positive.
        weights: [points]; default 1.

    Returns:
        [features].
    """
    weights = np.ones_like(seconds) if weights is None else weights
    scaled = rows * (weights / seconds)[:, None]
    size = np.linalg.norm(scaled, axis=0)
    size[size == 0] = 1.0
    solution, _ = nnls(scaled / size, weights)
    return np.asarray(solution / size)


def fit_layer(points: Sequence[Point], form: Form, dense: tuple[int, int]) -> LayerFit:
    """Fit one layer.

    A width that was measured at one value only gets no coefficient: its effect is in the others.

    Args:
        points: what was measured, the dense widths among it.
        form: 'dense' or 'channel' (in which the output's width says nothing of its own).
        dense: the dense widths.
    """
    cin = np.array([p.in_channels for p in points], dtype=float)
    cout = np.array([p.out_channels for p in points], dtype=float)
    seconds = np.array([p.seconds for p in points])
    varies_in = len(set(cin)) > 1
    varies_out = form == "dense" and len(set(cout)) > 1
    # A column a coefficient: what the layer costs where that one is 1 and the others are 0.
    alone = [
        Coefficients(*row) for row in np.diag([1.0, varies_in, varies_out, varies_in * varies_out])
    ]
    rows = np.array([[c.at(i, o) for c in alone] for i, o in zip(cin, cout, strict=True)])
    is_dense = np.array([(p.in_channels, p.out_channels) == dense for p in points])
    x = relative_nnls(rows, seconds, np.where(is_dense, DENSE_WEIGHT, 1.0))
    error = float(np.mean(np.abs(rows @ x / seconds - 1)))
    return LayerFit(Coefficients(*(float(v) for v in x)), error)


def find_channel_divisor(sweeps: Sequence[Mapping[int, float]]) -> int:
    """The largest divisor to whose multiples widths can be rounded up (almost) for free.

    Args:
        sweeps: a layer each, width -> time. A divisor is judged by the widths whose next multiple
            was timed, too, and by layers for which three multiples were.

    Returns:
        1 when time grows smoothly.
    """
    for divisor in DIVISOR_CANDIDATES:
        # A coarse grid also seems cheap where a finer one saves much, so what it adds to the next
        # finer grid is judged by itself.
        free = _rounds_for_free(sweeps, divisor, 1)
        if free and _rounds_for_free(sweeps, divisor, divisor // 2):
            return divisor
    return 1


def _rounds_for_free(sweeps: Sequence[Mapping[int, float]], divisor: int, grid: int) -> bool:
    """Whether rounding multiples of ``grid`` up to multiples of ``divisor`` is almost free."""
    extra = proportional = 0.0
    judges = 0
    for seconds in sweeps:
        pairs = [(w, -(-w // divisor) * divisor) for w in seconds if w % grid == 0]
        pairs = [(w, up) for w, up in pairs if up in seconds]
        if len({up for _, up in pairs}) < 3:
            continue
        judges += 1
        dense = seconds[max(seconds)]  # so that every layer counts the same
        extra += sum(seconds[up] - seconds[w] for w, up in pairs) / dense
        proportional += sum(seconds[w] * (up - w) / w for w, up in pairs) / dense
    if judges < (1 if divisor <= USUAL_DIVISOR else 2):
        return False
    return extra < ROUNDING_TOLERANCE * proportional


def fit_weights(
    models: Sequence[Sequence[LayerSpec]],
    coefficients: Mapping[str, Coefficients],
    bytes_per_param: int,
) -> WeightsFit:
    """Fit the three coarse weights across the layers of whole networks.

    A layer is here a convolution or a linear layer with all that follows it up to the next one
    (norm, activation, addition), which is removed with it. Each counts at four widths, because at
    its dense widths alone the constant cannot be told from the rest.

    Args:
        models: the layers of each network, in order.
        coefficients: signature -> seconds.
        bytes_per_param: of the workload's dtype.
    """
    rows, seconds, dense = [], [], []
    for group in (g for specs in models for g in weight_layers(specs)):
        for share in WIDTHS_OF_WEIGHTS_FIT:
            sizes = [
                (s, share * s.in_channels, share * s.out_channels)
                if s.scalable
                else (s, s.in_channels, s.out_channels)
                for s in group
            ]
            seconds.append(sum(coefficients[s.signature].at(i, o) for s, i, o in sizes))
            macs = sum(s.macs_coefficients.at(i, o) for s, i, o in sizes)
            params = sum(s.params_coefficients.at(i, o) for s, i, o in sizes)
            rows.append([1.0, macs, params * bytes_per_param])
            dense.append(share == 1.0)
    table, times = np.array(rows), np.array(seconds)
    # A fit to networks may give what a layer costs to its neighbour.
    own = times > LEAST_TIME * times.mean()
    table, times, dense = table[own], times[own], list(np.array(dense)[own])
    x = relative_nnls(table, times)
    error = float(np.mean(np.abs(table @ x / times - 1)))
    terms = (table[np.array(dense)] * x).sum(axis=0)
    shares = terms / terms.sum()
    return WeightsFit(
        float(x[0]), float(x[1]), float(x[2]), (shares[0], shares[1], shares[2]), error
    )


def weight_layers(specs: Sequence[LayerSpec]) -> list[list[LayerSpec]]:
    """Group a network's layers: each convolution or linear layer with what follows it."""
    groups: list[list[LayerSpec]] = []
    for spec in specs:
        if spec.type in WEIGHT_LAYERS or not groups:
            groups.append([])
        groups[-1].append(spec)
    return groups


def fit_scale(measured: Sequence[float], sums: Sequence[float]) -> float:
    """The factor from sums of layers to whole networks that minimises the relative error."""
    ratio = np.array(sums) / np.array(measured)
    return float(ratio.sum() / (ratio**2).sum())
