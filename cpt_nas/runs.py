"""Reading run folders back: what training left there, checked, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cpt_nas.config import Recipe, load_recipe
from cpt_nas.structure import Structure, load_structure

RESULT_KEYS = (
    *("status", "kind", "model", "test_acc", "macs", "params", "macs_dense", "params_dense"),
    *("branches", "branches_dense", "units", "units_dense", "train_load", "wall_s", "seed"),
    *("epochs", "cost", "profile"),
)
RUNNING_KEYS = ("status", "kind", "model")
HISTORY_COLUMNS = (
    *("epoch", "test_acc", "expected_cost", "macs", "params", "macs_ratio", "params_ratio"),
    *("branches_left", "units_left", "epoch_s", "train_load"),
)
LOOK_COLUMNS = ("step", "branch", "group", "charge", "worth", "price", "kept")
TRACE_COLUMNS = ("step", "branches", "units", "undecided", *(f"theta_{i}" for i in range(10)))
LAYER_COLUMNS = ("name", "type", "branch", "macs_dense", "params_dense", "macs", "params")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name: the folder's name, with parents where several runs share it.
        folder: where it is.
        result: result.json; of an unfinished run only status, kind and model are sure.
        recipe: recipe.yaml.
        history: history.csv, a row an epoch; no rows before the first epoch has ended.
        layers: layers.csv; None while unfinished.
        structure: structure.json; None before the first epoch has ended.
        trace: search.csv, a row every few steps of the search; None where there is none.
        looks: looks.csv, what everything was worth under a budget; None where there is none.
    """

    name: str
    folder: Path
    result: dict[str, Any]
    recipe: Recipe
    history: pd.DataFrame
    layers: pd.DataFrame | None
    structure: Structure | None
    trace: pd.DataFrame | None = None
    looks: pd.DataFrame | None = None

    @property
    def finished(self) -> bool:
        return bool(self.result["status"] == "finished")

    @property
    def model(self) -> str:
        return str(self.result["model"])

    @property
    def kind(self) -> str:
        return str(self.result["kind"])

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def budgets(self) -> dict[str, float]:
        """Measure -> budget, of a finished search that had any."""
        return dict(self.result.get("budgets") or {})


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read run folders.

    Raises:
        ValueError: none given, one given twice, or one that is missing or broken; names the
            folder and the file.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("runs: none given; name at least one run folder")
    resolved = [path.resolve() for path in paths]
    twice = [str(p) for p, r in zip(paths, resolved) if resolved.count(r) > 1]
    if twice:
        raise ValueError(f"runs: {twice[0]} is given twice")
    return [load_run(path, name) for path, name in zip(paths, short_names(resolved))]


def short_names(paths: Sequence[Path]) -> list[str]:
    """For each path, as few of its last parts as tell it from the others."""
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        for n in range(1, len(path.parts) + 1):
            if not any(parts[-n:] == path.parts[-n:] for parts in others):
                break
        names.append("/".join(path.parts[-n:]))
    return names


def load_run(folder: Path, name: str | None = None) -> Run:
    """Read one run folder.

    Raises:
        ValueError: it is missing or broken; names the folder and the file.
    """
    if not folder.is_dir():
        raise ValueError(f"run: no such folder: {folder}")
    result = _result(folder)
    finished = result["status"] == "finished"
    try:
        recipe = load_recipe(folder / "recipe.yaml", saved=True)
    except ValueError as error:
        raise ValueError(f"run: {folder}: recipe.yaml: {error}") from None
    structure_file = folder / "structure.json"
    structure = None
    if finished or structure_file.exists():
        try:
            structure = load_structure(structure_file)
        except ValueError as error:
            raise ValueError(f"run: {folder}: structure.json: {error}") from None
    layers = _table(folder, "layers.csv", LAYER_COLUMNS, finished)
    if layers is not None:
        layers["branch"] = layers["branch"].fillna("")
    history = _table(folder, "history.csv", HISTORY_COLUMNS, finished)
    if history is None:
        history = pd.DataFrame({column: pd.Series(dtype=float) for column in HISTORY_COLUMNS})
    trace = _table(folder, "search.csv", TRACE_COLUMNS, required=False)
    looks = _table(folder, "looks.csv", LOOK_COLUMNS, required=False)
    if looks is not None:
        looks["group"] = looks["group"].fillna("")
    name = name or folder.resolve().name
    return Run(name, folder, result, recipe, history, layers, structure, trace, looks)


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"run: {folder} has no result.json; is it a run folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"run: {folder}: result.json is not JSON: {error}") from None
    status = result.get("status") if isinstance(result, dict) else None
    if status not in ("finished", "running"):
        raise ValueError(
            f"run: {folder}: result.json: status is {status!r}, must be finished or running"
        )
    missing = [
        k for k in (RESULT_KEYS if status == "finished" else RUNNING_KEYS) if k not in result
    ]
    if missing:
        raise ValueError(f"run: {folder}: result.json has no {', '.join(missing)}")
    return dict(result)


def _table(folder: Path, name: str, columns: Sequence[str], required: bool) -> pd.DataFrame | None:
    path = folder / name
    if not path.exists():
        if required:
            raise ValueError(f"run: {folder} has no {name}, although it is finished")
        return None
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' parser and decoding errors are ValueErrors
        reason = " ".join(str(error).split())
        raise ValueError(f"run: {folder}: {name} is not a CSV table: {reason}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"run: {folder}: {name} has no column {', '.join(missing)}")
    texts = ("name", "type", "branch", "group")
    for column in columns:
        if column not in texts and not pd.api.types.is_numeric_dtype(table[column]):
            raise ValueError(f"run: {folder}: {name}: column {column} must hold numbers")
    return table
