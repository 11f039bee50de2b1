"""Contention: did other processes want the cores that a measurement needed?

When threads must share cores, every parallel region waits for the slowest thread. A small network
on all threads then runs ten times slower in every round alike: neither the spread between rounds
nor an anchor of one thread shows it. What others used is all busy time of the cores that this
process may run on, less its own processor time. A container's CPU quota takes cores away as well:
what the threads want beyond it counts alike.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hwprofiles.processor import core_numbers, cpu_quota

STAT = Path("/proc/stat")
# The kernel counts in hundredths of a second: less than this many seconds says nothing.
LEAST_S = 0.5
# user, nice, system, irq, softirq, steal of a line in /proc/stat; not idle and waiting for disks.
BUSY = (0, 1, 2, 5, 6, 7)


class ContentionMeter:
    """Starts when it is made."""

    def __init__(self) -> None:
        self.cores = core_numbers()
        self.quota = cpu_quota()
        self.busy_s = _busy_s(self.cores)
        self.own_s = time.process_time()
        self.at = time.perf_counter()

    def read(self, threads: int) -> float | None:
        """Cores that this process's threads and others wanted at once, beyond those there are.

        Args:
            threads: that this process computes with.

        Returns:
            On average since the start; None where it cannot be seen: not on Linux, or too short.
        """
        beyond_quota = 0.0 if self.quota is None else max(0.0, threads - self.quota)
        busy, elapsed = _busy_s(self.cores), time.perf_counter() - self.at
        if busy is None or self.busy_s is None or elapsed < LEAST_S:
            return beyond_quota or None
        own = time.process_time() - self.own_s
        others = max(0.0, (busy - self.busy_s - own) / elapsed)
        return max(beyond_quota, threads + others - len(self.cores))


def _busy_s(cores: set[int]) -> float | None:
    """Busy seconds of these cores since the machine started."""
    try:
        lines = STAT.read_text().splitlines()
    except OSError:
        return None
    rows = [line.split() for line in lines if line.startswith("cpu")]
    own = [row for row in rows if row[0][3:].isdigit() and int(row[0][3:]) in cores]
    ticks = sum(int(row[1 + i]) for row in own for i in BUSY if 1 + i < len(row))
    return ticks / os.sysconf("SC_CLK_TCK")
