"""Options of commands that measure models, and what the commands make of them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hwprofiles.cost_profile import ProfileError
from hwprofiles.files import try_writing
from hwprofiles.messages import naming
from hwprofiles.models import check_size, create_model
from hwprofiles.output import refuse_foreign_file
from hwprofiles.profile_file import load
from hwprofiles.runtimes import RUNTIMES
from hwprofiles.time_limit import TimeLimit
from hwprofiles.timing import Progress
from hwprofiles.yaml_file import YamlError, parse_yaml, shortened


def _a_number(value: float) -> float:
    if math.isnan(value):
        raise typer.BadParameter("nan is not a number.")
    return value


Models = Annotated[list[str], typer.Argument(help="timm model names.", metavar="MODEL...")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The YAML file to write.")]
InputSize = Annotated[
    tuple[int, int, int] | None,
    typer.Option(
        help="Channels, height, width of one example; default is the model's.", show_default=False
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a call.")]
DeviceType = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default is all.", show_default=False)
]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
Runtime = Annotated[str, typer.Option(help=f"What the network will run in: {', '.join(RUNTIMES)}.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Memory format.")]
Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Python module that registers models; repeatable."),
]
ModelKwargs = Annotated[
    list[str] | None, typer.Option(help="key=value for the model's constructor; repeatable.")
]
Name = Annotated[str | None, typer.Option(help="Of the profile; default like cpu-t1-b1.")]
NumRounds = Annotated[int, typer.Option(min=10, help="Readings of every point, at least.")]
Seconds = Annotated[
    float, typer.Option(min=0, max=86400, callback=_a_number, help="Measure for at least so long.")
]
Limit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        min=1,
        max=7 * 86400,
        callback=_a_number,
        help="Give up after so many seconds, before anything is written.",
    ),
]
TIME_LIMIT_S = 1800.0
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of whatever is drawn.")]


def create_models(
    names: Sequence[str], modules: Sequence[str], defaults: dict[str, Any], pairs: Sequence[str]
) -> dict[str, Any]:
    """Models from timm's registry, after importing ``modules`` that add to it.

    Args:
        names: of the models.
        modules: imported first.
        defaults: keyword arguments of every model.
        pairs: 'key=value' that override them; the value is read as YAML.

    Raises:
        ValueError: an unknown model, a module that cannot be imported, a malformed pair, or a
            keyword that a model does not take.
    """
    import timm

    for module in modules:
        with naming(f"import: {module!r} cannot be imported"):
            importlib.import_module(module)
    kwargs = defaults | dict(key_value(pair) for pair in pairs)
    built = {}
    for name in names:
        if not timm.is_model(name):
            raise ValueError(
                f"model: {shortened(name)} is not in timm's registry; --import can add to it"
            )
        words = f"model: {name} with model-kwargs {shortened(kwargs)}"
        built[name] = create_model(name, kwargs, words)
    return built


def create_models_at(
    names: Sequence[str],
    modules: Sequence[str],
    input_size: tuple[int, int, int] | None,
    pairs: Sequence[str],
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """``create_models``, and the size of one example: as given, or what timm says of the models.

    Raises:
        ValueError: as ``create_models``, none was given and the models' own differ or are not
            known, or a model does not run at the size.
    """
    if input_size is None:
        built = create_models(names, modules, {}, pairs)
        size = _own_size(built, dict(key_value(pair) for pair in pairs))
    else:
        if min(input_size) < 1:
            raise ValueError(f"input_size: {list(input_size)}, all must be above 0")
        built = create_models(names, modules, {"in_chans": input_size[0]}, pairs)
        size = input_size
    for name, model in built.items():
        check_size(model, size, f"input_size: {list(size)} does not fit {name}")
    return built, size


def _own_size(built: Mapping[str, Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int]:
    """What timm says of the models."""
    sizes = {}
    for name, model in built.items():
        known = getattr(model, "pretrained_cfg", None) or {}
        if "input_size" not in known:
            raise ValueError(f"input-size: is missing, and {name} does not say its own")
        sizes[name] = tuple(known["input_size"])
    if len(set(sizes.values())) > 1:
        own = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in sizes.items())
        raise ValueError(f"input-size: not given, and the models' own differ ({own})")
    channels, height, width = next(iter(sizes.values()))
    return kwargs.get("in_chans", channels), height, width


def key_value(pair: str) -> tuple[str, Any]:
    """A keyword argument as an option gives it, the value read as YAML.

    Raises:
        ValueError: no key, or a value that is not plain YAML.
    """
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise ValueError(f"model-kwargs: {shortened(pair)}, allowed is key=value")
    try:
        return key, parse_yaml(value)
    except YamlError as error:
        raise ValueError(f"model-kwargs: {shortened(value)} of {key}: {error}") from None


OF_A_TRAINING = ("recipe.yaml", "result.json")
"""Beside them a profile is a training's own copy."""


def check_output(path: Path) -> None:
    """Try, before anything is measured, whether a profile can be written.

    Raises:
        ValueError: the file is a folder, is there and not a profile, or is the profile that a
            training goes on with.
        OSError: it cannot be written there; names it and the reason, such as no space left.
    """
    refuse_foreign_file(path, "a profile", _is_profile)
    if path.exists() and all((path.parent / name).exists() for name in OF_A_TRAINING):
        raise ValueError(f"output: {path} belongs to the training in its folder; name another file")
    try_writing(path)


def limited(report: Progress, time_limit: float, seconds: float) -> TimeLimit:
    """``report``, which from now on ends a measurement that takes too long.

    Raises:
        ValueError: the limit is below the time that is asked for.
    """
    if time_limit <= seconds:
        raise ValueError(f"time-limit: {time_limit:g}, must be above --seconds, {seconds:g}")
    return TimeLimit(time_limit, report)


def _is_profile(path: Path) -> bool:
    try:
        load(path)
    except ProfileError:
        return False
    return True
