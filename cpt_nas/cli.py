"""cpt-nas: demo | profile | validate-profile | inspect | train | export | report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
import yaml
from rich.console import Console

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
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Cost profile: a file, or the name of a shipped one.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override: key=value; may be repeated.")
    ] = None,
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

      cpt-nas train --recipe recipes/digits.yaml --profile cpu.yaml -o runs/cpu

      cpt-nas train --recipe recipes/digits.yaml --dense -o runs/dense

      cpt-nas train --resume runs/cpu

      torchrun --nproc-per-node 2 -m cpt_nas.cli train --recipe recipes/digits.yaml -o runs/ddp
    """
    from cpt_nas import runfolder
    from cpt_nas.train import train as run

    if resume is not None:
        if any((recipe, set_, profile, output, dense, allow_foreign)):
            raise ConfigError("--resume: takes the run's own recipe; give no other option with it")
        run(load_recipe(resume / "recipe.yaml"), resume, resume=True)
        return
    if recipe is None:
        raise ConfigError("--recipe: is missing; name a YAML file, or --resume a run folder")
    loaded = with_profile(load_recipe(recipe, set_ or ()), profile, dense, allow_foreign)
    folder = output or runfolder.default_folder(loaded)
    result = run(loaded, folder)
    if result:
        out.print(
            f"{folder}: accuracy {result['test_acc']:.2f} %,"
            f" MACs {result['macs'] / 1e6:.2f} M of {result['macs_dense'] / 1e6:.2f} M,"
            f" parameters {result['params'] / 1e6:.3f} M of {result['params_dense'] / 1e6:.3f} M,"
            f" branches {result['branches']} of {result['branches_dense']}",
            highlight=False,
            soft_wrap=True,
        )


def with_profile(
    recipe: Recipe, profile: str | None, dense: bool = False, allow_foreign: bool = False
) -> Recipe:
    """The recipe with a search under ``profile``, or without a search."""
    values: dict[str, Any] = recipe.model_dump()
    if dense:
        if profile is not None:
            raise ConfigError("--dense: leaves the search out, so --profile has no use")
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
