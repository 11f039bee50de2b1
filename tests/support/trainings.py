"""Short trainings on digits, and trainings that are stopped on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from cpt_nas.train import checkpoint
from cpt_nas.train.recipe import Recipe

QUIET = Console(quiet=True)


def recipe(**changes: dict) -> Recipe:
    """Four epochs of a tiny ResNet on 128 digits; everything closes or settles in that time."""
    values: dict = {
        "model": {"name": "cpt_resnet20", "kwargs": {"layers": [1, 2, 1], "channels": [8, 8, 16]}},
        "data": {"name": "digits", "input_size": [1, 8, 8], "augment": "crop", "train_limit": 128},
        "train": {"epochs": 4, "batch_size": 32, "lr": 0.05, "threads": 1},
        "search": {
            "log_gamma": 0.3,
            "warmup": 0.0,
            "ramp": 0.1,
            "freeze": 0.8,
            "theta_lr": 0.1,
            "cut_interval": 2,
        },
    }
    for section, entries in changes.items():
        values[section] = None if entries is None else values.get(section, {}) | entries
    return Recipe.from_mapping(values)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pth.tar", weights_only=True)["state_dict"]


def same(a: Path, b: Path) -> bool:
    wa, wb = weights(a), weights(b)
    return wa.keys() == wb.keys() and all(torch.equal(wa[k], wb[k]) for k in wa)


class Stop(Exception):
    pass


def interrupted_after(epochs: int, monkeypatch: pytest.MonkeyPatch):
    """Make train() fail right after its n-th checkpoint."""
    save, done = checkpoint.save_checkpoint, []

    def saving(*arguments: object) -> None:
        save(*arguments)
        done.append(1)
        if len(done) == epochs:
            raise Stop

    monkeypatch.setattr(checkpoint, "save_checkpoint", saving)
    return lambda: monkeypatch.setattr(checkpoint, "save_checkpoint", save)
