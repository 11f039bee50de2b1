"""Timing by interleaved, shuffled rounds, with an anchor that shows and removes drift.

A machine's speed drifts by tens of per cent within minutes (clocks, neighbours), and the drift is
far larger than the jitter of one reading. So nothing is timed in one go: in every round each case
gets one short block of calls, in a new order, and between the blocks a fixed piece of work, the
anchor, is timed. A reading is divided by how slow the anchor ran around it, relative to the
machine's fast state; blocks in which the operating system took the processor away are dropped. The
median over rounds is the result.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from hwprofiles.device import synchronize

try:
    import resource
except ImportError:  # not on Windows: interrupted blocks then stay in
    resource = None  # type: ignore[assignment]

Case = Callable[[], object]
Progress = Callable[[str, int, int], None]

MIN_ROUNDS = 10
# A longer gap would let drift in between two anchors, a shorter one would time little else.
ANCHOR_EVERY_S = 0.03
# Anchors are smoothed over this many neighbours: one unlucky anchor must not spoil two blocks.
ANCHOR_WINDOW = 5
# The anchor's quantile that stands for the machine's fast state.
FAST_STATE = 0.05
# Above these the verdict is noisy. On quiet machines they read 0.01-0.03 and 0.02-0.1.
MAX_SPREAD = 0.10
MAX_ANCHOR_SPREAD = 0.30


class Timer(Protocol):
    """Runs a case a number of times."""

    name: str

    def __call__(self, case: Case, repeats: int) -> Block:
        """The block's duration."""
        ...

    def now(self) -> float:
        """Seconds since some moment."""
        ...


@dataclass(frozen=True)
class Block:
    """Some calls in a row.

    Attributes:
        seconds: of all calls together.
        interrupted: the operating system gave the processor to someone else meanwhile.
    """

    seconds: float
    interrupted: bool = False


class CpuTimer:
    """Wall clock around a loop."""

    name = "wall clock"

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.now = clock

    def __call__(self, case: Case, repeats: int) -> Block:
        switches = _involuntary_switches()
        start = self.now()
        for _ in range(repeats):
            case()
        seconds = self.now() - start
        return Block(seconds, _involuntary_switches() > switches)


class CudaTimer:
    """CUDA events around a loop: the time the device needs, launches included.

    No synchronisation inside the block, which would add its own cost to every call.
    """

    name = "cuda events"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        return time.perf_counter()

    def __call__(self, case: Case, repeats: int) -> Block:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        synchronize(self.device)
        start.record()
        for _ in range(repeats):
            case()
        end.record()
        end.synchronize()
        return Block(start.elapsed_time(end) / 1e3)


@dataclass(frozen=True)
class Measurement:
    """Seconds a call, one reading a round, corrected for drift."""

    times_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)

    @property
    def q25_s(self) -> float:
        return self.quantile(0.25)

    @property
    def q75_s(self) -> float:
        return self.quantile(0.75)

    @property
    def n(self) -> int:
        return len(self.times_s)

    @property
    def spread(self) -> float:
        """Interquartile range / median."""
        return (self.q75_s - self.q25_s) / self.median_s

    @property
    def verdict(self) -> str:
        """'ok', or 'noisy' when the spread is above ``MAX_SPREAD``."""
        return "noisy" if self.spread > MAX_SPREAD else "ok"

    def quantile(self, share: float) -> float:
        """The time that this share of the readings stays below."""
        return float(np.quantile(self.times_s, share))


@dataclass(frozen=True)
class Rounds:
    """What all rounds gave.

    Attributes:
        measurements: by case.
        anchors_s: every anchor reading, in order of time.
        warm_up_s: spent before the first round.
    """

    measurements: dict[str, Measurement]
    anchors_s: tuple[float, ...]
    warm_up_s: float

    @property
    def anchor_spread(self) -> float:
        """(90 % quantile - 10 % quantile) / median of the anchor: the drift that was removed."""
        low, middle, high = np.quantile(self.anchors_s, [0.1, 0.5, 0.9])
        return float((high - low) / middle)

    @property
    def spread(self) -> float:
        """The median over cases of what noise was left."""
        return statistics.median(m.spread for m in self.measurements.values())

    @property
    def verdict(self) -> str:
        """'ok', or 'noisy' when the machine was too busy to trust the times."""
        noisy = self.spread > MAX_SPREAD or self.anchor_spread > MAX_ANCHOR_SPREAD
        return "noisy" if noisy else "ok"


@dataclass(frozen=True)
class _Reading:
    at: float
    seconds: float
    interrupted: bool


def measure_rounds(
    cases: Mapping[str, Case],
    anchor: Case,
    timer: Timer,
    rounds: int = 15,
    block_s: float = 2e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rounds:
    """Time every case in interleaved rounds.

    Args:
        cases: label -> what to call.
        anchor: a fixed piece of work of about a tenth of a millisecond.
        timer: how to time a block.
        rounds: readings of each case, at least 10.
        block_s: how long a block should last: long against the clock's resolution and the loop,
            short against drift.
        seed: of the order within a round.
        progress: called with ('warm-up' | 'round', done, total).

    Raises:
        ValueError: fewer than 10 rounds.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds: {rounds}, allowed is {MIN_ROUNDS} or more")
    order = random.Random(seed)
    report = progress or (lambda stage, done, total: None)
    begin = timer.now()
    repeats = {}
    for i, (label, case) in enumerate(cases.items()):
        repeats[label] = _calls_per_block(case, timer, block_s)
        report("warm-up", i + 1, len(cases))
    anchor_repeats = _calls_per_block(anchor, timer, block_s / 2)
    warm_up_s = timer.now() - begin

    readings: dict[str, list[_Reading]] = {label: [] for label in cases}
    anchors = [_read(anchor, anchor_repeats, timer)]
    for done in range(rounds):
        labels = list(cases)
        order.shuffle(labels)
        for label in labels:
            readings[label].append(_read(cases[label], repeats[label], timer))
            if timer.now() - anchors[-1].at > ANCHOR_EVERY_S:
                anchors.append(_read(anchor, anchor_repeats, timer))
        anchors.append(_read(anchor, anchor_repeats, timer))
        report("round", done + 1, rounds)
    slowness = _slowness(anchors)
    measurements = {label: _correct(values, slowness) for label, values in readings.items()}
    return Rounds(measurements, tuple(a.seconds for a in anchors), warm_up_s)


def anchor_workload(device: torch.device, dtype: torch.dtype) -> Case:
    """Some arithmetic and some memory traffic, always the same."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(128, 128, generator=generator).to(device, dtype)
    b = torch.rand(64, 1024, generator=generator).to(device, dtype)

    def anchor() -> torch.Tensor:
        return torch.relu(b).add(torch.mm(a, a)[0, 0])

    return anchor


def _calls_per_block(case: Case, timer: Timer, block_s: float) -> int:
    """How many calls last ``block_s``; the calls made to find out are the warm-up."""
    timer(case, 1)
    repeats = 1
    while True:
        seconds = timer(case, repeats).seconds
        if seconds >= block_s / 4 or repeats >= 1 << 20:
            return max(1, round(repeats * block_s / max(seconds, 1e-9)))
        repeats *= 4


def _read(case: Case, repeats: int, timer: Timer) -> _Reading:
    start = timer.now()
    block = timer(case, repeats)
    return _Reading((start + timer.now()) / 2, block.seconds / repeats, block.interrupted)


def _slowness(anchors: Sequence[_Reading]) -> Callable[[float], float]:
    """Time -> how much slower the machine ran then than in its fast state."""
    raw = [a.seconds for a in anchors]
    half = ANCHOR_WINDOW // 2
    smooth = [statistics.median(raw[max(0, i - half) : i + half + 1]) for i in range(len(raw))]
    fast = float(np.quantile(smooth, FAST_STATE))
    at = [a.at for a in anchors]
    return lambda moment: float(np.interp(moment, at, smooth)) / fast


def _correct(readings: Sequence[_Reading], slowness: Callable[[float], float]) -> Measurement:
    kept = [r for r in readings if not r.interrupted]
    if len(kept) < MIN_ROUNDS:
        kept = list(readings)
    return Measurement(tuple(r.seconds / slowness(r.at) for r in kept))


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource is not None else 0
