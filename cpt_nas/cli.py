"""cpt-nas: demo | profile | validate-profile | inspect | train | retrain | export | report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table

from cpt_nas.budget import MEASURES, BudgetError, format_amount
from cpt_nas.config import ConfigError, Recipe, load_recipe
from cpt_nas.gating import describe
from cpt_nas.inspection import show
from cpt_nas.profile_commands import profile as profile_command
from cpt_nas.profile_commands import validate_profile

app = typer.Typer(
    name="cpt-nas",
    help="Structure discovery for timm models that listens to the hardware.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
out = Console()
app.command("profile")(profile_command)
app.command("validate-profile")(validate_profile)

Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override: key=value; may be repeated.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Cost profile: a file, or the name of a shipped one.")
    ] = None,
    latency_budget: Annotated[
        str | None,
        typer.Option(help="12ms, or a share of the dense network's such as 0.5; by the profile."),
    ] = None,
    params_budget: Annotated[str | None, typer.Option(help="150k, or a share.")] = None,
    macs_budget: Annotated[str | None, typer.Option(help="20M, or a share.")] = None,
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

      cpt-nas train --recipe recipes/digits.yaml --profile cpu.yaml --latency-budget 0.5 -o runs/cpu

      cpt-nas train --recipe recipes/digits.yaml --params-budget 150k --macs-budget 0.5

      cpt-nas train --recipe recipes/digits.yaml --dense -o runs/dense

      cpt-nas train --resume runs/cpu

      torchrun --nproc-per-node 2 -m cpt_nas.cli train --recipe recipes/digits.yaml -o runs/ddp
    """
    from cpt_nas.train import train as run

    amounts = {"latency": latency_budget, "params": params_budget, "macs": macs_budget}
    budgets = {f"{m}_budget": amount for m, amount in amounts.items() if amount is not None}
    if resume is not None:
        if any((recipe, set_, profile, output, dense, allow_foreign, budgets)):
            raise ConfigError("--resume: takes the run's own recipe; give no other option with it")
        run(load_recipe(resume / "recipe.yaml", saved=True), resume, resume=True)
        return
    if recipe is None:
        raise ConfigError("--recipe: is missing; name a YAML file, or --resume a run folder")
    loaded = with_search(load_recipe(recipe, set_ or ()), profile, dense, allow_foreign, budgets)
    start(loaded, output)


def start(recipe: Recipe, output: Path | None) -> None:
    """Train, and say in one line what came of it; an impossible budget is shown as a table."""
    from cpt_nas import runfolder
    from cpt_nas.train import train as run

    folder = output or runfolder.default_folder(recipe)
    try:
        result = run(recipe, folder)
    except BudgetError as error:
        table = Table("constraint", "dense", "budget", "lowest possible")
        for row in error.table:
            table.add_row(*row)
        Console(stderr=True).print(table)
        raise
    if result:
        out.print(f"{folder}: {summary(result)}", highlight=False, soft_wrap=True)


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
    budgets: Mapping[str, str] | None = None,
) -> Recipe:
    """The recipe with a search under ``profile`` and ``budgets``, or without a search.

    Budgets replace those of the recipe, and its log_gamma.
    """
    values: dict[str, Any] = recipe.model_dump()
    if dense and (profile is not None or budgets):
        raise ConfigError("--dense: leaves the search out, so --profile and budgets have no use")
    if budgets:
        name = f"--{next(iter(budgets)).replace('_', '-')}"
        if values["search"] is None:
            raise ConfigError(f"{name}: the recipe has no search section to use it")
        stated = dict.fromkeys(f"{m}_budget" for m in MEASURES) | dict(budgets)
        values["search"] |= stated | {"log_gamma": None}
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


@app.command()
def retrain(
    run: Annotated[Path, typer.Argument(help="A finished run folder of a search.")],
    set_: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
) -> None:
    """Train the structure that a search found from scratch: is it the structure, or the search?

    Takes the run's own recipe without the search.

    Example: cpt-nas retrain runs/cpu --set train.seed=1 -o runs/cpu_retrained
    """
    from cpt_nas.runs import load_run

    found = load_run(run)
    if not found.finished or found.kind != "search":
        raise ValueError(f"run: {run} is not a finished search, so there is no structure to train")
    recipe = load_recipe(run / "recipe.yaml", [*(set_ or ()), "search=null"])
    values = recipe.model_dump()
    values["model"]["structure"] = str(run / "structure.json")
    start(Recipe.from_mapping(values), output)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A name in timm's registry.")],
    model_kwargs: Annotated[
        list[str] | None, typer.Option(help="key=value for timm.create_model; may be repeated.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Pattern of branch names.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of branch names.")] = None,
) -> None:
    """Show what would be gated in a model, what not, and why.

    Example: cpt-nas inspect resnet18 --exclude 'layer4.*'
    """
    network = create(model, model_kwargs or ())
    found = describe(network, include or (), exclude or ())
    show(out, network, found, model)
    if not found.branches:
        raise ValueError(f"model: nothing can be gated in {type(network).__name__}")


def create(name: str, kwargs: Any = ()) -> torch.nn.Module:
    """timm.create_model with one-line errors.

    Raises:
        ValueError: an unknown name or argument.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        raise ValueError(f"model: timm has no {name!r}{hint}")
    arguments = {}
    for item in kwargs:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--model-kwargs: {item!r} must be key=value")
        arguments[key] = yaml.safe_load(value)
    try:
        model: torch.nn.Module = timm.create_model(name, **arguments)
    except TypeError as error:
        raise ValueError(f"--model-kwargs: {error}") from None
    return model


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    output: Output,
) -> None:
    """Copy a run's network out as a timm local-dir folder.

    Example: cpt-nas export runs/cpu -o model, then in Python: import cpt_nas;
    timm.create_model('local-dir:model', pretrained=True)
    """
    from cpt_nas.export import copy_export

    copy_export(run, output)
    out.print(f"timm.create_model('local-dir:{output}', pretrained=True)", soft_wrap=True)


@app.command()
def report(
    runs: Runs,
    output: Output,
    profile: Annotated[
        list[str] | None, typer.Option(help="Predict latency under this profile; repeatable.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure every model in every profile's setting.")
    ] = False,
) -> None:
    """Compare runs: tables (CSV) and one HTML page.

    Example: cpt-nas report runs/dense runs/cpu --profile cpu.yaml --measure -o report
    """
    from cpt_nas.report import report as make

    make(runs, output, profile or (), measure=measure)
    out.print(f"{output / 'report.html'}", soft_wrap=True)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of each training.")] = 20,
) -> None:
    """The main job on scikit-learn's digits: measure, train, cut, export, compare.

    Profiles this machine in two settings (one thread and batch 1; all threads and batch 256),
    trains a dense network and one search per profile, and measures every model in both settings.
    """
    from cpt_nas.demo import run

    run(output, epochs, out)


def main() -> None:
    """Console entry point: a user's mistake is one line on stderr and exit code 2."""
    from hwprofiles.cli import run_app

    run_app(app)


if __name__ == "__main__":
    main()
