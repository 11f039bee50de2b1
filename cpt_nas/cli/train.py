"""The commands cpt-nas train and cpt-nas retrain."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cpt_nas.cli import options
from cpt_nas.cli.options import Overrides
from cpt_nas.search.budgets import MEASURES, BudgetError, format_amount
from cpt_nas.sections import ConfigError
from cpt_nas.train.recipe import Recipe, load_recipe
from hwprofiles.stopping import EXIT_ABORTED, Stopped
from hwprofiles.streams import PlainConsole


def train(
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file, or a packaged recipe's name such as digits."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Cost profile: a file, or the name of a shipped one.")
    ] = None,
    latency_budget: Annotated[
        str | None,
        typer.Option(help="12ms, or a share of the dense network's such as 0.5; by the profile."),
    ] = None,
    params_budget: Annotated[str | None, typer.Option(help="150k, or a share.")] = None,
    macs_budget: Annotated[str | None, typer.Option(help="20M, or a share.")] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            metavar="complexity|latency",
            help="What is charged: MACs, parameters and layers (eqs. 9-13), or the profile's "
            "seconds a layer.",
        ),
    ] = None,
    log_gamma: Annotated[
        float | None, typer.Option(help="Pruning level, in place of budgets.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Computation (1) against parameters (0), under --cost complexity."),
    ] = None,
    kappa: Annotated[
        float | None, typer.Option(help="Layers against units, under --cost complexity.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="allocate|stochastic",
            help="How a budget is met: by importance for cost (the default), or by the papers' "
            "stochastic gradient under a log gamma that moves until it holds.",
        ),
    ] = None,
    set_: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder to go on with, from its last checkpoint.")
    ] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Leave the search out.")] = False,
    allow_foreign: Annotated[
        bool,
        typer.Option(
            "--allow-foreign",
            help="The network is to run on the profile's machine, not on this one.",
        ),
    ] = False,
) -> None:
    """Train a network, searching its structure on the way (Algorithm 1).

    Examples:

      cpt-nas train --recipe digits --profile cpu.yaml --latency-budget 0.5 -o runs/cpu

      cpt-nas train --recipe digits --params-budget 150k --macs-budget 0.5

      cpt-nas train --recipe digits --profile cpu.yaml --cost complexity --log-gamma 0.1

      cpt-nas train --recipe digits --dense -o runs/dense

      cpt-nas train --resume runs/cpu

      torchrun --nproc-per-node 2 -m cpt_nas train --recipe digits -o runs/ddp
    """
    from cpt_nas.train.run_folder import read_recipe
    from cpt_nas.train.train import train as run

    amounts = {"latency": latency_budget, "params": params_budget, "macs": macs_budget}
    budgets = {f"{m}_budget": amount for m, amount in amounts.items() if amount is not None}
    stated = {"cost": cost, "log_gamma": log_gamma, "alpha": alpha, "kappa": kappa}
    stated |= {"method": method}
    law = {name: value for name, value in stated.items() if value is not None}
    if resume is not None:
        if any((recipe, set_, profile, output, dense, allow_foreign, budgets, law)):
            raise ConfigError("--resume: takes the run's own recipe; give no other option with it")
        with resumable(resume):
            result = run(read_recipe(resume), resume, resume=True)
        say(resume, result)
        return
    if recipe is None:
        raise ConfigError("--recipe: is missing; name a YAML file, or --resume a run folder")
    loaded = load_recipe(recipe, set_ or ())
    start(with_search(loaded, profile, dense, allow_foreign, budgets | law), output)


def retrain(
    run: Annotated[Path, typer.Argument(help="A finished run folder of a search.")],
    set_: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
) -> None:
    """Train the structure that a search found from scratch: is it the structure, or the search?

    Takes the run's own recipe without the search, and without the trained weights it started from.

    Example: cpt-nas retrain runs/cpu --set train.seed=1 -o runs/cpu_retrained
    """
    from cpt_nas.train.distill import TEACHER
    from cpt_nas.train.run_folder import STRUCTURE, load_run, read_recipe

    found = load_run(run)
    if not found.finished or found.kind != "search":
        raise ValueError(f"run: {run} is not a finished search, so there is no structure to train")
    scratch: tuple[str, ...] = ("model.pretrained=false", "model.checkpoint=null")
    if found.recipe.train.distill is not None:  # by the run's own teacher
        scratch = (*scratch, f"train.distill.teacher={json.dumps(str(run / TEACHER))}")
    recipe = read_recipe(run, [*scratch, *(set_ or ()), "search=null"])
    values = recipe.model_dump()
    values["model"]["structure"] = str(run / STRUCTURE)
    start(Recipe.from_mapping(values), output)


def start(recipe: Recipe, output: Path | None) -> None:
    """Train, and say in one line what came of it; an impossible budget is shown as a table."""
    from cpt_nas.train import run_folder
    from cpt_nas.train.train import train as run

    folder = output or run_folder.default_folder(recipe)
    try:
        with resumable(folder):
            result = run(recipe, folder)
    except BudgetError as error:
        table = Table("constraint", "dense", "budget", "lowest possible")
        for row in error.table:
            table.add_row(*row)
        PlainConsole(stderr=True).print(table)
        raise
    say(folder, result)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Where a training is asked to stop, its last words are how it goes on.

    Raises:
        Stopped: in place of what has stopped it, with the same exit code.
    """
    from cpt_nas.train.run_folder import RECIPE

    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        code = stop.code if isinstance(stop, Stopped) else EXIT_ABORTED
        if (folder / RECIPE).is_file():
            message = f"stopped; to go on: cpt-nas train --resume {shlex.quote(str(folder))}"
        else:
            message = "stopped before anything was written"
        raise Stopped(message, code) from None


def say(folder: Path, result: dict[str, Any]) -> None:
    """What a finished run has come to; only the first of several processes has a result."""
    if result:
        options.out.print(f"{folder}: {summary(result)}", highlight=False, soft_wrap=True)


def summary(result: dict[str, Any]) -> str:
    """A finished run in one line."""
    line = (
        f"accuracy {result['test_acc']:.2f} %,"
        f" MACs {result['macs'] / 1e6:.2f} M of {result['macs_dense'] / 1e6:.2f} M,"
        f" parameters {result['params'] / 1e6:.3f} M of {result['params_dense'] / 1e6:.3f} M,"
        f" branches {result['branches']} of {result['branches_dense']}"
    )
    for measure, bound in (result.get("budgets") or {}).items():
        reached = format_amount(measure, result["reached"][measure])
        line += f"; {measure} {reached}, budget {format_amount(measure, bound)}"
    if result.get("budgets"):
        line += f"; {result['forced']} gates decided by force"
    return line


def with_search(
    recipe: Recipe,
    profile: str | None = None,
    dense: bool = False,
    allow_foreign: bool = False,
    stated: Mapping[str, str | float] | None = None,
) -> Recipe:
    """The recipe with a search under ``profile`` and what is stated, or without a search.

    Args:
        stated: keys of the search section. A budget or a log_gamma replaces all budgets of the
            recipe and its log_gamma.
    """
    values: dict[str, Any] = recipe.model_dump()
    if dense and (profile is not None or stated):
        used = "--profile" if not stated else f"--{next(iter(stated)).replace('_', '-')}"
        raise ConfigError(f"--dense: leaves the search out, so {used} has no use")
    if stated:
        name = f"--{next(iter(stated)).replace('_', '-')}"
        if values["search"] is None:
            raise ConfigError(f"{name}: the recipe has no search section to use it")
        levels = (*(f"{m}_budget" for m in MEASURES), "log_gamma")
        replaced = dict.fromkeys(levels) if stated.keys() & set(levels) else {}
        values["search"] |= replaced | dict(stated)
    if dense:
        values["search"] = None
    elif profile is not None:
        if values["search"] is None:
            raise ConfigError("--profile: the recipe has no search section to use it")
        values["search"]["profile"] = profile
    if allow_foreign:
        if values["search"] is None or values["search"]["profile"] is None:
            raise ConfigError("--allow-foreign: there is no profile that could be of elsewhere")
        values["search"]["allow_foreign"] = True
    return Recipe.from_mapping(values)
