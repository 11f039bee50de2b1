"""recipe.md: a table of keys for every section of a recipe."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cpt_nas.data.config import DataConfig
from cpt_nas.gates.bernoulli import ESTIMATORS
from cpt_nas.search.settings import SearchConfig
from cpt_nas.train.recipe import DistillConfig, ModelConfig, TrainConfig
from generator.markdown import described, table
from hwprofiles.target import Target

SECTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "model": (ModelConfig, "Which network; the only section that a recipe must have."),
    "data": (DataConfig, "Which images; see [your own images](../guide/own-images.md)."),
    "train": (TrainConfig, "How the weights are trained, under timm's names."),
    "train.distill": (
        DistillConfig,
        "A teacher to learn from beside the labels; null: none. See "
        "[trained weights](../guide/pretrained-start.md#a-teacher).",
    ),
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
