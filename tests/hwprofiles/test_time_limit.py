"""Measuring ends after a limit, and says what it was waiting for."""

from __future__ import annotations

import pytest

from hwprofiles import TimeLimit, fresh_process, measure
from hwprofiles.fresh_process import Fresh
from hwprofiles.runtimes.timers import CpuTimer
from hwprofiles.timing import measure_rounds
from tests.support.stand_ins import FakeClock, TinyNet


@pytest.mark.parametrize(
    ("seconds", "waited_for"),
    [(5.0, "'warm-up', 2 of 4"), (33.0, "'warm-up', 3 of 4"), (60.0, "'rounds', 1 of 15")],
)
def test_what_it_waits_for_is_said(clock: FakeClock, seconds: float, waited_for: str) -> None:
    seen: list[tuple[str, int, int]] = []
    limit = TimeLimit(seconds, lambda *state: seen.append(state), clock)
    blocks = {"a": clock.work(3.0), "b": clock.work(4.0)}
    chain = [("c", clock.work(9.0))]
    message = f"time-limit: {seconds:g} s were over during {waited_for} done; nothing was written"
    with pytest.raises(TimeoutError, match=message):
        measure_rounds(blocks, clock.work(1e-4), CpuTimer(clock), [chain, chain], progress=limit)
    assert clock.now < seconds + 20  # one call longer at most, not one round
    assert seen[0] == ("warm-up", 0, 4) and len(seen) < 30


def test_what_ends_in_time_is_kept(clock: FakeClock) -> None:
    limit = TimeLimit(1.0, clock=clock)
    limit("rounds", 0, 2)
    clock.now = 5.0
    limit("rounds", 2, 2)
    with pytest.raises(TimeoutError, match="during 'facts', 0 of 1"):
        limit("facts", 0, 1)


def test_every_stage_of_measuring_begins_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_process, "run_fresh", lambda *_: Fresh())  # a process each
    seen: list[tuple[str, int, int]] = []
    models = {"a": TinyNet(), "b": TinyNet(8)}
    measure(models, (3, 8, 8), rounds=10, min_s=0.0, progress=lambda *s: seen.append(s))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == [
        "tracing",
        *("channel divisor, warm-up", "channel divisor, rounds"),
        *("warm-up", "rounds", "facts"),
    ]
    for stage in stages:
        states = [(done, total) for name, done, total in seen if name == stage]
        assert states[0][0] == 0 and states[-1][0] == states[-1][1]
        assert all(0 <= done <= total for done, total in states)
