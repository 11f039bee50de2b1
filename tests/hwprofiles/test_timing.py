"""Statistics on a fake clock: no real time is asserted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from hwprofiles.fit import Point, fit_layer
from hwprofiles.layers import Coefficients
from hwprofiles.runtimes import timers
from hwprofiles.runtimes.timers import CpuTimer
from hwprofiles.timing import Measurement, Rounds, measure_rounds
from tests.support.stand_ins import FakeClock


def rounds_on(clock: FakeClock, costs: dict[str, float], **settings: float) -> Rounds:
    return measure_rounds(
        {label: clock.work(seconds) for label, seconds in costs.items()},
        clock.work(1e-4),
        CpuTimer(clock),
        **settings,  # type: ignore[arg-type]
    )


def test_quiet_machine(clock: FakeClock) -> None:
    timed = rounds_on(clock, {"a": 1e-3, "b": 5e-6})
    assert timed.measurements["a"].median_s == pytest.approx(1e-3)
    assert timed.measurements["b"].median_s == pytest.approx(5e-6)
    assert timed.measurements["a"].n == 15
    assert timed.verdict == "ok"


def test_drift_is_divided_out(clock: FakeClock) -> None:
    # Speed falls by 40 % and comes back, some times within the measurement.
    clock.drift = lambda now: 1.2 + 0.2 * math.cos(now / 0.3)
    timed = rounds_on(clock, {"a": 1e-3, "b": 3e-4}, min_s=4.0, reference_s=1e-4)
    assert timed.anchor_spread > 0.2 and timed.exponent == 1
    assert timed.measurements["a"].median_s == pytest.approx(1e-3, rel=0.02)
    assert timed.measurements["b"].median_s == pytest.approx(3e-4, rel=0.02)


def test_drift_between_sessions_is_divided_out(clock: FakeClock) -> None:
    first = rounds_on(clock, {"a": 1e-3})
    clock.drift = lambda now: 1.3 + 0.05 * math.cos(now / 0.3)
    alone = rounds_on(clock, {"a": 1e-3}, min_s=2.0)
    second = rounds_on(clock, {"a": 1e-3}, min_s=2.0, reference_s=first.reference_s)
    assert first.reference_s == second.reference_s == pytest.approx(1e-4)
    assert second.measurements["a"].median_s == pytest.approx(1e-3, rel=0.02)
    # Without a reference times are the session's own typical ones.
    assert alone.measurements["a"].median_s == pytest.approx(1.3e-3, rel=0.02)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_cases_that_follow_the_anchor_less_are_corrected_less(
    clock: FakeClock, power: float
) -> None:
    def speed() -> float:
        return 1.3 + 0.3 * math.cos(clock.now / 0.3)

    def anchor() -> None:
        clock.now += 1e-4 * speed()

    def case() -> None:
        clock.now += 1e-3 * speed() ** power

    timed = measure_rounds({"a": case}, anchor, CpuTimer(clock), min_s=4.0, reference_s=1e-4)
    assert timed.exponent == power
    assert timed.measurements["a"].spread < 0.01
    assert timed.measurements["a"].median_s == pytest.approx(1e-3, rel=0.02)


def test_outliers_do_not_move_the_median(clock: FakeClock) -> None:
    clock.jitter, clock.outliers = 0.02, 0.1
    timed = rounds_on(clock, {"a": 1e-3}, rounds=60, block_s=1e-3)
    assert timed.measurements["a"].median_s == pytest.approx(1e-3, rel=0.02)


def test_known_coefficients_are_recovered(clock: FakeClock) -> None:
    clock.jitter, clock.outliers = 0.02, 0.05
    clock.drift = lambda now: 1.15 + 0.15 * math.sin(now / 0.5)
    truth = Coefficients(2e-5, 3e-7, 5e-7, 1e-8)
    widths = [(i, o) for i in (16, 32, 64) for o in (16, 32, 64)]
    chain = [(f"{i} {o}", clock.work(truth.at(i, o))) for i, o in widths]
    timed = measure_rounds(
        {}, clock.work(1e-4), CpuTimer(clock), [chain], min_s=6.0, reference_s=1e-4
    )
    points = [Point(i, o, timed.measurements[f"{i} {o}"].median_s) for i, o in widths]
    fitted = fit_layer(points, "dense", (64, 64)).coefficients
    for i in (8, 24, 48, 64):
        for o in (8, 24, 48, 64):
            assert fitted.at(i, o) == pytest.approx(truth.at(i, o), rel=0.02)


def test_interrupted_readings_are_dropped(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = 0

    def sometimes_interrupted() -> None:
        nonlocal switches
        interrupted = clock.random.random() < 0.4
        switches += interrupted
        clock.now += 3e-3 if interrupted else 1e-3

    monkeypatch.setattr(timers, "_involuntary_switches", lambda: switches)
    chain = [("a", sometimes_interrupted)]
    timed = measure_rounds({}, clock.work(1e-4), CpuTimer(clock), [chain], rounds=40)
    assert timed.measurements["a"].times_s == pytest.approx([1e-3] * timed.measurements["a"].n)
    assert 10 <= timed.measurements["a"].n < 40


@pytest.mark.parametrize(
    ("shares", "is_clean", "same_rounds"),
    [
        ([0.1, 0.4], True, True),  # both clean in enough rounds
        ([0.1, *[0.5] * 6], True, False),  # each is, but not all at once
        ([0.1, 0.95], False, True),  # one hardly ever is
    ],
)
def test_which_readings_count_is_decided_for_all_labels_together(
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    shares: list[float],
    is_clean: bool,
    same_rounds: bool,
) -> None:
    switches = 0

    def busy(share: float) -> Callable[[], None]:
        def case() -> None:
            nonlocal switches
            interrupted = clock.random.random() < share
            switches += interrupted
            clock.now += 10e-3 if interrupted else 1e-3

        return case

    monkeypatch.setattr(timers, "_involuntary_switches", lambda: switches)
    chain = [(f"{i}", busy(share)) for i, share in enumerate(shares)]
    timed = measure_rounds({}, clock.work(1e-4), CpuTimer(clock), [chain], rounds=24)
    found = timed.measurements.values()
    assert [max(m.times_s) < 5e-3 for m in found] == [is_clean] * len(shares)
    assert min(m.n for m in found) >= 10
    assert (len({m.n for m in found}) == 1) == same_rounds


def test_if_all_is_interrupted_the_readings_stay(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "_involuntary_switches", itertools.count().__next__)
    timed = rounds_on(clock, {"a": 1e-3}, rounds=12)
    assert timed.measurements["a"].n == timed.rounds == 24  # more, for some might have been clean


def test_a_label_in_many_places_gives_one_reading_a_round(clock: FakeClock) -> None:
    chain = [("a", clock.work(1e-3)), ("b", clock.work(2e-3)), ("a", clock.work(1e-3))]
    timed = measure_rounds({}, clock.work(1e-4), CpuTimer(clock), [chain], rounds=12)
    assert timed.measurements["a"].n == timed.measurements["b"].n == 12
    assert timed.measurements["b"].median_s == pytest.approx(2e-3)


def test_goes_on_for_as_long_as_asked(clock: FakeClock) -> None:
    timed = rounds_on(clock, {"a": 1e-3}, min_s=1.0)
    assert timed.rounds > 100 and clock.now > 1.0


def test_a_noisy_machine_is_called_noisy(clock: FakeClock) -> None:
    clock.drift = lambda now: 2.0 if int(now / 0.05) % 2 else 1.0
    assert rounds_on(clock, {"a": 1e-3}, rounds=40).verdict == "noisy"
    clock.drift = lambda now: 1.0
    clock.jitter = 0.2
    assert rounds_on(clock, {"a": 3e-3}, rounds=40).measurements["a"].verdict == "noisy"


def test_progress_is_reported(clock: FakeClock) -> None:
    seen: list[tuple[str, int, int]] = []
    measure_rounds(
        {"a": clock.work(1e-3)},
        clock.work(1e-4),
        CpuTimer(clock),
        rounds=10,
        progress=lambda *state: seen.append(state),
    )
    assert seen[-1] == ("rounds", 10, 10)
    assert ("warm-up", 3, 3) in seen


def test_sessions_are_joined_at_the_first_one_s_speed() -> None:
    first = Rounds({"dense": Measurement((2.0, 2.0)), "a": Measurement((1.0, 1.2))}, (1.0,), 3.0, 2)
    second = Rounds({"dense": Measurement((4.0, 4.0)), "b": Measurement((3.0, 5.0))}, (2.0,), 1, 2)
    both = first.joined(second, ["dense"])
    assert {k: m.times_s for k, m in both.measurements.items()} == {
        "dense": (2.0, 2.0),
        "a": (1.0, 1.2),
        "b": (1.5, 2.5),
    }
    assert both.anchors_s == (1.0, 1.0) and both.warm_up_s == 4.0 and both.contention is None


def test_too_few_rounds(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="rounds: 9, allowed is 10 or more"):
        rounds_on(clock, {"a": 1e-3}, rounds=9)


def test_measurement_statistics() -> None:
    m = Measurement((1.0, 2.0, 3.0, 4.0, 5.0))
    assert (m.q25_s, m.median_s, m.q75_s, m.n) == (2.0, 3.0, 4.0, 5)
    assert m.spread == pytest.approx(2 / 3) and m.verdict == "noisy"
