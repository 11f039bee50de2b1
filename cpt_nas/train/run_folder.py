"""A run folder: what training leaves on disk, written and read here and nowhere else.

The resolved recipe, timm's files, the tables, the structure and the result. Checkpoints, which only
training itself reads again, are :mod:`cpt_nas.train.checkpoint`'s.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import hwprofiles
from cpt_nas.costs.cost_model import CostModel
from cpt_nas.pruning.structure import Structure, load_structure
from cpt_nas.search.law import Law
from cpt_nas.search.records import ALLOCATION_COLUMNS, REMOVED_COLUMNS, TRACE_COLUMNS
from cpt_nas.search.search import Search
from cpt_nas.sections import ConfigError
from cpt_nas.train.checkpoint_file import BEST, LAST
from cpt_nas.train.recipe import Recipe, load_recipe
from cpt_nas.train.run_checks import read_result, read_table
from cpt_nas.train.run_rows import HistoryRow, LayerRow, columns
from hwprofiles import Profile
from hwprofiles.files import write_whole
from hwprofiles.yaml_file import dump_yaml

RECIPE, ARGS, PROFILE, STRUCTURE = "recipe.yaml", "args.yaml", "profile.yaml", "structure.json"
RESULT, EXPORT, UNFINISHED_EXPORT = "result.json", "export", ".export.tmp"
TABLES = (
    *("history.csv", "summary.csv", "layers.csv"),
    *("search.csv", "removed.csv", "allocations.csv"),
)
SUMMARY = ("epoch", "train_loss", "eval_loss", "eval_top1", "lr")
"""The columns of summary.csv, as timm's scripts name them."""
FILES = (RECIPE, ARGS, PROFILE, STRUCTURE, RESULT, LAST, BEST, *TABLES)
"""The files of a run, each written whole or not at all; beside them the checkpoints of epochs."""
PACKAGES = ("torch", "torchvision", "timm", "fvcore", "cpt-nas")


def start(
    output: Path,
    recipe: Recipe,
    profile: Profile | None,
    given: Structure | None = None,
    law: Law | None = None,
) -> None:
    """Write what is known before the first step, in a folder that is there.

    Args:
        profile: of the search; the run's own copy is what it goes on with.
        given: the structure that the model is cut to before training, likewise.
        law: of the search.
    """
    write_whole(output / RECIPE, recipe.to_yaml())
    write_whole(output / ARGS, dump_yaml(recipe.flat()))
    if given is not None:
        write_structure(output, given)
    if profile is not None:
        hwprofiles.save(profile, output / PROFILE)
    write_running(output, recipe, law)


def write_running(output: Path, recipe: Recipe, law: Law | None) -> None:
    """result.json of a run that goes on."""
    running: dict[str, Any] = {"status": "running", "kind": recipe.kind}
    running["model"] = recipe.model.name
    running |= {} if law is None else {"law": law.as_data()}
    _write_json(output, running | provenance())


def write_result(output: Path, result: dict[str, Any]) -> None:
    """result.json of a finished run."""
    _write_json(output, result)


def _write_json(output: Path, result: dict[str, Any]) -> None:
    write_whole(output / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")


def write_history(output: Path, history: Sequence[HistoryRow]) -> None:
    """history.csv with every column, and timm's summary.csv."""
    table = pd.DataFrame([dataclasses.asdict(row) for row in history])
    write_whole(output / "history.csv", table.to_csv(index=False))
    renamed = table.rename(columns={"test_loss": "eval_loss", "test_acc": "eval_top1"})
    write_whole(output / "summary.csv", renamed[list(SUMMARY)].to_csv(index=False))


def write_trace(output: Path, search: Search) -> None:
    """search.csv, removed.csv, allocations.csv: how it went, what went when, and why."""
    tables: dict[str, list[dict[str, Any]]] = {
        "search.csv": search.trace,
        "removed.csv": search.removed,
        "allocations.csv": search.allocations,
    }
    for name, rows in tables.items():
        if rows:
            write_whole(output / name, pd.DataFrame(rows).to_csv(index=False))
        else:
            (output / name).unlink(missing_ok=True)


def write_structure(output: Path, structure: Structure) -> None:
    """structure.json: what is left by now."""
    structure.save(output / STRUCTURE)


def write_layers(output: Path, cost: CostModel, dense: Structure, structure: Structure) -> None:
    """layers.csv: every layer's MACs and parameters before and after."""
    rows = [
        dataclasses.asdict(
            LayerRow(term.layer.name, term.layer.type, term.branch or "", term.projection, *costs)
        )
        for term, *costs in zip(
            cost.terms,
            cost.per_layer(dense, "macs"),
            cost.per_layer(dense, "params"),
            cost.per_layer(structure, "macs"),
            cost.per_layer(structure, "params"),
        )
    ]
    write_whole(output / "layers.csv", pd.DataFrame(rows).to_csv(index=False))


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
        removed: removed.csv, what went and when; None where nothing has gone.
        allocations: allocations.csv, what stays under budgets; None where there are none.
    """

    name: str
    folder: Path
    result: dict[str, Any]
    recipe: Recipe
    history: pd.DataFrame
    layers: pd.DataFrame | None
    structure: Structure | None
    trace: pd.DataFrame | None = None
    removed: pd.DataFrame | None = None
    allocations: pd.DataFrame | None = None

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
    def doubts(self) -> list[str]:
        """What there is to say against the finished network."""
        return list(self.result.get("doubts") or [])

    @property
    def export(self) -> Path:
        return self.folder / EXPORT

    @property
    def profile(self) -> Path | None:
        """The profile it was searched under; None where there was none."""
        path = self.folder / PROFILE
        return path if path.is_file() else None

    @property
    def budgets(self) -> dict[str, float]:
        """Measure -> budget, of a finished search that had any."""
        return dict(self.result.get("budgets") or {})


def read_recipe(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run folder, with overrides as :func:`load_recipe` takes them.

    Raises:
        ConfigError: no such file, or faults in it.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise ConfigError(f"recipe: no such file: {path}; is it a run folder?")
    return load_recipe(path, overrides)


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
        recipe = read_recipe(folder)
    except ValueError as error:
        raise ValueError(f"run: {folder}: {RECIPE}: {error}") from None
    structure_file = folder / STRUCTURE
    structure = None
    if finished or structure_file.exists():
        try:
            structure = load_structure(structure_file)
        except ValueError as error:
            raise ValueError(f"run: {folder}: {STRUCTURE}: {error}") from None
    layers = _table(folder, "layers.csv", columns(LayerRow), finished)
    history = _table(folder, "history.csv", columns(HistoryRow), finished)
    if history is None:
        history = pd.DataFrame({column: pd.Series(dtype=float) for column in columns(HistoryRow)})
    trace = _table(folder, "search.csv", TRACE_COLUMNS, must_exist=False)
    removed = _table(folder, "removed.csv", REMOVED_COLUMNS, must_exist=False)
    allocations = _table(folder, "allocations.csv", ALLOCATION_COLUMNS, must_exist=False)
    if trace is not None:
        _check_trace(folder, trace)
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        result=result,
        recipe=recipe,
        history=history,
        layers=layers,
        structure=structure,
        trace=trace,
        removed=removed,
        allocations=allocations,
    )


def _check_trace(folder: Path, trace: pd.DataFrame) -> None:
    for column in trace.columns:
        kind, of, name = str(column).partition(":")
        if of and kind == "log_gamma":
            for needed in (f"cost:{name}", f"target:{name}"):
                if needed not in trace.columns:
                    raise ValueError(f"run: {folder}: search.csv has no column {needed}")


def _result(folder: Path) -> dict[str, Any]:
    try:
        return read_result(folder / RESULT)
    except ValueError as error:
        raise ValueError(f"run: {folder}: {error}") from None


def _table(folder: Path, name: str, needed: Sequence[str], must_exist: bool) -> pd.DataFrame | None:
    if not (folder / name).exists():
        if must_exist:
            raise ValueError(f"run: {folder} has no {name}, although it is finished")
        return None
    try:
        return read_table(folder / name, needed)
    except ValueError as error:
        raise ValueError(f"run: {folder}: {error}") from None
