"""What is seen of a training: lines at intervals where it is piped, a bar where somebody looks."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from cpt_nas.pruning.structure import Structure
from cpt_nas.train.evaluate import Meter
from cpt_nas.train.progress import LINE_S, Progress
from cpt_nas.train.run_rows import HistoryRow, columns
from tests.support.stand_ins import FakeClock

EPOCHS, STEPS = 3, 20
DENSE = Structure(architecture="x", model_kwargs={}, branches={})


class HalfRight(Meter):
    """Mean loss 0.5, accuracy 75 %; counts how often it is read."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.add(torch.tensor(0.5), torch.eye(2)[[0, 0, 0, 1]], torch.zeros(4, dtype=torch.long))
        self.reads = 0

    def read_own(self) -> tuple[float, float]:
        self.reads += 1
        return super().read_own()


class Deciding:
    """Stands in for a search half-way."""

    def structure(self) -> Structure:
        return DENSE

    def expected_cost(self) -> float:
        return 0.625

    def undecided(self) -> float:
        return 0.25


def row(epoch: int) -> HistoryRow:
    return HistoryRow(**(dict.fromkeys(columns(HistoryRow), 0.0) | {"epoch": epoch}))


def seen(
    step_s: float, console: Console, meter: Meter, *, search: object = None, epochs: int = 1
) -> list[tuple[float, str]]:
    """(time, line) of all that a training prints whose steps take ``step_s``."""
    clock, lines, told = FakeClock(), [], 0
    with Progress(console, EPOCHS, STEPS, clock=clock) as progress:
        for epoch in range(epochs):
            for step in range(STEPS + 1):
                if step < STEPS:
                    clock.now += step_s
                    progress.advance(meter, search, DENSE)
                else:
                    progress.epoch(row(epoch + 1))
                written = console.file.getvalue().splitlines()
                lines += [(clock.now, line) for line in written[told:]]
                told = len(written)
    return lines


def piped() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


@pytest.mark.parametrize("step_s", [0.3, 7.0, 29.0, 45.0])
def test_between_two_lines_of_a_log_are_thirty_seconds(step_s: float) -> None:
    lines = seen(step_s, piped(), HalfRight(), epochs=EPOCHS)
    within = [(now, line) for now, line in lines if "  step " in line]
    assert len(lines) - len(within) == EPOCHS  # a line an epoch, as ever
    for (before, _), (now, line) in zip([(0.0, ""), *lines], lines):
        assert "  step " not in line or now - before >= LINE_S
    steps_a_line = -(-LINE_S // step_s)
    assert len(within) == EPOCHS * (STEPS // steps_a_line)


def test_a_line_says_where_and_how_well() -> None:
    (_, first), *_ = seen(16.0, piped(), HalfRight())
    assert first == "epoch   1/3  step 2/20  loss 0.500 acc 75.0%"


def test_a_search_says_how_far_it_is_on_one_line() -> None:
    """However narrow the console: a log is read by the line."""
    (_, first), *_ = seen(16.0, piped(), HalfRight(), search=Deciding())
    assert first.endswith("acc 75.0% cost 0.62 branches 0/0 units 0/0 undecided 25%")


def test_a_quick_epoch_is_one_line_and_does_not_wait_for_the_device() -> None:
    meter = HalfRight()
    lines = seen(0.1, piped(), meter)
    assert [line[:11] for _, line in lines] == ["epoch   1/3"] and meter.reads == 0


def test_quiet_is_quiet() -> None:
    meter = HalfRight()
    assert seen(60.0, Console(file=io.StringIO(), quiet=True), meter) == [] and meter.reads == 0


def test_a_terminal_has_a_bar_and_only_the_epochs_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    meter = HalfRight()
    lines = [line for _, line in seen(60.0, console, meter)]
    assert not any("  step " in line for line in lines)
    assert meter.reads == STEPS // 10
    assert any("loss 0.000  train" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "has_bar"), [("force_terminal", True), ("force_jupyter", True), ("quiet", False)]
)
def test_where_there_is_a_bar(kind: str, has_bar: bool) -> None:
    console = Console(file=io.StringIO(), **{kind: True})
    progress = Progress(console, EPOCHS, STEPS, done=1)
    assert progress.bar.disable != has_bar
    assert progress.bar.tasks[0].description == "epoch 2/3"
