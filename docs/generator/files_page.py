"""files.md: the files of a run folder and of a report folder, with their keys and columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from cpt_nas.report import tables
from cpt_nas.report.rows import BudgetRow, LatencyRow, RunRow
from cpt_nas.search import records
from cpt_nas.train.run_folder import SUMMARY
from cpt_nas.train.run_rows import HistoryRow, LayerRow, Result, columns
from generator.markdown import described, meanings_table

SUMMARY_CSV = {
    "eval_loss": "mean cross-entropy on the test images",
    "eval_top1": "percent of the test images that were classified rightly",
}
SEARCH_CSV = {
    "step": "optimizer steps done by then",
    "branches": "branches that are left",
    "units": "units that are left in them",
    "undecided": "share of the gates with theta between threshold and 1 - threshold",
    **{f"theta_{i}": f"gates with theta in [{i / 10}, {(i + 1) / 10}]" for i in range(10)},
    "log_gamma:NAME": "pruning level of what is charged under NAME",
    "target:NAME": "the share of the dense cost that is asked for by then; empty without a budget",
    "cost:NAME": "the expected cost over the dense network's",
}
REMOVED_CSV = {
    "step": "optimizer steps done by then",
    "branch": "the branch's name",
    "at_freeze": "whether it went at the freeze",
    "group": "the group of the units that went; empty where the branch itself did",
    "gates": "how many went",
    "theta": "the largest theta among them",
    "driven_down": "share of them that the price pushed down harder than the loss asked for them",
}
ALLOCATIONS_CSV = {
    "step": "optimizer steps done by then",
    "branch": "the branch's name",
    "group": "the unit group; empty for the branch itself",
    "theta": "mean theta of the gates",
    "importance": "how much lower the loss is for the branch, or for one unit in the mean",
    "noise": "its standard error, together with what it may yet change",
    "marginal_cost": "what it adds to what is charged, over the dense network's cost",
    "params": "what it adds to the parameters, over the dense network's",
    "importance_per_cost": "importance over marginal cost",
    "threshold_importance_per_cost": "that of the last that had to close for the budget",
    "kept": "units that are to stay in the end; 1 or 0 for a branch",
}
RUNS_CSV = {
    "budget:MEASURE": "upper bound that was asked for, s or count",
    "reached:MEASURE": "what the found network takes of it, s or count",
    "binding, forced, undecided_at_freeze": "as in result.json, of a search",
    "predicted_s:NAME": "seconds a batch by the profile NAME",
    "measured_s:NAME": "seconds a batch, measured in the setting of the profile NAME",
    "predicted_speedup:NAME, measured_speedup:NAME": "over the first dense run of the same model",
}
STRUCTURES_CSV = {
    "model": "timm's name",
    "branch": "the branch's name",
    "group": "the unit group; empty for a branch without any",
    "total": "units of the dense network",
    "RUN": "a column a run: units that are left; 0 where the branch is gone, empty where the "
    "model has no such group",
}
CROSS_CSV = {
    "run": "name of the run",
    "predicted_ms:NAME": "milliseconds a batch by the profile NAME",
    "measured_ms:NAME": "milliseconds a batch, measured in its setting; empty if not measured",
}
RUN_FILES = {
    "recipe.yaml": "the recipe with every default and override filled in ([keys](recipe.md))",
    "args.yaml": "the same with dotted keys, as timm's scripts write it",
    "profile.yaml": "the profile that the search paid ([fields](profile_schema.md))",
    "result.json": "what came out ([keys](#resultjson))",
    "structure.json": "which branches and units are left: `schema_version`, `architecture`, "
    "`model_kwargs`, `differs` (how the searched network differs from what these make; empty where "
    "it does not), and per branch `kept`, `removable` and `units` (per group `total` and the "
    "indices `kept`)",
    "history.csv": "a row an epoch ([columns](#historycsv))",
    "summary.csv": "a row an epoch, as timm's scripts write it ([columns](#summarycsv))",
    "layers.csv": "a row a layer ([columns](#layerscsv))",
    "search.csv": "of a search, a row every `cut_interval` steps ([columns](#searchcsv))",
    "removed.csv": "of a search, a row for all that went at a step ([columns](#removedcsv))",
    "allocations.csv": "of a search with budgets, a row a branch and group at every allocation "
    "([columns](#allocationscsv))",
    "last.pth.tar": "the last epoch's checkpoint in timm's layout; `--resume` goes on from it",
    "model_best.pth.tar": "the checkpoint with the best test accuracy",
    "checkpoint-N.pth.tar": "the checkpoints of the last `train.checkpoint_hist` epochs",
    "teacher/": "of a training with a teacher, its own copy of it, as an exported network",
    "export/": "`config.json` and `model.safetensors`: the finished network, for "
    "`timm.create_model('local-dir:RUN/export', pretrained=True)` after `import cpt_nas`",
}
REPORT_FILES = {
    "report.html": "the page, with all tables and figures inside",
    "figures/": "the page's figures as PNG files",
    "runs.csv": "a row a run ([columns](#runscsv))",
    "budgets.csv": "a row a budget of a run ([columns](#budgetscsv))",
    "structures.csv": "a row a unit group, a column a run ([columns](#structurescsv))",
    "latency.csv": "a row a run and profile ([columns](#latencycsv))",
    "cross.csv": "a row a run, two columns a profile ([columns](#crosscsv))",
    "layers.csv, history.csv, search.csv, allocations.csv": "the runs' own tables, one below the "
    "other, with a first column `run`",
}


def columns_table(names: Iterable[str], *texts: Mapping[str, str]) -> str:
    """A row a column, the last text that has it first; then what only the last text has."""
    names = list(names)
    known: dict[str, str] = {}
    for text in texts:
        known |= text
    extra = [name for name in texts[-1] if name not in names]
    if wrong := [name for name in extra if not re.search("[A-Z]{3}", name)]:
        raise ValueError(f"no such columns: {', '.join(wrong)}")
    return meanings_table({name: known.get(name, "") for name in [*names, *extra]})


def row_table(row: type[Any], dynamic: Mapping[str, str] = {}) -> str:
    """A row a column of a table whose rows are of this type, then those that depend on the runs."""
    known = described(row)
    return meanings_table({name: known.get(name, "") for name in columns(row)} | dynamic)


def files_page() -> str:
    nothing = pd.DataFrame(columns=columns(LatencyRow))
    run_tables = {
        "result.json": row_table(Result),
        "history.csv": row_table(HistoryRow),
        "summary.csv": columns_table(SUMMARY, described(HistoryRow), SUMMARY_CSV),
        "layers.csv": row_table(LayerRow),
        "search.csv": columns_table(records.TRACE_COLUMNS, SEARCH_CSV),
        "removed.csv": columns_table(records.REMOVED_COLUMNS, REMOVED_CSV),
        "allocations.csv": columns_table(records.ALLOCATION_COLUMNS, ALLOCATIONS_CSV),
    }
    report_tables = {
        "runs.csv": row_table(RunRow, RUNS_CSV),
        "budgets.csv": row_table(BudgetRow),
        "structures.csv": columns_table(tables.structures_table([]).columns, STRUCTURES_CSV),
        "latency.csv": row_table(LatencyRow),
        "cross.csv": columns_table(tables.both_cross_tables(nothing, []).columns, CROSS_CSV),
    }
    parts = [
        "# Files\n",
        "Generated by `python docs/generate.py`.\n",
        "Values are in SI units, shares in 0 to 1, accuracies in percent. One multiply-add counts "
        "as one. The fields of a cost profile have [a page of their own](profile_schema.md).\n",
        "## A run folder\n",
        "`cpt-nas train` and `cpt-nas retrain` write it. A file is written whole or not at all, "
        "a run is never overwritten, and one process at a time writes it "
        "([stopping and going on](../guide/stopping.md)).\n",
        meanings_table(RUN_FILES),
    ]
    for title, text in run_tables.items():
        parts += [f"### {title}\n", text]
    parts += [
        "`NAME` in `search.csv` is a measure that has a budget, or `objective` for what is "
        "charged without one.\n",
        "## A report folder\n",
        "`cpt-nas report` writes it. The files of an older report are replaced, other files beside "
        "them stay, and a folder that holds anything but a report is refused. `report.html` comes "
        "last: where it is, the report is whole.\n",
        meanings_table(REPORT_FILES),
    ]
    for title, text in report_tables.items():
        parts += [f"### {title}\n", text]
    return "\n".join(parts)
