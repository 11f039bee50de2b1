"""The tail of single calls, by a clock that is told what to say."""

from __future__ import annotations

import pytest

from hwprofiles.runtimes.timers import CpuTimer
from hwprofiles.single_calls import time_single_calls
from tests.support.stand_ins import FakeClock


def test_one_slow_call_in_twenty_is_seen_by_the_p99_and_not_by_the_p90(clock: FakeClock) -> None:
    calls = iter(range(10**6))
    quick, slow = clock.work(1e-3), clock.work(5e-3)

    def case() -> None:
        (slow if next(calls) % 20 == 0 else quick)()

    tail = time_single_calls(case, CpuTimer(clock), 1e-3)
    assert tail.calls == 1000
    assert tail.p90_s == pytest.approx(1e-3) and tail.p99_s == pytest.approx(5e-3)


@pytest.mark.parametrize(
    ("seconds", "calls"), [(1e-6, 1000), (5e-3, 200), (0.05, 100), (0.2, 50), (60.0, 10)]
)
def test_slow_networks_are_called_less_often(clock: FakeClock, seconds: float, calls: int) -> None:
    tail = time_single_calls(clock.work(seconds), CpuTimer(clock), seconds)
    assert tail.calls == calls and tail.p90_s == pytest.approx(seconds)
    # No hundredth of fifty calls is a call.
    assert (tail.p99_s is None) == (calls < 100)
