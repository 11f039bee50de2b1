"""When the search asks for how much: the level of a fixed price, and the falling target of budgets.

Both leave the gates alone during the warm-up. Then the level rises linearly
(:class:`LevelSchedule`), or the gates' importance is first estimated and then the cost falls
linearly (:class:`BudgetSchedule`).
"""

from __future__ import annotations

from dataclasses import dataclass

ESTIMATION = 0.6  # of the ramp, in which the gates are sampled and nothing closes yet; the default
ALLOCATIONS = 10  # while the target falls


@dataclass(frozen=True)
class LevelSchedule:
    """log gamma without a budget: 0 during the warm-up, then rising linearly.

    Attributes:
        log_gamma: the final level.
        warmup, ramp: steps before it rises, and in which it does.
    """

    log_gamma: float
    warmup: int
    ramp: int

    def level(self, step: int) -> float:
        """log gamma at a step."""
        since = step - self.warmup
        share = since / self.ramp if self.ramp else float(since >= 0)
        return self.log_gamma * min(1.0, max(0.0, share))


@dataclass(frozen=True)
class BudgetSchedule:
    """How the costs fall from the dense network's to their budgets; one schedule for all budgets.

    Attributes:
        warmup, ramp: steps before the gates are sampled, and until the targets are the budgets.
        estimation: share of the ramp in which the gates' importance is estimated; then costs fall.
    """

    warmup: int
    ramp: int
    estimation: float = ESTIMATION

    @property
    def begin(self) -> int:
        """The step at which the targets start to fall."""
        return self.warmup + int(self.estimation * self.ramp)

    @property
    def end(self) -> int:
        """The step from which on the targets are the budgets."""
        return self.warmup + self.ramp

    @property
    def interval(self) -> int:
        """Steps between two allocations while the targets fall."""
        return max(1, (self.end - self.begin) // ALLOCATIONS)

    def target(self, step: int, budget: float) -> float:
        """The share of the dense cost that is wanted at a step, for a budget that is a share."""
        share = (step - self.begin) / max(1, self.end - self.begin)
        return 1.0 - (1.0 - budget) * min(1.0, max(0.0, share))

    def is_probing(self, step: int) -> bool:
        """Whether open gates must sometimes be off, so that their importance is known."""
        return self.warmup <= step < self.end

    def is_allocation(self, step: int) -> bool:
        """Whether it is decided anew at this step what stays."""
        if step == self.end:
            return True
        return self.begin <= step < self.end and (step - self.begin) % self.interval == 0
