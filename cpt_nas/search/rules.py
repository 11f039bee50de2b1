"""Which update rule a search's settings ask for; the only place that chooses."""

from __future__ import annotations

from cpt_nas.search import budgets
from cpt_nas.search.budget_controller import BudgetController
from cpt_nas.search.dual_ascent import DualAscent
from cpt_nas.search.fixed_level import FixedLevel
from cpt_nas.search.regularizer import OBJECTIVE, Regularizer
from cpt_nas.search.schedules import LevelSchedule
from cpt_nas.search.settings import STOCHASTIC, SearchSettings
from cpt_nas.search.update_rule import UpdateRule


def make_update_rule(
    regularizer: Regularizer, settings: SearchSettings, channel_divisor: int
) -> UpdateRule:
    """The rule that moves the gates.

    Raises:
        BudgetError: a budget cannot be met.
    """
    bounds = budgets.resolve(
        settings.amounts(), regularizer.dense, regularizer.lowest_costs(channel_divisor)
    )
    rate = settings.rate()
    if not bounds:
        level = regularizer.law.log_gamma.value
        assert level is not None, "only a budget leaves it open"
        ramp = LevelSchedule(level, settings.warmup_steps, settings.ramp_steps)
        return FixedLevel(regularizer, ramp, rate)
    schedule = settings.budget_schedule()
    charged = {m: m if settings.cost is None else OBJECTIVE for m in bounds}
    if settings.method == STOCHASTIC:
        return DualAscent(regularizer, bounds, charged, schedule, channel_divisor, rate)
    freeze = settings.freeze_step or schedule.end + schedule.ramp
    settling = max(1, freeze - schedule.end)
    return BudgetController(regularizer, bounds, charged, schedule, channel_divisor, rate, settling)
