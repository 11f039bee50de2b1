"""The pruning level: fixed after a ramp, or steered so that the cost meets a budget.

The expected cost follows a target that falls from 1 to the budget (shares of the dense network's)
in the ramp. The controller is an integral controller on the logarithm of log gamma, because nobody
knows beforehand which decade is the right one:

    d ln(log gamma) = rate * clip(excess / SOFT, -1, 1),  excess = cost + horizon * slope - target

Theta moves at its own rate whatever the price, so the cost lags behind the level. Looking ahead by
the time in which a gate crosses half of its range is what keeps the level from winding up: while
the cost already falls fast enough, the level stays. What is still missing at the end of the ramp is
made up while the gates settle (:meth:`cpt_nas.search.Search.step`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MEASURES = ("latency", "macs", "params")
UNITS: dict[str, dict[str, float]] = {
    "latency": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0},
    "macs": {"k": 1e3, "M": 1e6, "G": 1e9, "": 1.0},
    "params": {"k": 1e3, "M": 1e6, "G": 1e9, "": 1.0},
}
EXAMPLES = {"latency": "12ms or 0.5", "macs": "20M or 0.5", "params": "150k or 0.5"}

SOFT = 0.05  # an excess of this share of the dense cost moves the level at its full rate
DECADES = 10.0  # that the level can move during the ramp, at its full rate
LEVELS = (1e-4, 1e3)  # log gamma's bounds; the papers' are between 0.001 and 1
START = 0.02  # log gamma at the end of the warm-up
SLOPE_MEMORY = 0.8  # of the running mean of the cost's slope
POLARIZE = 0.5  # the polarising term's level over log gamma's; at 1 no open gate feels the price


@dataclass(frozen=True)
class Amount:
    """A budget as the user states it.

    Attributes:
        value: in (0, 1] for a share, else seconds, multiply-adds or parameters, above 0.
        share: it is a share of the dense network's cost.
    """

    value: float
    share: bool


class BudgetError(ValueError):
    """A budget that cannot be met.

    Attributes:
        table: rows (constraint, dense, budget, lowest possible), in words.
    """

    def __init__(self, message: str, table: Sequence[tuple[str, ...]]) -> None:
        super().__init__(message)
        self.table = list(table)


def parse_amount(measure: str, value: str | float) -> Amount:
    """Read '12ms', '0.012s', '150k', or 0.5 for a share of the dense network's.

    Raises:
        ValueError: not a number, without a unit where one is needed, or out of range.
    """
    text = str(value).strip()
    allowed = f"such as {EXAMPLES[measure]}"
    match = re.fullmatch(r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµ]*)", text)
    try:
        number = float(match.group(1)) if match else math.nan
    except ValueError:
        number = math.nan
    unit = match.group(2) if match else ""
    if not match or math.isnan(number):
        raise ValueError(f"must be a number with a unit or a share, {allowed}")
    if not (0 < number < math.inf):
        raise ValueError(f"must be above 0, {allowed}")
    if not unit and number <= 1:
        return Amount(number, share=True)
    if unit not in UNITS[measure]:
        units = ", ".join(u for u in UNITS[measure] if u)
        raise ValueError(f"must be a share up to 1 or have a unit of {units}, {allowed}")
    return Amount(number * UNITS[measure][unit], share=False)


def format_amount(measure: str, value: float) -> str:
    """A cost in a readable unit: '12.3 ms', '20.5 M', '150 k'."""
    units = sorted(((size, u) for u, size in UNITS[measure].items() if u != "µs"), reverse=True)
    size, unit = next(((s, u) for s, u in units if value >= s), units[-1])
    return f"{value / size:.4g} {unit}".rstrip()


def resolve(
    amounts: Mapping[str, Amount], dense: Mapping[str, float], lowest: Mapping[str, float]
) -> dict[str, float]:
    """Measure -> budget in the measure's unit, checked against what can be reached.

    Args:
        amounts: as the user stated them; every measure is one of ``dense``.
        dense: the dense network's costs.
        lowest: costs with everything removed that can be.

    Raises:
        BudgetError: below the lowest possible, or the dense network is within all of them.
    """
    budgets = {m: a.value * dense[m] if a.share else a.value for m, a in amounts.items()}
    table = [
        (m, *(format_amount(m, value) for value in (dense[m], bound, lowest[m])))
        for m, bound in budgets.items()
    ]
    low = [
        f"{m} {bound} is below the lowest possible, {least} (dense: {full})"
        for m, full, bound, least in table
        if budgets[m] < lowest[m]
    ]
    if low:
        raise BudgetError(f"budget: {'; '.join(low)}", table)
    if budgets and all(b >= dense[m] for m, b in budgets.items()):
        listed = "; ".join(f"{m}: budget {bound}, dense {full}" for m, full, bound, _ in table)
        raise BudgetError(f"budget: the dense network is within it already ({listed})", table)
    return budgets


class Level(Protocol):
    """What log gamma is, step by step."""

    def level(self, step: int) -> float:
        """log gamma."""

    def polarizing(self, step: int) -> float:
        """The level of the polarising term."""

    def target(self, step: int) -> float:
        """The share of the dense cost that is wanted now; NaN where none is."""

    def update(self, step: int, share: float) -> None:
        """Take a step: ``share`` is the expected cost over the dense network's now."""

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class Ramp:
    """A level without a budget: 0 during the warm-up, then rising linearly to ``log_gamma``.

    Attributes:
        log_gamma: the final level.
        warmup, ramp: steps before it rises, and in which it does.
    """

    log_gamma: float
    warmup: int
    ramp: int

    def level(self, step: int) -> float:
        since = step - self.warmup
        share = since / self.ramp if self.ramp else float(since >= 0)
        return self.log_gamma * min(1.0, max(0.0, share))

    def polarizing(self, step: int) -> float:
        return self.level(step)

    def target(self, step: int) -> float:
        return math.nan

    def update(self, step: int, share: float) -> None:
        pass

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        pass


class Controller:
    """Steers one log gamma so that one cost follows its target.

    Args:
        budget: share of the dense cost, 0..1.
        warmup, ramp: steps before the target starts to fall, and in which it falls.
        crossing: steps in which a theta can go from 1 to 0.
    """

    def __init__(self, budget: float, warmup: int, ramp: int, crossing: float) -> None:
        self.budget, self.warmup, self.ramp = budget, warmup, ramp
        self.log_gamma = START
        self.horizon = crossing / 2 + 10
        # Faster than theta answers would only overshoot.
        self.rate = DECADES * math.log(10) / max(ramp, 2 * crossing)
        self.cost = 1.0
        self.slope = 0.0

    def level(self, step: int) -> float:
        return self.log_gamma if step >= self.warmup else 0.0

    def polarizing(self, step: int) -> float:
        return POLARIZE * self._progress(step) * self.level(step)

    def target(self, step: int) -> float:
        return 1.0 - (1.0 - self.budget) * self._progress(step)

    def update(self, step: int, share: float) -> None:
        self.slope = SLOPE_MEMORY * self.slope + (1 - SLOPE_MEMORY) * (share - self.cost)
        self.cost = share
        if step < self.warmup:
            return
        excess = share + self.horizon * self.slope - self.target(step)
        move = self.rate * max(-1.0, min(1.0, excess / SOFT))
        self.log_gamma = max(LEVELS[0], min(LEVELS[1], self.log_gamma * math.exp(move)))

    def _progress(self, step: int) -> float:
        """0 before the ramp, 1 after it."""
        return min(1.0, max(0.0, (step - self.warmup) / self.ramp))

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("log_gamma", "cost", "slope")}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        for name in ("log_gamma", "cost", "slope"):
            setattr(self, name, float(state[name]))
