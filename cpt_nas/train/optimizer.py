"""What trains the weights: timm's optimizers, tried before they are needed, and its schedules."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from cpt_nas.train.recipe import TrainConfig
from hwprofiles.messages import naming


def build_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a recipe.

    Raises:
        ValueError: it cannot be had here, or cannot take a plain step.
    """
    options: dict[str, Any] = {
        "opt": settings.opt,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "momentum": settings.momentum,
    }
    with naming(f"train.opt: {settings.opt!r} cannot be used here"):
        _try_a_step(options)
        optimizer: torch.optim.Optimizer = create_optimizer_v2(model, **options)
    return optimizer


def _try_a_step(options: dict[str, Any]) -> None:
    """Some need a library, a device or a second backward pass, and say so only when they step."""
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = create_optimizer_v2([weight], **options)
    weight.grad = torch.ones_like(weight)
    optimizer.step()


def build_scheduler(optimizer: torch.optim.Optimizer, settings: TrainConfig, steps: int) -> Any:
    """The schedule of a recipe, at its first step.

    Args:
        steps: optimizer steps an epoch.
    """
    shape: dict[str, Any] = {}
    if settings.decay_milestones is not None:
        shape["decay_milestones"] = list(settings.decay_milestones)
    if settings.decay_rate is not None:
        shape["decay_rate"] = settings.decay_rate
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=settings.sched,
        num_epochs=settings.epochs // settings.cycle_limit,  # timm's are those of one cycle
        cycle_limit=settings.cycle_limit,
        cycle_decay=settings.cycle_decay,
        **shape,
        min_lr=settings.min_lr,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.lr / 100,
        updates_per_epoch=steps,
        step_on_epochs=False,
    )
    scheduler.step_update(0)
    return scheduler
