"""The command cpt-nas inspect."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer

from cpt_nas.cli import options
from cpt_nas.cli.inspection import show
from cpt_nas.pruning.origin import ONLY, difference
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.trial import failures
from hwprofiles.messages import naming, one_line
from hwprofiles.models import check_size, create_model
from hwprofiles.options import key_value
from hwprofiles.yaml_file import shortened


def inspect(
    model: Annotated[
        str,
        typer.Argument(help="A name in timm's registry, or module:name of a model or its maker."),
    ],
    model_kwargs: Annotated[
        list[str] | None, typer.Option(help="key=value for what makes it; may be repeated.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Pattern of branch names.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of branch names.")] = None,
    input_size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            help="Channels, height, width: with it a model that timm does not make is tried.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what would be gated in a model, what not, and why.

    Examples:

      cpt-nas inspect resnet18 --exclude 'layer4.*'

      cpt-nas inspect my_package.models:make --model-kwargs depth=20 --input-size 3 32 32
    """
    arguments = dict(key_value(item) for item in model_kwargs or ())
    network = create(model, arguments)
    space = find_branches(network)
    if input_size is not None and space.branches:
        check_size(network, input_size, f"input-size: {input_size}")
        example = torch.zeros(1, *input_size, dtype=next(network.parameters()).dtype)
        config = getattr(network, "pretrained_cfg", None)
        name = (config.get("architecture") or "") if isinstance(config, Mapping) else ""
        differs = difference(network, name, arguments, example)
        if differs:
            space = space.without(failures(network, space, example))
            options.out.print(f"{differs}; {ONLY}", highlight=False)
    space = space.select(include or (), exclude or ())
    show(options.out, network, space, model)
    if ":" in model and input_size is None:
        options.out.print(
            "not tried: with --input-size every branch is masked and cut, as attach does",
            highlight=False,
        )
    if not space.branches:
        raise ValueError(f"model: nothing can be gated in {type(network).__name__}")


def create(name: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """A model by its name in timm's registry, or by where it is in Python.

    Raises:
        ValueError: an unknown name or argument, or something else than a model.
    """
    module, colon, attribute = name.partition(":")
    if colon and module not in ("hf-hub", "hf_hub", "local-dir"):
        return _import(module, attribute.split("."), arguments)
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        raise ValueError(f"model: timm has no {shortened(name)}{hint}")
    return create_model(name, arguments, f"model: {name} with model-kwargs {shortened(arguments)}")


def _import(module: str, path: Sequence[str], arguments: Mapping[str, Any]) -> torch.nn.Module:
    """The model at a place in Python, or what is made by calling what is there."""
    place = f"{module}:{'.'.join(path)}"
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does
    try:
        found: Any = importlib.import_module(module)
        for part in path:
            found = getattr(found, part)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"model: {place} cannot be imported: {one_line(error, 150)}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(found, torch.nn.Module):
        if not callable(found):
            raise ValueError(f"model: {place} is neither a model nor makes one")
        with naming(f"model: {place} with model-kwargs {shortened(dict(arguments))}"):
            found = found(**arguments)
    elif arguments:
        raise ValueError(f"model-kwargs: {place} is a model already, and takes none")
    if not isinstance(found, torch.nn.Module):
        raise ValueError(f"model: {place} makes {type(found).__name__}, not a model")
    return found
