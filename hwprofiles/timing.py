"""Timing by interleaved rounds, with an anchor that shows and removes drift.

A machine's speed drifts by tens of per cent within minutes, far more than one reading jitters. So
every round times each case once, in a new order, and in between a fixed piece of work, the anchor.
A reading is divided by how slow the anchor ran around it, to a power of 0..1, because what slows
the anchor may slow a network less. The power is the one after which the readings scatter least.
Sessions that are to be compared take one anchor as their common reference. Readings during which
the operating system took the processor away are dropped, where every case has enough others, else
of none: clean readings of one case must not be compared with interrupted ones of the next. The
median over the rounds is the result.

A *block* is one case called many times in a row: right for whole networks. A *chain* is a network's
layers called one after the other, each call timed by itself: a layer alone in a loop would find its
code and data in the caches, and run faster than it does among the others.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import torch

from hwprofiles.contention import ContentionMeter
from hwprofiles.runtimes.timers import Case, Reading, Timer

Progress = Callable[[str, int, int], None]
"""(stage, done, total)"""
Chain = Sequence[tuple[str, Case]]
"""The label and the case of each call, in order."""

MIN_ROUNDS = 10
WARM_UP_ROUNDS = 2
# Where readings are interrupted, so many times the rounds are spent on getting clean ones.
MOST_ROUNDS = 2
# With a longer gap drift goes unseen between two anchors, with a shorter one little else is timed.
ANCHOR_EVERY_S = 0.015
# An anchor reading is the median of so many short blocks: a spike must not pass for drift.
ANCHOR_BLOCKS = 5
# Anchors are smoothed over this many neighbours: one unlucky anchor must not spoil two blocks.
ANCHOR_WINDOW = 5
# How closely the cases may follow the anchor.
EXPONENTS = tuple(i / 10 for i in range(11))
# The side of the anchor's matrices, on one thread and on several. Several need more work, or they
# would mostly wake each other up.
ANCHOR_SIDE, ANCHOR_SIDE_SEVERAL = 128, 256
# Above these the verdict is noisy; a quiet machine stays at a third of them.
MAX_SPREAD = 0.10
MAX_ANCHOR_SPREAD = 0.30
# In cores; above it the verdict is noisy. What the operating system itself does is far less.
MAX_CONTENTION = 0.15
# A call that lasts so long warms itself, and needs no other before it.
LONG_CALL_S = 0.1


@dataclass(frozen=True)
class Measurement:
    """Seconds a call, one reading a round, corrected for drift.

    Attributes:
        times_s: the readings.
        contended: others wanted the cores meanwhile, so that all readings may be too long.
    """

    times_s: tuple[float, ...]
    contended: bool = False

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
        """'ok', or 'noisy' when it was contended or the spread is above ``MAX_SPREAD``."""
        return "noisy" if self.contended or self.spread > MAX_SPREAD else "ok"

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
        rounds: how many there were.
        contention: cores that others wanted, too, on average; None: could not be seen.
        exponent: readings were divided by the anchor's slowness to this power.
        reference_s: the anchor's time that counts as not slow.
    """

    measurements: dict[str, Measurement]
    anchors_s: tuple[float, ...]
    warm_up_s: float
    rounds: int
    contention: float | None = None
    exponent: float = 1.0
    reference_s: float | None = None

    @property
    def anchor_spread(self) -> float:
        """(90 % quantile - 10 % quantile) / median of the anchor: the drift that was removed."""
        low, middle, high = np.quantile(self.anchors_s, [0.1, 0.5, 0.9])
        return float((high - low) / middle)

    @property
    def spread(self) -> float:
        """The median over cases of what noise was left."""
        return statistics.median(m.spread for m in self.measurements.values())

    def joined(self, later: Rounds, common: Sequence[str]) -> Rounds:
        """These readings and another session's, brought to this one's speed.

        Args:
            later: of other cases.
            common: labels of cases that both timed; they say how fast the machine was, and these
                readings of them stay.
        """
        ratios = [self.measurements[c].median_s / later.measurements[c].median_s for c in common]
        speed = float(np.exp(np.mean(np.log(ratios))))
        scaled = {
            label: replace(m, times_s=tuple(t * speed for t in m.times_s))
            for label, m in later.measurements.items()
        }
        known = [c for c in (self.contention, later.contention) if c is not None]
        return replace(
            self,
            measurements=scaled | self.measurements,
            anchors_s=self.anchors_s + tuple(t * speed for t in later.anchors_s),
            warm_up_s=self.warm_up_s + later.warm_up_s,
            contention=max(known) if known else None,
        )

    @property
    def verdict(self) -> str:
        """'ok', or 'noisy' when the machine was too busy to trust the times."""
        noisy = self.spread > MAX_SPREAD or self.anchor_spread > MAX_ANCHOR_SPREAD
        return "noisy" if noisy or is_contended(self.contention) else "ok"


def is_contended(contention: float | None) -> bool:
    """Whether so many cores were fought over that times cannot be trusted."""
    return contention is not None and contention > MAX_CONTENTION


def check_rounds(rounds: int) -> None:
    """Refuse fewer rounds than tell a median from noise.

    Raises:
        ValueError: fewer than ``MIN_ROUNDS``.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds: {rounds}, allowed is {MIN_ROUNDS} or more")


def measure_rounds(
    blocks: Mapping[str, Case],
    anchor: Case,
    timer: Timer,
    chains: Sequence[Chain] = (),
    rounds: int = 15,
    block_s: float = 2e-3,
    min_s: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    reference_s: float | None = None,
) -> Rounds:
    """Time cases in interleaved rounds.

    Args:
        blocks: label -> what to call in a loop.
        anchor: a fixed piece of work of about a tenth of a millisecond.
        timer: how to time.
        chains: calls that are made one after the other. A label that stands at several places gives
            one reading a round, the median over them.
        rounds: at least so many, 10 or more.
        block_s: how long a block should last: long against the clock's resolution and the loop,
            short against drift.
        min_s: go on for so many seconds.
        seed: of the order within a round.
        progress: called with ('warm-up' | 'rounds', done, total) before every block and chain, so
            that a slow one is not waited for in silence.
        reference_s: the anchor's time in the session that this one is to be compared with; default
            is its median in this one.

    Raises:
        ValueError: fewer than 10 rounds.
    """
    check_rounds(rounds)
    order = random.Random(seed)
    report = progress or (lambda stage, done, total: None)
    begin = timer.now()
    anchor_repeats = _calls_per_block(anchor, timer, block_s / 2 / ANCHOR_BLOCKS)
    repeats = {}
    long = set()
    warm_ups = len(blocks) + WARM_UP_ROUNDS
    for i, (label, case) in enumerate(blocks.items()):
        report("warm-up", i, warm_ups)
        if timer.block(case, 1).seconds > LONG_CALL_S:
            long.add(label)
            repeats[label] = 1
        else:
            repeats[label] = _calls_per_block(case, timer, block_s)
    for i in range(WARM_UP_ROUNDS):
        for chain in chains:
            report("warm-up", len(blocks) + i, warm_ups)
            timer.sequence([case for _, case in chain])
    report("warm-up", warm_ups, warm_ups)
    start = timer.now()
    meter = ContentionMeter()

    readings: dict[str, list[list[Reading]]] = {}
    anchors: list[Reading] = []

    def read_anchor() -> None:
        if not anchors or timer.now() - anchors[-1].at > ANCHOR_EVERY_S:
            short = [timer.block(anchor, anchor_repeats) for _ in range(ANCHOR_BLOCKS)]
            seconds = statistics.median(r.seconds for r in short) / anchor_repeats
            anchors.append(Reading(short[-1].at, seconds))

    clean: Counter[str] = Counter()
    done, planned = 0, rounds
    while (
        done < rounds
        or timer.now() - start < min_s
        or (done < MOST_ROUNDS * rounds and min(clean[label] for label in readings) < MIN_ROUNDS)
    ):
        this_round: dict[str, list[Reading]] = {}
        labels = list(blocks)
        order.shuffle(labels)
        for label in labels:
            report("rounds", done, planned)
            read_anchor()
            if label not in long:
                blocks[label]()  # brings its own data back into the caches
            reading = timer.block(blocks[label], repeats[label])
            this_round[label] = [_per_call(reading, repeats[label])]
        for chain in order.sample(list(chains), len(chains)):
            report("rounds", done, planned)
            read_anchor()
            times = timer.sequence([case for _, case in chain])
            for (label, _), reading in zip(chain, times, strict=True):
                this_round.setdefault(label, []).append(reading)
        for label, values in this_round.items():
            readings.setdefault(label, []).append(values)
            clean[label] += not all(r.interrupted for r in values)
        done += 1
        elapsed = timer.now() - start
        planned = max(rounds, done + 1, math.ceil(done * min_s / max(elapsed, 1e-9)))
    report("rounds", done, done)
    read_anchor()
    contention = meter.read(timer.threads)
    slowness, reference = _slowness(anchors, reference_s)
    exponent, corrected = _correct_all(readings, slowness)
    return Rounds(
        {label: Measurement(times, is_contended(contention)) for label, times in corrected.items()},
        tuple(a.seconds for a in anchors),
        start - begin,
        done,
        contention,
        exponent,
        reference,
    )


def anchor_workload(device: torch.device, dtype: torch.dtype) -> Case:
    """Some arithmetic and some memory traffic, always the same."""
    generator = torch.Generator().manual_seed(0)
    several = device.type == "cpu" and torch.get_num_threads() > 1
    side = ANCHOR_SIDE_SEVERAL if several else ANCHOR_SIDE
    a = torch.rand(side, side, generator=generator).to(device, dtype)
    b = torch.rand(64, 8 * side, generator=generator).to(device, dtype)

    def anchor() -> torch.Tensor:
        return torch.relu(b).add(torch.mm(a, a)[0, 0])

    return anchor


def _calls_per_block(case: Case, timer: Timer, block_s: float) -> int:
    """How many calls last ``block_s``; the calls made to find out are the warm-up."""
    timer.block(case, 1)
    repeats = 1
    while True:
        # The faster of two: an interruption must not make the blocks short.
        seconds = min(timer.block(case, repeats).seconds for _ in range(2))
        if seconds >= block_s / 4 or repeats >= 1 << 20:
            return max(1, round(repeats * block_s / max(seconds, 1e-9)))
        repeats *= 4


def _per_call(reading: Reading, repeats: int) -> Reading:
    return Reading(reading.at, reading.seconds / repeats, reading.interrupted)


def _slowness(
    anchors: Sequence[Reading], reference_s: float | None
) -> tuple[Callable[[float], float], float]:
    """(moment -> how much slower the anchor ran than the reference, the reference)."""
    raw = [a.seconds for a in anchors]
    half = ANCHOR_WINDOW // 2
    smooth = [statistics.median(raw[max(0, i - half) : i + half + 1]) for i in range(len(raw))]
    reference = reference_s or statistics.median(smooth)
    at = [a.at for a in anchors]
    return lambda moment: float(np.interp(moment, at, smooth)) / reference, reference


def _correct_all(
    readings: Mapping[str, Sequence[Sequence[Reading]]], slowness: Callable[[float], float]
) -> tuple[float, dict[str, tuple[float, ...]]]:
    """(exponent, times by label): the exponent after which the labels scatter least on average."""
    kept = _kept(readings)
    slow = {label: [[slowness(r.at) for r in v] for v in vs] for label, vs in kept.items()}
    spreads = {}
    for exponent in EXPONENTS:
        times = [_divided(kept[label], slow[label], exponent) for label in kept]
        spreads[exponent] = statistics.fmean(Measurement(t).spread for t in times)
    best = min(spreads, key=lambda e: (spreads[e], -e))
    return best, {label: _divided(kept[label], slow[label], best) for label in kept}


def _kept(
    readings: Mapping[str, Sequence[Sequence[Reading]]],
) -> dict[str, list[list[Reading]]]:
    """By label and round, what counts: the same rounds or at least the same kind for every label.

    These are the rounds in which no label was interrupted throughout; if they are too few, every
    label's own such rounds; if one label has too few, all readings of all of them.
    """
    clean = {
        label: [[r for r in values if not r.interrupted] for values in rounds]
        for label, rounds in readings.items()
    }
    common = [all(of_labels) for of_labels in zip(*clean.values(), strict=True)]
    if sum(common) >= MIN_ROUNDS:
        return {label: list(compress(rounds, common)) for label, rounds in clean.items()}
    if min(sum(map(bool, rounds)) for rounds in clean.values()) >= MIN_ROUNDS:
        return {label: list(filter(None, rounds)) for label, rounds in clean.items()}
    return {label: [list(values) for values in rounds] for label, rounds in readings.items()}


def _divided(
    kept: Sequence[Sequence[Reading]], slow: Sequence[Sequence[float]], exponent: float
) -> tuple[float, ...]:
    """One number a round, the median over the places where the label stands."""
    return tuple(
        statistics.median(r.seconds / s**exponent for r, s in zip(readings, factors, strict=True))
        for readings, factors in zip(kept, slow, strict=True)
    )
