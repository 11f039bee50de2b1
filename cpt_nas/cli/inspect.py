"""The command cpt-nas inspect."""

from __future__ import annotations

from typing import Annotated, Any

import timm
import torch
import typer

from cpt_nas.cli import options
from cpt_nas.cli.inspection import show
from cpt_nas.pruning.search_space import find_branches
from hwprofiles.models import create_model
from hwprofiles.options import key_value
from hwprofiles.yaml_file import shortened


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
    space = find_branches(network).select(include or (), exclude or ())
    show(options.out, network, space, model)
    if not space.branches:
        raise ValueError(f"model: nothing can be gated in {type(network).__name__}")


def create(name: str, kwargs: Any = ()) -> torch.nn.Module:
    """timm.create_model with one-line errors.

    Raises:
        ValueError: an unknown name or argument.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        hint = f"; did you mean {', '.join(close)}?" if close else "; see timm.list_models()"
        raise ValueError(f"model: timm has no {shortened(name)}{hint}")
    arguments = dict(key_value(item) for item in kwargs)
    return create_model(name, arguments, f"model: {name} with model-kwargs {shortened(arguments)}")
