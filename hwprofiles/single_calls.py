"""How long single calls take, one by one: the tail that MLPerf's single stream and others report.

A reading of the interleaved rounds is the mean of some calls, corrected for drift, so that networks
can be compared with each other. Whoever answers requests asks for the slow ones among single calls,
as they come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwprofiles.runtimes.timers import Case, Timer

# So many calls are timed; a hundredth of fewer than the least is no call.
LEAST, MOST = 100, 1000
# About so long, and never longer than this for the least of them: then there is no p99.
USUAL_S, MOST_S = 1.0, 10.0
FEWEST = 10
WARM_UP = 3


@dataclass(frozen=True)
class Tail:
    """The slow ones among single calls.

    Attributes:
        calls: how many were timed.
        p90_s: 90 % of them are faster, in seconds.
        p99_s: 99 % of them are; None: there were too few.
    """

    calls: int
    p90_s: float
    p99_s: float | None


def time_single_calls(case: Case, timer: Timer, typical_s: float) -> Tail:
    """Time a network's calls one by one, uncorrected.

    Args:
        case: a call of it.
        timer: how to time.
        typical_s: how long a call takes, about.
    """
    calls = min(MOST, max(LEAST, round(USUAL_S / typical_s)))
    calls = max(FEWEST, min(calls, round(MOST_S / typical_s)))
    for _ in range(WARM_UP):
        case()
    seconds = [reading.seconds for reading in timer.sequence([case] * calls)]
    p90, p99 = np.quantile(seconds, [0.9, 0.99])
    return Tail(calls, float(p90), float(p99) if calls >= LEAST else None)
