"""What is read of a run folder: a result and tables whose every cell is what it has to be.

A run folder may have been edited, cut off by a full disk, or come from another version. All that
reports compute with is checked here, so that they need not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from cpt_nas.search.budgets import MEASURES
from cpt_nas.train.run_rows import Result, required
from hwprofiles.messages import one_line
from hwprofiles.yaml_file import shortened

RUNNING_KEYS = ("status", "kind", "model")
KINDS = ("search", "retrain", "dense")
TEXTS = ("name", "type", "branch", "group")
# File -> columns that need not be filled: no branch, no group, no search, not yet estimated.
MAY_BE_EMPTY = {
    "history.csv": ("log_gamma", "test_loss", "test_acc"),
    "layers.csv": ("branch",),
    "removed.csv": ("group", "theta", "driven_down"),
    "allocations.csv": (
        *("group", "theta", "importance", "noise", "marginal_cost"),
        *("importance_per_cost", "threshold_importance_per_cost"),
    ),
}


def read_result(path: Path) -> dict[str, Any]:
    """result.json.

    Raises:
        ValueError: it is missing, no JSON, or has a key that is missing or not what it should be;
            says which.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant)
    except FileNotFoundError:
        raise ValueError("has no result.json; is it a run folder?") from None
    except (ValueError, RecursionError) as error:  # json's and decoding errors are ValueErrors
        raise ValueError(f"result.json is not JSON: {error}") from None
    status = result.get("status") if isinstance(result, dict) else None
    if status not in ("finished", "running"):
        raise ValueError(f"result.json: status is {shortened(status)}, must be finished or running")
    needed = required(Result) if status == "finished" else RUNNING_KEYS
    missing = [key for key in needed if key not in result]
    if missing:
        raise ValueError(f"result.json has no {', '.join(missing)}")
    fault = next(_faults(result), None)
    if fault is not None:
        raise ValueError(f"result.json: {fault}")
    return dict(result)


def _constant(name: str) -> None:
    """What Python writes for a float that JSON does not have: NaN is what is not known."""
    if name != "NaN":
        raise ValueError(f"holds {name}, which is no JSON")


def _faults(result: dict[str, Any]) -> Iterator[str]:
    """What is wrong with keys that are there, a few words each."""
    for key, kind in get_type_hints(Result).items():
        value = result.get(key)
        if value is None and key not in RUNNING_KEYS:  # what is not known
            continue
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            yield f"{key} is {shortened(value)}: {error.errors()[0]['msg']}"
            return
    if result["kind"] not in KINDS:
        yield f"kind is {shortened(result['kind'])}, must be one of {', '.join(KINDS)}"
    for key in ("macs_dense", "params_dense"):
        if result.get(key) is not None and result[key] <= 0:
            yield f"{key} is {result[key]}, must be above 0"
    budgets = result.get("budgets") or {}
    for measure in budgets:
        if measure not in MEASURES:
            yield f"budgets: {shortened(measure)}, must be of {', '.join(MEASURES)}"
        for key in ("reached", "dense_costs"):
            if measure not in (result.get(key) or {}):
                yield f"{key} has no {measure}, which budgets have"
    for key in ("binding", "forced", "undecided_at_freeze"):
        if budgets and result.get(key) is None:
            yield f"has budgets and no {key}"


def read_table(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A table of a run; texts are texts, even where they look like numbers.

    Args:
        needed: columns.

    Raises:
        ValueError: no CSV table, a column is missing, or a cell is empty or not a number; says
            which.
    """
    try:
        _check_rows(path)
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
    except (ValueError, OSError, csv.Error) as error:  # pandas' and decoding errors are ValueErrors
        raise ValueError(f"{path.name} is not a CSV table: {one_line(error, 150)}") from None
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}")
    for column in needed:
        if column not in TEXTS and not pd.api.types.is_numeric_dtype(table[column]):
            raise ValueError(f"{path.name}: column {column} must hold numbers")
    for column in needed:
        empty = table[column].isna()
        if empty.any() and column not in MAY_BE_EMPTY.get(path.name, ()):
            row = int(empty.to_numpy().argmax())
            raise ValueError(f"{path.name}: column {column} is empty in row {row + 1}")
    for column in table.columns.intersection(["branch", "group"]):
        table[column] = table[column].fillna("")
    return table


def _check_rows(path: Path) -> None:
    """Raises ValueError where a row is longer or shorter than the header."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        width = len(next(rows, []))
        for number, row in enumerate(rows, start=1):
            if row and len(row) != width:
                raise ValueError(f"row {number} has {len(row)} cells, the header {width}")
