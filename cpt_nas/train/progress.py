"""What a person sees while a run trains: a bar in a terminal or notebook, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cpt_nas.pruning.structure import Structure
from cpt_nas.search.search import Search
from cpt_nas.train.evaluate import Meter
from cpt_nas.train.run_rows import HistoryRow

EVERY = 10  # steps after which the bar's numbers are read, which waits for the device
LINE_S = 30.0  # at least, between two lines of an epoch where there is no bar


class Progress:
    """A bar over an epoch's steps, or a plain line now and then; and a line at an epoch's end.

    Args:
        console: where it goes; a bar is drawn in terminals and notebooks only, since a log file
            would fill with its control characters.
        epochs: of the whole training.
        steps: an epoch.
        done: epochs that a resumed training has behind it.
        clock: seconds, never backwards.
    """

    def __init__(
        self,
        console: Console,
        epochs: int,
        steps: int,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.epochs, self.steps, self.clock = console, epochs, steps, clock
        self.bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=console,
            transient=True,
            disable=not (console.is_terminal or console.is_jupyter),
        )
        self.task = self.bar.add_task(f"epoch {done + 1}/{epochs}", total=steps, numbers="")
        self.current, self.step = done + 1, 0
        self.last_line_s = clock()

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def advance(self, meter: Meter, search: Search | None, dense: Structure) -> None:
        """A step has been done."""
        self.step += 1
        self.bar.advance(self.task)
        if not self.bar.disable:
            if self.step % EVERY == 0:
                self.bar.update(self.task, numbers=live_numbers(meter, search, dense))
        elif not self.console.quiet and self.clock() - self.last_line_s >= LINE_S:
            self._line(
                f"epoch {self.current:>3}/{self.epochs}  step {self.step}/{self.steps}"
                f"  {live_numbers(meter, search, dense)}"
            )

    def epoch(self, row: HistoryRow) -> None:
        """An epoch has ended."""
        self._line(
            f"epoch {row.epoch:>3}/{self.epochs}"
            f"  loss {row.train_loss:.3f}  train {row.train_acc:.1f}%"
            f"  test {row.test_acc:.2f}%  cost {row.expected_cost:.3f}"
            f"  MACs {row.macs_ratio:.3f}  branches {row.branches_left}"
            f"  units {row.units_left}  undecided {row.undecided:.0%}"
            f"  {row.epoch_s:.1f} s"
        )
        self.current, self.step = row.epoch + 1, 0
        self.bar.reset(self.task, description=f"epoch {self.current}/{self.epochs}")

    def _line(self, text: str) -> None:
        # Soft-wrapped: in a file a line stays one line, however long.
        self.console.print(text, highlight=False, soft_wrap=True)
        self.last_line_s = self.clock()


def live_numbers(meter: Meter, search: Search | None, dense: Structure) -> str:
    """Loss and accuracy of this process so far, and how far the search is; waits for the device."""
    loss, accuracy = meter.read_own()
    numbers = f"loss {loss:.3f} acc {accuracy:.1f}%"
    if search is None:
        return numbers
    left = search.structure()
    return (
        f"{numbers} cost {search.expected_cost():.2f}"
        f" branches {left.branches_left}/{dense.branches_left}"
        f" units {left.units_left}/{dense.units_left}"
        f" undecided {search.undecided():.0%}"
    )
