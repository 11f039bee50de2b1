"""Whether others wanted the cores, by a made-up kernel's count."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hwprofiles import contention, timing
from hwprofiles.contention import ContentionMeter
from hwprofiles.timing import Measurement, Rounds

TICKS = 100


class Machine:
    """Four cores; time passes when it is told to."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.now, self.own = path, 100.0, 7.0
        self.busy = [50.0] * 4
        monkeypatch.setattr(contention, "STAT", path)
        monkeypatch.setattr(contention, "core_numbers", lambda: {0, 1, 2, 3})
        monkeypatch.setattr(contention.os, "sysconf", lambda name: TICKS)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        self.write()

    def write(self) -> None:
        rows = ["cpu  1 2 3 4 5 6 7 8 0 0"]
        for i, busy in enumerate(self.busy):
            # Half of it as user, half as stolen by other guests; idle and iowait do not count.
            half = round(busy * TICKS / 2)
            rows.append(f"cpu{i} {half} 0 0 999999 888888 0 0 {half} 0 0")
        self.path.write_text("\n".join([*rows, "intr 123", "ctxt 456"]) + "\n")

    def run(self, seconds: float, own: float, others: float) -> None:
        """Let time pass, in which this process and others keep so many cores busy."""
        self.now += seconds
        self.own += own * seconds
        self.busy = [b + (own + others) * seconds / 4 for b in self.busy]
        self.write()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "stat", monkeypatch)


@pytest.mark.parametrize(
    ("threads", "own", "others", "expected"),
    [
        (4, 4.0, 0.0, 0.0),
        (4, 3.0, 1.0, 1.0),  # what was seen when a small network took ten times as long
        (4, 2.0, 2.0, 2.0),
        (1, 1.0, 1.0, 0.0),  # there is room
        (1, 1.0, 3.0, 0.0),
        (1, 0.8, 3.2, 0.2),
        (4, 2.5, 0.0, 0.0),  # threads that wait are not contended
    ],
)
def test_cores_that_are_missing(
    machine: Machine, threads: int, own: float, others: float, expected: float
) -> None:
    meter = ContentionMeter()
    machine.run(5.0, own, others)
    assert meter.read(threads) == pytest.approx(expected, abs=0.02)


def test_cores_of_others_do_not_count(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "core_numbers", lambda: {1})
    meter = ContentionMeter()
    machine.run(5.0, 0.0, 0.0)
    machine.busy[0] += 5.0
    machine.write()
    assert meter.read(1) == pytest.approx(0.0)
    machine.busy[1] += 5.0
    machine.write()
    assert meter.read(1) == pytest.approx(1.0)


def test_too_short_or_no_such_file_is_not_known(machine: Machine) -> None:
    meter = ContentionMeter()
    machine.run(0.1, 1.0, 3.0)
    assert meter.read(4) is None
    machine.path.unlink()
    machine.now += 10
    assert meter.read(4) is None and ContentionMeter().read(4) is None


@pytest.mark.parametrize(("found", "verdict"), [(None, "ok"), (0.05, "ok"), (0.3, "noisy")])
def test_the_verdict_says_so_though_all_rounds_agree(found: float | None, verdict: str) -> None:
    steady = Measurement((1e-3,) * 12, timing.is_contended(found))
    rounds = Rounds({"a": steady}, (1e-4,) * 12, 0.0, 12, found)
    assert rounds.spread == rounds.anchor_spread == 0
    assert rounds.verdict == steady.verdict == verdict
