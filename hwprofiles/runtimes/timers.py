"""Timing by interleaved rounds, with an anchor that shows and removes drift.

A machine's speed drifts by tens of per cent within minutes (clocks, neighbours), far more than one
reading jitters. So nothing is timed in one go: every round times each case once, in a new order,
and in between a fixed piece of work, the anchor. A reading is divided by how slow the anchor ran
around it, relative to its median, to a power of 0..1: what slows the anchor may slow a network
less, and then a full correction would add noise (with four threads 0.5-0.75 leaves least of it,
here). The power is chosen so that the readings scatter least. Sessions that are to be compared take
one of them's anchor as the reference for all: then drift between them is divided out as well.
Readings during which the operating system took the processor away are dropped. The median over
rounds is the result.

There are two kinds of cases. A *block* is called many times in a row and its time divided: right
for whole networks. A *chain* is a network's layers called one after the other, each call timed by
itself: a layer alone in a loop finds its code and data in the caches and runs up to a third faster
than among the others (measured on ResNet-20 at batch 1), so that sums of loops would fall short.
A chain stands for a network at some widths; every round plays every chain.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from hwprofiles.device import synchronize

try:
    import resource
except ImportError:  # not on Windows: interrupted blocks then stay in
    resource = None  # type: ignore[assignment]


Case = Callable[[], object]


# In a chain the last outputs stay alive, as in a residual network: the input, the shortcut, and one
# that was overwritten in place. Freed at once, every output would land on the same warm pages; on
# CPUs fresh pages can cost more than a norm or an activation computes.
HELD_OUTPUTS = 3


class Timer(Protocol):
    """Runs cases and says how long they took."""

    name: str

    @property
    def threads(self) -> int:
        """Processor threads that the cases run on."""
        ...

    def block(self, case: Case, repeats: int) -> Reading:
        """Call one case ``repeats`` times: the time of all calls together."""
        ...

    def sequence(self, cases: Sequence[Case]) -> list[Reading]:
        """Call cases one after the other: the time of each."""
        ...

    def now(self) -> float:
        """Seconds since some moment."""
        ...


@dataclass(frozen=True)
class Reading:
    """One reading.

    Attributes:
        at: the moment, in seconds.
        seconds: how long it took.
        interrupted: the operating system gave the processor to someone else meanwhile.
    """

    at: float
    seconds: float
    interrupted: bool = False


class CpuTimer:
    """The wall clock."""

    name = "wall clock"

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.now = clock

    def block(self, case: Case, repeats: int) -> Reading:
        switches = _involuntary_switches()
        start = self.now()
        for _ in range(repeats):
            case()
        end = self.now()
        return Reading((start + end) / 2, end - start, _involuntary_switches() > switches)

    def sequence(self, cases: Sequence[Case]) -> list[Reading]:
        readings = []
        now = self.now
        held: deque[object] = deque(maxlen=HELD_OUTPUTS)
        before = _involuntary_switches()
        for case in cases:
            start = now()
            held.append(case())
            end = now()
            after = _involuntary_switches()
            readings.append(Reading(end, end - start, after > before))
            before = after
        return readings


class CudaTimer:
    """CUDA events: the time on the device, gaps while it waits for launches included.

    No synchronisation between calls, which would add its own cost to every one.
    """

    name = "cuda events"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def threads(self) -> int:
        return 1  # the one that launches

    def now(self) -> float:
        return time.perf_counter()

    def block(self, case: Case, repeats: int) -> Reading:
        def calls() -> None:
            for _ in range(repeats):
                case()

        return self.sequence([calls])[0]

    def sequence(self, cases: Sequence[Case]) -> list[Reading]:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(cases) + 1)]
        synchronize(self.device)
        start = self.now()
        held: deque[object] = deque(maxlen=HELD_OUTPUTS)
        events[0].record()
        for case, event in zip(cases, events[1:], strict=True):
            held.append(case())
            event.record()
        synchronize(self.device)
        at = (start + self.now()) / 2
        return [Reading(at, a.elapsed_time(b) / 1e3) for a, b in itertools.pairwise(events)]


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource is not None else 0
