"""Short trainings on digits, and trainings that are stopped on the way."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

from cpt_nas.train import checkpoint
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.train import train

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


def everything(folder: Path) -> dict[str, Any]:
    """File -> what is in it, without what a clock has measured or a checkout says."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: _content(path) for name, path in files.items()}


def _content(path: Path) -> Any:
    if path.name.endswith(".pth.tar"):
        saved = torch.load(path, weights_only=True)
        history = [{k: v for k, v in row.items() if k != "epoch_s"} for row in saved["history"]]
        return _plain(saved | {"wall_s": 0.0, "history": history, "checksum": ""})
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns="epoch_s").to_csv()
    if path.name == "result.json":
        result = json.loads(path.read_text())
        return {k: v for k, v in result.items() if k not in ("wall_s", "commit", "dirty")}
    return path.read_bytes()


def _plain(value: Any) -> Any:
    """Tensors as their bytes, and NaN as a word, so that equal means equal bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return "nan" if value != value else value


def killed_at(n: int, what: Recipe, folder: Path, *, resume: bool = False) -> int:
    """Train in another process that dies before its n-th os.replace, with half of the file there.

    Dies as by SIGKILL: nothing is cleaned up.

    Returns:
        Its exit code: 9, or 0 where there were fewer.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_dying, args=(n, what, folder, resume)
    )
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _dying(n: int, what: Recipe, folder: Path, resume: bool) -> None:
    replace, done = os.replace, []

    def dying(source: Any, target: Any) -> None:
        done.append(target)
        if len(done) == n:
            if os.path.isfile(source):
                os.truncate(source, os.path.getsize(source) // 2)
            os._exit(9)
        replace(source, target)

    os.replace = dying  # type: ignore[assignment]
    train(what, folder, resume=resume, console=QUIET)
    os._exit(0)


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
