"""Timers: how long calls took, by the wall clock or by CUDA events.

A block is one case called many times in a row, a sequence is many cases called one after the other.
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
except ImportError:  # not on Windows: interrupted readings are then not recognised
    resource = None  # type: ignore[assignment]

Case = Callable[[], object]

# The last outputs of a sequence stay alive, as the input and the shortcut of a residual block do.
# Freed at once, every output would be written to the same pages, already in the caches.
HELD_OUTPUTS = 3


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


class CpuTimer:
    """The wall clock."""

    name = "wall clock"

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.now = clock

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

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
    """How often the operating system has taken the processor from this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource is not None else 0
