"""The channel divisor: to which multiples widths can be rounded up for free, by a sweep.

The dense layers that do most work are timed with their wider side narrowed, and so is the layer
that leads back to the other side, as the two stand in a block. In eager mode each call is timed by
itself. A runtime that rewrites graphs reorders and pads at both ends of a network, so there several
such pairs stand in a row.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hwprofiles.fit import find_channel_divisor
from hwprofiles.layers import LayerSpec, build
from hwprofiles.plan import sweep_widths
from hwprofiles.runtimes.base import Runtime, Setting
from hwprofiles.runtimes.eager import Builder, call_of
from hwprofiles.runtimes.timers import Case
from hwprofiles.schema import ChannelDivisor, Sweep, SweepPoint
from hwprofiles.timing import MIN_ROUNDS, Chain, Progress, anchor_workload, measure_rounds
from hwprofiles.tracing import Traced

# So many layers are swept, of at least such widths.
SWEPT_LAYERS = 3
MIN_SWEPT_WIDTH = 16
# A channel more or less of a wider layer is hard to see; one is taken where there is no other.
MAX_SWEPT_WIDTH = 256
# Pairs of layers in a row, in a runtime that rewrites graphs.
PAIRS = 2
MODULES = ("conv2d", "linear")  # types that are modules, which take the one before's output


def sweep_channel_divisor(
    traced: Mapping[str, Traced],
    runtime: Runtime,
    setting: Setting,
    min_s: float,
    seed: int,
    progress: Progress | None,
) -> tuple[ChannelDivisor, float | None]:
    """Time the layers that do most work at many widths of their wider side.

    Args:
        traced: the models' layers.
        runtime: what they run in.
        setting: and how.
        min_s: half of this is spent at least, in seconds.
        seed: of the order.
        progress: called with (stage, done, total).

    Returns:
        (what was found, the contention meanwhile)
    """
    layers = [s for t in traced.values() for s in t.layers]
    counts = Counter(s.signature for s in layers)
    known = {
        s.signature: s
        for s in layers
        if s.form == "dense" and min(s.in_channels, s.out_channels) >= MIN_SWEPT_WIDTH
    }
    narrow = [s for s in known.values() if _wide(s) <= MAX_SWEPT_WIDTH]
    ranked = sorted(narrow or known.values(), key=lambda s: s.macs * counts[s.signature])
    swept = ranked[::-1]
    if runtime.name != "eager":
        swept = [s for s in swept if s.type in MODULES and _keeps_size(s)]
    swept = swept[:SWEPT_LAYERS]
    if not swept:
        return ChannelDivisor(value=1, sweeps=[]), None
    with torch.inference_mode():
        make = _calls if runtime.name == "eager" else _rows
        made = make(swept, runtime, setting, seed)
        rounds = measure_rounds(
            made.blocks,
            anchor_workload(setting.device, setting.dtype),
            setting.timer(),
            made.chains,
            rounds=MIN_ROUNDS,
            min_s=min_s / 2,
            seed=seed,
            progress=_named(progress),
        )
    sweeps = {
        s: {w: sum(rounds.measurements[label].median_s for label in at) for w, at in points.items()}
        for s, points in made.points.items()
    }
    found = ChannelDivisor(
        value=find_channel_divisor(list(sweeps.values())),
        sweeps=[
            Sweep(layer=s, points=[SweepPoint(channels=w, median_s=t) for w, t in points.items()])
            for s, points in sweeps.items()
        ],
    )
    return found, rounds.contention


@dataclass(frozen=True)
class _Made:
    """What is timed; ``points``: layer -> width -> labels of the cases that are its time."""

    blocks: dict[str, Case]
    chains: list[Chain]
    points: dict[str, dict[int, list[str]]]


def _calls(swept: Sequence[LayerSpec], runtime: Runtime, setting: Setting, seed: int) -> _Made:
    """Each layer by itself; a width's time is that with a narrow input and a narrow output."""
    work = [(s, size) for s in swept for w in sweep_widths(_wide(s)) for size in _pair(s, w)]
    builder = Builder(work, setting)
    cases = {_label(spec, *size): builder.case(spec, *size) for spec, size in work}
    # In two orders, so that no width always profits from the one before it.
    orders = [random.Random(seed + i).sample(list(cases), len(cases)) for i in range(2)]
    points = {
        s.signature: {w: [_label(s, *x) for x in _pair(s, w)] for w in sweep_widths(_wide(s))}
        for s in swept
    }
    return _Made({}, [[(label, cases[label]) for label in order] for order in orders], points)


def _rows(swept: Sequence[LayerSpec], runtime: Runtime, setting: Setting, seed: int) -> _Made:
    """Layers in a row in the runtime, every second one's output at the swept width."""
    blocks: dict[str, Case] = {}
    points: dict[str, dict[int, list[str]]] = {}
    for spec in swept:
        for width in sweep_widths(_wide(spec)):
            sizes = _pair(spec, width)
            made = [build(spec, i, o, setting.batch_size) for i, o in sizes * PAIRS]
            row = nn.Sequential(*(module for module, _ in made if isinstance(module, nn.Module)))
            x, label = made[0][1].to(setting.device), _label(spec, *sizes[0])
            blocks[label] = call_of(runtime.build(row, x, setting), x)
            points.setdefault(spec.signature, {})[width] = [label]
    return _Made(blocks, [], points)


def _label(spec: LayerSpec, in_channels: int, out_channels: int) -> str:
    return f"{spec.signature} at {in_channels} -> {out_channels}"


def _wide(spec: LayerSpec) -> int:
    return max(spec.in_channels, spec.out_channels)


def _pair(spec: LayerSpec, width: int) -> list[tuple[int, int]]:
    """Into the swept width and out of it; the other side stays as it is."""
    narrow = min(spec.in_channels, spec.out_channels)
    return [(narrow, width), (width, narrow)]


def _keeps_size(spec: LayerSpec) -> bool:
    """Whether several in a row all see the same map: a strided convolution does not."""
    module, x = build(spec, spec.in_channels, spec.out_channels, 1)
    return isinstance(module, nn.Module) and module(x).numel() * spec.in_channels == (
        x.numel() * spec.out_channels
    )


def _named(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done, total: progress(f"channel divisor, {stage}", done, total)
