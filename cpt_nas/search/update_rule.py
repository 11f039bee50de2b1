"""What a search asks of the rule that moves theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.search.estimates import BranchEstimate, BranchState
from cpt_nas.search.regularizer import Levels


class UpdateRule(Protocol):
    """How theta moves, and what is cut: the papers' algorithm, or the control of budgets.

    Attributes:
        budgets: measure -> upper bound, in s or counts; empty where there are none.
        allocations: rows of allocations.csv; see :mod:`cpt_nas.search.records`.
    """

    budgets: dict[str, float]
    allocations: list[dict[str, Any]]

    @property
    def theta_optimizer(self) -> torch.optim.Optimizer | None:
        """Of theta, whose state is cut with the gates; None where nothing optimizes it."""

    def penalty(self, step: int) -> Tensor:
        """The regularizer at a step, exact in theta, a float64 scalar."""

    def levels(self, step: int) -> Levels:
        """What is charged at a step, and its log gamma."""

    def update(self, step: int, slopes: Sequence[Tensor]) -> None:
        """Move theta, given the loss's slopes [2, K] a gate at the present samples."""

    def highest_theta(self, step: int, gate: BernoulliGate) -> float:
        """What theta is projected to from above."""

    def select(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> dict[str, BranchState]:
        """Of what has fallen to the threshold (``states``), what may be cut now."""

    def select_final(
        self, estimates: Mapping[str, BranchEstimate], states: Mapping[str, BranchState]
    ) -> dict[str, BranchState]:
        """From what theta > 0.5 says (``states``), what stays in the end."""

    def expected(self) -> float:
        """The charged cost over the dense network's, 0..1; the binding budget's, if any."""

    def binding(self) -> str | None:
        """The budget that is nearest to being broken, or furthest beyond; None without any."""

    def log_gamma(self, step: int) -> float:
        """The pruning level, of the binding budget where there are several."""

    def trace(self, step: int) -> dict[str, float]:
        """The columns log_gamma:NAME, target:NAME and cost:NAME of search.csv."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed search needs beside the gates."""

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where the state is another rule's, or was made under other budgets."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, after the gates have been cut to its shapes."""
