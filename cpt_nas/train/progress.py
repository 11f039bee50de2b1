"""What a person sees while a run trains: one bar, and one line an epoch."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cpt_nas.pruning.structure import Structure
from cpt_nas.search.search import Search
from cpt_nas.train.evaluate import Meter
from cpt_nas.train.run_rows import HistoryRow

EVERY = 10  # steps after which the numbers are read, which waits for the device


class Progress:
    """A rich bar over an epoch's steps and a log line at its end."""

    def __init__(self, console: Console, epochs: int, steps: int) -> None:
        self.console, self.epochs, self.steps = console, epochs, steps
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("epoch", total=steps, numbers="")
        self.step = 0
        self.passed = 0

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
        self.step += 1
        self.bar.advance(self.task)
        if self.bar.disable or self.step % EVERY:
            return
        sums = meter.sums.tolist()
        numbers = f"loss {sums[0] / sums[2]:.3f} acc {100 * sums[1] / sums[2]:.1f}%"
        if search is not None:
            left = search.structure()
            numbers += (
                f" cost {search.expected_cost():.2f}"
                f" branches {left.branches_left}/{dense.branches_left}"
                f" units {left.units_left}/{dense.units_left}"
                f" undecided {search.undecided():.0%}"
            )
        self.bar.update(self.task, numbers=numbers)

    def epoch(self, row: HistoryRow) -> None:
        self.console.print(
            f"epoch {row.epoch:>3}/{self.epochs}"
            f"  loss {row.train_loss:.3f}  train {row.train_acc:.1f}%"
            f"  test {row.test_acc:.2f}%  cost {row.expected_cost:.3f}"
            f"  MACs {row.macs_ratio:.3f}  branches {row.branches_left}"
            f"  units {row.units_left}  undecided {row.undecided:.0%}"
            f"  {row.epoch_s:.1f} s",
            highlight=False,
        )
        self.bar.reset(self.task, description=f"epoch {row.epoch + 1}/{self.epochs}")
