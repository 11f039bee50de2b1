"""Calibration: from sums of layers to whole networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Executed:
    """One layer of a network: a signature that the profile knows, at these widths."""

    signature: str
    in_channels: float
    out_channels: float


@dataclass(frozen=True)
class Candidate:
    """A network that can be run, and the layers that it runs, in any order."""

    network: nn.Module
    layers: Sequence[Executed]
