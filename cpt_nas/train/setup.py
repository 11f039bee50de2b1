"""A training set up from its recipe: device, model, search, optimizer."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import nn

import hwprofiles
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.data.batches import Batches
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to, dense_structure, load_structure
from cpt_nas.search.search import Search
from cpt_nas.train.distill import TEACHER, build_distillation
from cpt_nas.train.optimizer import build_optimizer, build_scheduler
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.start import start_weights, tried
from cpt_nas.train.state import TrainingState
from hwprofiles import Profile, models
from hwprofiles.messages import naming
from hwprofiles.yaml_file import shortened


def choose_device(name: str) -> torch.device:
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"train.device: {name}: no CUDA device here; use cpu")
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        with naming(f"train.device: {name}"):
            torch.cuda.set_device(name)
    return torch.device(name)


def create_model(recipe: Recipe, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The recipe's dense model, and the keyword arguments it was made with.

    Raises:
        ValueError: timm has no such model, or it does not take these arguments, or with them not
            the data.
    """
    name = recipe.model.name
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"model.name: timm has no model {shortened(name)}; timm.list_models() lists them"
        )
    kwargs = {"num_classes": num_classes, "in_chans": recipe.data.input_size[0]}
    for key, most in (("num_classes", math.inf), ("in_chans", kwargs["in_chans"])):
        stated = recipe.model.kwargs.get(key, kwargs[key])
        if type(stated) is not int or not kwargs[key] <= stated <= most:
            raise ValueError(
                f"model.kwargs.{key}: {shortened(stated)}, the data have {kwargs[key]}"
            )
    kwargs |= recipe.model.kwargs
    size = list(recipe.data.input_size)
    words = f"model.name: {shortened(name)} with model.kwargs {shortened(recipe.model.kwargs)}"
    model = models.create_model(name, kwargs, words)
    if recipe.search is None or find_branches(model).branches:  # else the search says why not
        models.check_size(model, size, f"data.input_size: {size} does not fit {words}")
        batch = min(2, recipe.train.batch_size)
        field = f"train.batch_size: {recipe.train.batch_size} at {size} does not train {words}"
        models.check_training(model, (batch, *size), field)
    return model, kwargs


def load_profile(recipe: Recipe, copy: Path | None = None) -> Profile | None:
    """The search's profile, if it has one.

    Args:
        copy: the run's own, of a run that goes on. It is taken where it is there, wherever the
            recipe's file is by now and whatever it holds.

    Raises:
        ValueError: a target without a profile, no such profile, one of another setting than the
            stated target, or, where it is not the run's own, one of another machine than where the
            network is to run.
    """
    search = recipe.search
    if search is None:
        return None
    if not search.profile:
        stated = {} if search.target is None else search.target.model_dump(exclude_none=True)
        if stated:
            raise ValueError(
                f"search.target: {stated}, but there is no profile that could be of that setting; "
                "give one (search.profile, --profile), or leave the target out"
            )
        return None
    if copy is not None and copy.is_file():
        profile = hwprofiles.load(copy)
        hwprofiles.require_target(profile, search.target, allow_foreign=True)
        return profile
    profile = hwprofiles.load(search.profile)
    hwprofiles.require_target(profile, search.target, search.allow_foreign)
    return profile


def given_structure(
    recipe: Recipe, saved: dict[str, Any] | None, copy: Path | None
) -> Structure | None:
    """The structure that the model is cut to before training, if the recipe names one.

    Args:
        saved: the last checkpoint of a run that goes on; it holds the structure.
        copy: the run's own file, of a run that goes on without a checkpoint.

    Raises:
        ValueError: no such file, or not a structure.
    """
    if recipe.model.structure is None:
        return None
    if saved is not None:
        return load_structure(saved["structure"])
    if copy is not None and copy.is_file():
        return load_structure(copy)
    return load_structure(recipe.model.structure)


def build_training(
    recipe: Recipe,
    data: Batches,
    device: torch.device,
    profile: Profile | None,
    given: Structure | None,
    *,
    resumed: Path | None = None,
    console: Console | None = None,
) -> TrainingState:
    """The recipe's model with its search, if any, and what trains it.

    Args:
        profile: of the search.
        given: a structure to cut the model to before training.
        resumed: the folder of a run that goes on from its checkpoint. The weights are that one's,
            and those that the recipe starts from are not loaded; the teacher is the run's own.
        console: where it is said what was loaded, by the process that has one.
    """
    t = recipe.train
    model, kwargs = create_model(recipe, data.num_classes)
    loaded = None if resumed is not None else start_weights(model, recipe, kwargs)
    model.to(device)
    if t.channels_last:
        model.to(memory_format=torch.channels_last)
    weights = None
    if loaded is not None and console is not None:
        weights = tried(model, loaded, data, autocast(recipe, device), console)
    distillation = build_distillation(
        recipe,
        model,
        loaded is not None and loaded.new_head,
        data,
        device,
        None if resumed is None else resumed / TEACHER,
    )
    if distillation is not None and distillation.source is not None and console is not None:
        right = distillation.tried(data, device, autocast(recipe, device))
        teacher = recipe.train.distill.teacher if recipe.train.distill is not None else ""
        console.print(
            f"teacher {teacher}: {right:.1f} % of the test images right",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    example = torch.zeros(1, *recipe.data.input_size, device=device)
    search = None
    if recipe.search is not None:
        settings = recipe.search.settings(t.epochs * data.steps, t.seed)
        search = Search(model, example, profile, settings, kwargs)
        structure, cost = search.structure(), search.cost
    else:
        space = find_branches(model)
        structure = dense_structure(space, recipe.model.name, kwargs)
        cost = build_cost(model, example, space).to(device)
    structure.require_rebuildable()  # it is exported in the end
    if given is not None:
        same = {"architecture": structure.architecture, "model_kwargs": kwargs}
        given = given.model_copy(update=same)
        cut_to(model, given)
    optimizer = build_optimizer(model, t)
    scheduler = build_scheduler(optimizer, t, data.steps)
    ema = ModelEmaV3(model, decay=t.model_ema_decay, use_warmup=True) if t.model_ema else None
    return TrainingState(
        model,
        search,
        cost,
        structure,
        given,
        optimizer,
        scheduler,
        ema,
        weights=weights,
        distillation=distillation,
    )


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of forward passes; to be entered any number of times."""
    return torch.autocast(device.type, torch.bfloat16) if recipe.train.amp else nullcontext()


def wrap(model: nn.Module, world: int) -> nn.Module:
    """The model under DDP, anew after each cut: its buckets hold the old shapes."""
    return nn.parallel.DistributedDataParallel(model) if world > 1 else model
