"""The settings of a search, in steps (attach) and in shares of a training (a recipe)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cpt_nas.gates.bernoulli import ESTIMATORS
from cpt_nas.search.budgets import MEASURES, Amount, parse_amount
from cpt_nas.search.schedules import ESTIMATION, BudgetSchedule
from cpt_nas.sections import Section
from hwprofiles import Target

COMPLEXITY, LATENCY = "complexity", "latency"
ALLOCATE, STOCHASTIC = "allocate", "stochastic"


THETA_LR, MOST_THETA_LR = 0.02, 0.1


CROSSINGS = 5  # of theta's range that the search leaves time for


CLOSED_AFTER = 2 / 3  # of theta's range between two allocations, under a budget


MOST = 1_000_000  # of whatever is counted or multiplied; float32 holds its square


class _Search(Section):
    """What a search in steps and one in shares of a training have in common.

    Attributes:
        latency_budget: '12ms', or a share of the dense network's such as 0.5; by the profile.
        params_budget: '150k', or a share of the dense network's.
        macs_budget: '20M', or a share. Of several budgets all hold.
        log_gamma: pruning level, the price of the whole network a branch (eq. 13); where there is
            a budget, it follows from that.
        method: how a budget is met: 'allocate' (the default: what has the least importance for its
            cost closes) or 'stochastic' (theta follows the papers' stochastic gradient, and log
            gamma moves until the budget holds). Without a budget it is always stochastic.
        cost: what is charged: 'latency' (the profile's seconds a layer) or 'complexity' (eqs.
            9-13); default: the budgets' own measures, else latency where a profile is given.
        alpha: computation (1) against parameters (0), where the cost is complexity; default: the
            profile's, else 0.5.
        kappa: layers against units, where the cost is complexity and branches have gates; default:
            the profile's, else 0.
        gate: 'both', 'layers' (concurrent layer pruning) or 'units' (unit pruning only).
        estimator: how theta's gradient is estimated from the samples, see :mod:`cpt_nas.gates`.
        theta_init: every gate's first theta.
        theta_lr: Adam's rate for theta; default: so that a gate could cross its range 5 times
            before the freeze, and at least 0.02. Where a budget is met by allocation, what theta
            moves in a step while the target falls; default: two thirds of its range between two
            allocations.
        threshold: a gate whose theta is at or below it is removed for good.
        cut_interval: steps between two checks of what can be cut.
        estimation: with a budget, the share of the ramp in which the gates' importance is only
            estimated; then the cost falls.
        rewind: at the freeze the weights go back to where they began, and the optimizer forgets;
            what the search has learned then is the structure alone.
        channel_divisor: widths are rounded up to a multiple; default: the profile's, else 1.
        fold: gates are folded into weights; false: activations are multiplied (the slow
            reference).
        include: patterns of the names of the branches that are searched; empty: all.
        exclude: patterns of the names of branches that are left as they are.
    """

    latency_budget: str | float | None = None
    params_budget: str | float | None = None
    macs_budget: str | float | None = None
    log_gamma: float | None = Field(default=None, ge=0, le=MOST)
    method: Literal["allocate", "stochastic"] | None = None
    cost: Literal["latency", "complexity"] | None = None
    alpha: float | None = Field(default=None, ge=0, le=1)
    kappa: float | None = Field(default=None, ge=0, le=MOST)
    gate: Literal["both", "layers", "units"] = "both"
    estimator: str = "endpoint"
    theta_init: float = Field(default=1.0, gt=0, le=1)
    theta_lr: float | None = Field(default=None, gt=0, le=1)
    threshold: float = Field(default=0.1, ge=0, lt=0.5)
    cut_interval: int = Field(default=25, gt=0, le=MOST)
    estimation: float = Field(default=ESTIMATION, ge=0, lt=1)
    rewind: bool = False
    channel_divisor: int | None = Field(default=None, gt=0, le=MOST)
    fold: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @field_validator("latency_budget", "params_budget", "macs_budget")
    @classmethod
    def _amount(cls, value: str | float | None, info: ValidationInfo) -> str | float | None:
        if value is not None:
            parse_amount(str(info.field_name).removesuffix("_budget"), value)
        return value

    @field_validator("estimator")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ESTIMATORS:
            raise ValueError(f"must be one of {', '.join(ESTIMATORS)}")
        return value

    @model_validator(mode="after")
    def _open_at_first(self) -> Self:
        if self.theta_init <= self.threshold:
            raise ValueError(
                f"theta_init: {self.theta_init}, must be above the threshold, {self.threshold}, "
                "or every gate is removed at once"
            )
        return self

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.log_gamma is not None and self.amounts():
            raise ValueError("log_gamma: follows from the budget; give one of the two")
        if self.method == ALLOCATE and not self.amounts():
            raise ValueError("method: 'allocate', needs a budget; without one it is stochastic")
        return self

    def amounts(self) -> dict[str, Amount]:
        """Measure -> budget, of those that are given."""
        stated = {m: getattr(self, f"{m}_budget") for m in MEASURES}
        return {m: parse_amount(m, v) for m, v in stated.items() if v is not None}


class SearchSettings(_Search):
    """What :func:`cpt_nas.attach` takes, times in optimizer steps.

    Attributes:
        log_gamma: 0.02 where neither it nor a budget is given.
        warmup_steps: nothing is charged.
        ramp_steps: then the price rises, or with a budget the cost falls.
        freeze_step: the step at which every gate is decided; None: at finish().
        seed: of the masks.
    """

    warmup_steps: int = Field(default=0, ge=0)
    ramp_steps: int = Field(default=0, ge=0)
    freeze_step: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _ramped(self) -> Self:
        if self.amounts() and self.ramp_steps == 0:
            raise ValueError(
                "ramp_steps: 0, must be above 0 with a budget: the steps in which the cost falls; "
                "or give total_steps"
            )
        if self.rewind and self.freeze_step is None:
            raise ValueError("rewind: needs a freeze_step, and training after it")
        return self

    def budget_schedule(self) -> BudgetSchedule:
        """When budgets ask for how much."""
        return BudgetSchedule(self.warmup_steps, self.ramp_steps, self.estimation)

    def rate(self) -> float:
        """theta_lr, or what stands for it where none is given."""
        if self.theta_lr is not None:
            return self.theta_lr
        if self.amounts() and self.method != STOCHASTIC:
            return CLOSED_AFTER / self.budget_schedule().interval
        if self.freeze_step is None:
            return THETA_LR
        rate = CROSSINGS / max(1, self.freeze_step - self.warmup_steps)
        return min(MOST_THETA_LR, max(THETA_LR, rate))


class SearchConfig(_Search):
    """The search in a recipe: times are shares of the training instead of steps.

    Attributes:
        profile: a cost profile's file, or a shipped one's name.
        target: the setting that the network is to run in; see docs/guide/profiles.md.
        allow_foreign: the network is to run on the profile's machine, not on this one.
        warmup: nothing is charged.
        ramp: then the price rises, or with a budget the cost falls.
        freeze: when every gate is decided; None: at the end.
    """

    profile: str | None = None
    target: Target | None = None
    allow_foreign: bool = False
    warmup: float = Field(default=0.02, ge=0, le=1)
    ramp: float = Field(default=0.13, ge=0, le=1)
    freeze: float | None = Field(default=0.2, gt=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.freeze is not None and self.freeze <= self.warmup + self.ramp:
            raise ValueError(
                f"freeze ({self.freeze}) must come after warmup + ramp "
                f"({self.warmup} + {self.ramp}), as shares of the training"
            )
        if self.rewind and (self.freeze is None or self.freeze == 1):
            raise ValueError(f"rewind: needs a freeze before the end (freeze is {self.freeze})")
        return self

    @model_validator(mode="after")
    def _acting(self) -> Self:
        check_acting(self, charged_cost(self, self.profile is not None))
        return self

    def settings(self, total_steps: int, seed: int) -> SearchSettings:
        """The same for :func:`cpt_nas.attach`, in steps."""
        same = {name: getattr(self, name) for name in _Search.model_fields}
        freeze = None if self.freeze is None else max(1, round(self.freeze * total_steps))
        return SearchSettings.from_mapping(
            same
            | {
                "warmup_steps": round(self.warmup * total_steps),
                "ramp_steps": max(1, round(self.ramp * total_steps)),
                "freeze_step": freeze,
                "seed": seed,
            },
            "search.",
        )


def charged_cost(settings: _Search, has_profile: bool) -> str:
    """What is charged: 'latency', 'complexity', or the budgets' measures joined by '+'."""
    default = LATENCY if has_profile else COMPLEXITY
    return settings.cost or "+".join(settings.amounts()) or default


def is_timed(settings: _Search, has_profile: bool) -> bool:
    """Whether the profile's seconds are among the costs that a search needs.

    Raises:
        ValueError: they are, and there is no profile.
    """
    measures = settings.amounts()
    timed = LATENCY in (charged_cost(settings, has_profile), *measures)
    if timed and not has_profile:
        name = "latency_budget" if LATENCY in measures else "cost: 'latency'"
        raise ValueError(f"{name}: needs a profile; cpt-nas profile MODEL measures one")
    return timed


def check_acting(settings: _Search, cost: str) -> None:
    """Whether alpha and kappa, where they are given, have a part in what is charged.

    Raises:
        ValueError: one has none.
    """
    for name in ("alpha", "kappa"):
        value = getattr(settings, name)
        if value is not None and cost != COMPLEXITY:
            raise ValueError(
                f"{name}: {value}, has no effect where {cost} is charged; leave it out, or set "
                f"cost: {COMPLEXITY}"
            )
