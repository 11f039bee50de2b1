"""What a run leaves on disk: timm's files, the resolved recipe, history, layers and the result."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

import hwprofiles
from cpt_nas.config import Recipe
from cpt_nas.cost import Cost
from cpt_nas.structure import Structure
from hwprofiles import Profile

if TYPE_CHECKING:
    from cpt_nas.search import Search

PACKAGES = ("torch", "torchvision", "timm", "fvcore", "cpt-nas")


def refuse_used(output: Path) -> None:
    """Raises ValueError if the folder already holds something: a run is never overwritten."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"output: {output} is not empty; name another folder, or go on with --resume {output}"
        )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def start(output: Path, recipe: Recipe, profile: Profile | None) -> None:
    """Make the folder: recipe.yaml, timm's args.yaml, profile.yaml, a result that says running."""
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "recipe.yaml", recipe.to_yaml())
    write_text(output / "args.yaml", yaml.safe_dump(recipe.flat(), sort_keys=False))
    if profile is not None:
        hwprofiles.save(profile, output / "profile.yaml")
    running = {"status": "running", "kind": recipe.kind, "model": recipe.model.name}
    write_result(output, running | provenance())


def write_result(output: Path, result: dict[str, Any]) -> None:
    write_text(output / "result.json", json.dumps(result, indent=1) + "\n")


def write_history(output: Path, history: list[dict[str, Any]]) -> None:
    """history.csv with every column, and timm's summary.csv."""
    table = pd.DataFrame(history)
    write_text(output / "history.csv", table.to_csv(index=False))
    summary = table[["epoch", "train_loss", "test_loss", "test_acc", "lr"]]
    names = {"test_loss": "eval_loss", "test_acc": "eval_top1"}
    write_text(output / "summary.csv", summary.rename(columns=names).to_csv(index=False))


def write_trace(output: Path, search: Search) -> None:
    """search.csv, removed.csv, looks.csv: how it went, what went when, and what it was worth."""
    tables: dict[str, list[dict[str, Any]]] = {
        **{"search.csv": search.trace, "removed.csv": search.removed, "looks.csv": search.looks}
    }
    for name, rows in tables.items():
        if rows:
            write_text(output / name, pd.DataFrame(rows).to_csv(index=False))


def write_layers(output: Path, cost: Cost, dense: Structure, structure: Structure) -> None:
    """layers.csv: every layer's MACs and parameters before and after."""
    table = pd.DataFrame(
        {
            "name": [t.layer.name for t in cost.terms],
            "type": [t.layer.type for t in cost.terms],
            "branch": [t.branch or "" for t in cost.terms],
            "macs_dense": cost.per_layer(dense, "macs"),
            "params_dense": cost.per_layer(dense, "params"),
            "macs": cost.per_layer(structure, "macs"),
            "params": cost.per_layer(structure, "params"),
        }
    )
    write_text(output / "layers.csv", table.to_csv(index=False))


def provenance() -> dict[str, Any]:
    """Versions, and the commit and dirty flag of the checkout this code runs from, if it is one."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    changed = _git(here, "status", "--porcelain") if commit else None
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    dirty = None if changed is None else bool(changed)
    return {"versions": versions, "commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def default_folder(recipe: Recipe) -> Path:
    """output/train/{date}-{model}-{size}, as timm names it."""
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    size = recipe.data.input_size[-1]
    return Path("output") / "train" / f"{date}-{recipe.model.name}-{size}"
