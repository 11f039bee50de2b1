"""Writes the pages of docs/reference that come from the code: `python docs/generate.py`.

A test fails where they are out of date, and where a command, key or column is not described.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import annotated_types
import pandas as pd
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from cpt_nas.cli import app
from cpt_nas.data.config import DataConfig
from cpt_nas.gates.bernoulli import ESTIMATORS
from cpt_nas.report import tables
from cpt_nas.report.rows import BudgetRow, LatencyRow, RunRow
from cpt_nas.search import records
from cpt_nas.search.settings import SearchConfig
from cpt_nas.train.recipe import ModelConfig, TrainConfig
from cpt_nas.train.run_folder import SUMMARY
from cpt_nas.train.run_rows import HistoryRow, LayerRow, Result, columns
from hwprofiles.cli import app as profiles_app
from hwprofiles.target import Target

REFERENCE = Path(__file__).parent / "reference"
SECTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "model": (ModelConfig, "Which network; the only section that a recipe must have."),
    "data": (DataConfig, "Which images; see [your own images](../guide/own-images.md)."),
    "train": (TrainConfig, "How the weights are trained, under timm's names."),
    "search": (
        SearchConfig,
        "The search. Without this section the network is trained as it is. `warmup`, `ramp` and "
        "`freeze` are shares of the training; see [budgets](../guide/budgets.md).",
    ),
    "search.target": (Target, "The setting that the network is to run in; null: the profile's."),
}
# Of keys whose range is checked by a function, not by the field's own bounds.
RANGES = {
    "data.name": "digits, images, torch/NAME",
    "data.input_size": "1 or 3 channels; sides above 0",
    "data.mean": "0 to 1",
    "data.std": "0.0001 to 1",
    "train.device": "cpu, cuda, cuda:N",
    "train.decay_milestones": "increasing, > 0, below epochs",
    "train.decay_rate": "> 0, <= 1 (poly: 10)",
    "train.cycle_limit": "> 0, divides epochs",
    "search.latency_budget": "a time such as 12ms, or a share > 0, <= 1",
    "search.params_budget": "a count such as 150k, or a share > 0, <= 1",
    "search.macs_budget": "a count such as 20M, or a share > 0, <= 1",
    "search.estimator": ", ".join(ESTIMATORS),
    "search.freeze": "> 0, <= 1, above warmup + ramp",
}
# Where several fields share a line in the docstring, or its words lean on the class around them.
MEANINGS = {
    "model.kwargs": "keyword arguments of timm.create_model; num_classes and in_chans come from "
    "the data",
    "model.pretrained": "start from timm's weights of that name, such as `resnet18.a1_in1k` "
    "([trained weights](../guide/pretrained-start.md))",
    "model.checkpoint": "start from the weights in a file: safetensors, or what torch.save wrote "
    "([trained weights](../guide/pretrained-start.md))",
    "data.input_size": "channels (1 or 3), height, width; with trained weights the default is "
    "theirs",
    "data.mean": "a number a channel; null: the training images', or ImageNet's where "
    "in_memory is false; with trained weights the default is theirs",
    "data.std": "a number a channel; null: as for the mean",
    "search.latency_budget": "upper bound, or a share of the dense network's; by the profile",
    "search.macs_budget": "upper bound, or a share of the dense network's. Of several budgets all "
    "hold",
    "search.log_gamma": "pruning level, the price of the whole network a branch (eq. 13); null: it "
    "follows from the budgets, or is 0.02 where there are none",
    "search.target": "the setting that the network is to run in "
    "([profiles](../guide/profiles.md)); null: the profile's",
    "search.warmup": "share of the training in which nothing is charged",
    "search.ramp": "share of the training after it in which the price rises, or with a budget "
    "importance is estimated and then the cost falls",
    "search.freeze": "share of the training after which every gate is decided; null: at the end",
    "data.workers": "threads, or where in_memory is false processes, that decode images",
}
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


def plain(text: str) -> str:
    """A docstring's words in Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def described(model: type[Any]) -> dict[str, str]:
    """Attribute -> its description, from the `Attributes:` of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, text = (base.__doc__ or "").partition("Attributes:\n")
        name = ""
        for line in text.splitlines():
            if match := re.match(r"^ {4,8}(\w[\w, ]*): (.*)$", line):
                name = match[1]
                found |= {one.strip(): match[2] for one in name.split(",")}
            elif name and line.strip():
                for one in name.split(","):
                    found[one.strip()] += " " + line.strip()
    return {name: plain(text).rstrip(".") for name, text in found.items()}


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# ---- recipe.md --------------------------------------------------------------------------------


def type_of(annotation: Any) -> str:
    """A type in a reader's words: 'number or null'."""
    names = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "mapping"}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        return type_of(arguments[0])
    if origin is Literal:
        return "text" if all(isinstance(a, str) for a in arguments) else "one of a few"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_of(a) for a in arguments))
    if origin is tuple:
        return f"list of {type_of(arguments[0])}s".replace("texts", "text")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return names.get(origin or annotation, str(annotation))


def range_of(field: FieldInfo) -> str:
    """The values that a key may have; empty where its type says all."""
    choices: list[str] = []
    bounds: list[str] = []

    def walk(annotation: Any) -> None:
        if typing.get_origin(annotation) is Literal:
            choices.extend(str(choice) for choice in typing.get_args(annotation))
        elif typing.get_origin(annotation) is typing.Annotated:
            inner, *extra = typing.get_args(annotation)
            for one in extra:
                note(one.metadata if isinstance(one, FieldInfo) else [one])
            walk(inner)
        else:
            for argument in typing.get_args(annotation):
                walk(argument)

    def note(metadata: Iterable[Any]) -> None:
        signs = {
            annotated_types.Gt: ("> ", "gt"),
            annotated_types.Ge: (">= ", "ge"),
            annotated_types.Lt: ("< ", "lt"),
            annotated_types.Le: ("<= ", "le"),
        }
        for one in metadata:
            if type(one) in signs:
                sign, attribute = signs[type(one)]
                bounds.append(f"{sign}{getattr(one, attribute)}")

    walk(field.annotation)
    note(field.metadata)
    return ", ".join(choices or bounds)


def default_of(field: FieldInfo) -> str:
    """A default as YAML writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return f"`{text}`"


def key_table(section: str, model: type[BaseModel]) -> str:
    """Every key of a recipe's section."""
    texts = described(model)
    rows = []
    for name, field in model.model_fields.items():
        key = f"{section}.{name}"
        allowed = RANGES.get(key, range_of(field))
        meaning = MEANINGS.get(key, texts.get(name, "").replace("none: ", "null: "))
        rows.append([f"`{key}`", type_of(field.annotation), default_of(field), allowed, meaning])
    return table(["key", "type", "default", "range", "meaning"], rows)


def recipe_page() -> str:
    keys = {f"{s}.{name}" for s, (model, _) in SECTIONS.items() for name in model.model_fields}
    if unknown := (RANGES.keys() | MEANINGS.keys()) - keys:
        raise ValueError(f"no such keys: {', '.join(sorted(unknown))}")
    parts = [
        "# Recipe keys\n",
        "Generated by `python docs/generate.py`.\n",
        "A recipe is a YAML file with the sections below; an unknown key is an error. "
        "`cpt-nas train --recipe` takes a file or the name of a recipe that comes with the "
        "package, and `--set section.key=value` overrides one key.\n",
    ]
    for section, (model, text) in SECTIONS.items():
        parts += [f"## {section}\n", f"{text}\n", key_table(section, model)]
    return "\n".join(parts)


# ---- files.md ---------------------------------------------------------------------------------


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


def meanings_table(texts: Mapping[str, str]) -> str:
    rows = [[", ".join(f"`{one}`" for one in k.split(", ")), v] for k, v in texts.items()]
    return table(["name", "meaning"], rows)


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


# ---- cli.md -----------------------------------------------------------------------------------


EXIT_CODES = (
    "A mistake is one line on stderr, which names the field, the value and what is allowed, and "
    "exit code 2; nothing has been written then. Exit code 1 is an answer of `hwprofiles check`: "
    "it differs. 130 and 143 are Ctrl-C and SIGTERM. 70 is a bug: the line names a file with the "
    "traceback to report. Where nobody reads what a command prints, as after `| head`, its work "
    "goes on.\n"
)


def cli_page() -> str:
    """--help of every command, as it is printed at 90 characters."""
    parts = ["# Commands\n", "Generated from `--help` by `python docs/generate.py`.\n", EXIT_CODES]
    for name, application in (("hwprofiles", profiles_app), ("cpt-nas", app)):
        parts.append(f"## {name}\n")
        parts.append(help_text(name, application, []))
        for command in application.registered_commands:
            callback = command.callback
            assert callback is not None
            word = command.name or callback.__name__.replace("_", "-")
            parts += [f"### {name} {word}\n", help_text(name, application, [word])]
    return "\n".join(parts)


def help_text(name: str, application: Any, words: list[str]) -> str:
    environment = {"TERMINAL_WIDTH": "90", "COLUMNS": "90", "NO_COLOR": "1"}
    runner = CliRunner(env=environment)
    result = runner.invoke(application, [*words, "--help"], prog_name=name)
    lines = [line.rstrip() for line in result.output.strip("\n").splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


PAGES = {"cli.md": cli_page, "recipe.md": recipe_page, "files.md": files_page}


def main() -> int:
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
        print(f"wrote {REFERENCE / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
