"""Everything that changes while training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from cpt_nas.costs.cost_model import CostModel
from cpt_nas.pruning.structure import Structure
from cpt_nas.search.search import Search
from cpt_nas.train.distill import Distillation
from cpt_nas.train.run_rows import HistoryRow


@dataclass
class TrainingState:
    """Everything that changes while training.

    Attributes:
        structure: the dense network's.
        given: what the model was cut to before training.
        best, best_epoch: the highest test accuracy, in percent, and the first epoch that had it.
        weights: where the first weights were from, as plain data; None where they were random.
        distillation: the teacher; None where there is none.
        changes: of the recipe between the parts of a training, see :func:`checkpoint.restore`.
    """

    model: nn.Module
    search: Search | None
    cost: CostModel
    structure: Structure
    given: Structure | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    ema: ModelEmaV3 | None
    epoch: int = 0
    step: int = 0
    macs_spent: float = 0.0
    wall_s: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    history: list[HistoryRow] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, Any] | None = None
    distillation: Distillation | None = None

    def judged(self) -> nn.Module:
        """The network that is evaluated and exported: the EMA's where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def live_structure(self) -> Structure:
        if self.search is not None:
            return self.search.structure()
        return self.structure if self.given is None else self.given
