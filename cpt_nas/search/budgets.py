"""Budgets as a user states them, and as bounds that are checked against what can be reached.

How a search meets them: :mod:`cpt_nas.search.budget_controller`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEASURES = ("latency", "macs", "params")


UNITS: dict[str, dict[str, float]] = {
    "latency": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0},
    "macs": {"k": 1e3, "M": 1e6, "G": 1e9, "": 1.0},
    "params": {"k": 1e3, "M": 1e6, "G": 1e9, "": 1.0},
}


EXAMPLES = {"latency": "12ms or 0.5", "macs": "20M or 0.5", "params": "150k or 0.5"}


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
