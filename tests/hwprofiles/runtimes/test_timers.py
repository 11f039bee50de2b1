"""Timers: what a block and a sequence read."""

from __future__ import annotations

import weakref

import pytest
import torch

from hwprofiles.runtimes import timers
from hwprofiles.runtimes.timers import CpuTimer, CudaTimer
from tests.support.stand_ins import FakeClock


def test_a_block_is_timed_as_one_and_a_sequence_call_by_call(clock: FakeClock) -> None:
    timer = CpuTimer(clock)
    block = timer.block(clock.work(2e-3), 10)
    assert block.seconds == pytest.approx(2e-2) and block.at == pytest.approx(1e-2)
    a, b = timer.sequence([clock.work(1e-3), clock.work(3e-3)])
    assert (a.seconds, b.seconds) == pytest.approx((1e-3, 3e-3))
    assert (a.at, b.at) == pytest.approx((2.1e-2, 2.4e-2))
    assert not (block.interrupted or a.interrupted or b.interrupted)


def test_only_the_call_that_was_interrupted_says_so(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = 0

    def interrupted() -> None:
        nonlocal switches
        switches += 1

    monkeypatch.setattr(timers, "_involuntary_switches", lambda: switches)
    timer = CpuTimer(clock)
    readings = timer.sequence([lambda: None, interrupted, lambda: None])
    assert [r.interrupted for r in readings] == [False, True, False]
    assert timer.block(interrupted, 1).interrupted
    assert not timer.block(lambda: None, 5).interrupted


def test_the_last_outputs_of_a_sequence_stay_alive(clock: FakeClock) -> None:
    class Output:
        pass

    alive: list[int] = []
    made: list[weakref.ref[Output]] = []

    def case() -> Output:
        alive.append(sum(r() is not None for r in made))
        output = Output()
        made.append(weakref.ref(output))
        return output

    CpuTimer(clock).sequence([case] * 6)
    assert alive == [0, 1, 2, 3, 3, 3]


@pytest.mark.gpu
def test_cuda_events_see_the_devices_time() -> None:
    device = torch.device("cuda")
    a = torch.rand(2048, 2048, device=device)
    timer = CudaTimer(device)
    timer.block(lambda: a @ a, 10)
    one, ten = timer.block(lambda: a @ a, 5).seconds, timer.block(lambda: a @ a, 50).seconds
    # Launching alone would take some microseconds a call; the product takes far longer.
    assert 5 < ten / one < 20
    readings = timer.sequence([lambda: a @ a, lambda: a + 1])
    assert readings[0].seconds > readings[1].seconds > 0
