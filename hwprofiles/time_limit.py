"""A limit to how long measuring may take, so that a slow device says what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable

from hwprofiles.timing import Progress


class TimeLimit:
    """A ``progress`` callback that ends a measurement which takes too long.

    It is asked between two readings, so a single call of a network is never cut short.

    Args:
        seconds: from now on, for all stages together.
        progress: is called with the same; None: nobody.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        seconds: float,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.progress, self.clock = seconds, progress, clock
        self.begin = clock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report on.

        Raises:
            TimeoutError: the time is over and the stage is not; names the stage.
        """
        if self.progress is not None:
            self.progress(stage, done, total)
        if done < total and self.clock() - self.begin > self.seconds:
            raise TimeoutError(
                f"time-limit: {self.seconds:g} s were over during {stage!r}, {done} of {total} "
                "done; nothing was written. Allow more, or measure fewer or smaller models"
            )
