"""Cutting: a plan {tensor: [(dim, keep)]} applied to everything that has the tensor's shape.

The only place that changes a tensor's shape. Parameters are replaced by new ones, not resized in
place: a loss from the last step may still hold the old graph, and resizing under it would fail
in the next backward. What has changed is returned, for optimizers to follow
(:mod:`cpt_nas.pruning.optimizer_state`); a parameter that was replaced says so if it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cpt_nas.adapters import Branch, Slice


@dataclass
class Plan:
    """What goes.

    Attributes:
        keep: tensor name -> [(slice, units kept of those that are there now)].
        counts: (module name, attribute) -> its new value.
        removed: block name -> branches of it that are gone.
    """

    keep: dict[str, list[tuple[Slice, Tensor]]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    removed: dict[str, list[Branch]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.keep or self.removed)


def join(*parts: str) -> str:
    return ".".join(p for p in parts if p)


def entries(units: Tensor, cut: Slice, size: int) -> Tensor:
    """The entries along ``cut.dim``, ``size`` of them now, that ``units`` own, in order."""
    rows = (units[:, None] * cut.width + torch.arange(cut.width)[None]).flatten()
    return torch.cat([rows + size // cut.parts * part for part in range(cut.parts)])


def plan_units(plan: Plan, block: str, branch: Branch, kept: Mapping[str, Tensor]) -> None:
    """Add to ``plan``: of each of the branch's groups only the units in ``kept[group]`` stay.

    Indices count the units that are there now.
    """
    for group in branch.groups:
        units = kept.get(group.name)
        if units is None:
            continue
        for cut in group.slices:
            plan.keep.setdefault(join(block, cut.tensor), []).append((cut, units))
        for count in group.counts:
            plan.counts[count.owner(block), count.attribute] = count.per_unit * len(units)


def get_tensor(model: nn.Module, name: str) -> Tensor:
    path, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), attribute)
    return tensor


def select(tensor: Tensor, keep: Iterable[tuple[Slice, Tensor]], shape: Sequence[int]) -> Tensor:
    """The entries of ``tensor`` that stay.

    Args:
        keep: which stay of a tensor of ``shape``.
        shape: as the tensor's; the tensor may be 1 where this is not, and stays so.
    """
    sizes = list(shape)
    for cut, units in keep:
        index = entries(units, cut, sizes[cut.dim])
        if tensor.shape[cut.dim] == sizes[cut.dim]:
            tensor = tensor.index_select(cut.dim, index.to(tensor.device))
        sizes[cut.dim] = len(index)
    return tensor


def _set(owner: Any, path: str, value: int) -> None:
    """Set an attribute, or an entry of the lists, mappings and objects that it leads to.

    What is led through becomes the owner's own: other models may be made from the same lists.
    """
    first, *rest = path.split(".")
    if not rest:
        setattr(owner, first, value)
        return
    held = inner = copy.deepcopy(getattr(owner, first))
    for part in rest[:-1]:
        if isinstance(inner, list | tuple):
            inner = inner[int(part)]
        else:
            inner = inner[part] if isinstance(inner, Mapping) else getattr(inner, part)
    inner[rest[-1]] = value
    setattr(owner, first, held)


@dataclass
class Change:
    """What a cut has done to the parameters of a model.

    Attributes:
        replaced: old parameter -> the one in its place, and what it has kept.
        gone: those that nothing stands for.
    """

    replaced: dict[nn.Parameter, tuple[nn.Parameter, list[tuple[Slice, Tensor]]]]
    gone: set[nn.Parameter]


@torch.no_grad()
def apply(plan: Plan, model: nn.Module) -> Change:
    """Cut ``model`` in place, with its gradients and what else its parameters carry."""
    before = dict.fromkeys(model.parameters())
    change = Change({}, set())
    for name, keep in plan.keep.items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        old: Tensor = getattr(module, attribute)
        new = select(old.detach(), keep, old.shape).clone(memory_format=torch.preserve_format)
        if isinstance(old, nn.Parameter):
            parameter = nn.Parameter(new, requires_grad=old.requires_grad)
            if old.grad is not None:
                parameter.grad = select(old.grad, keep, old.shape)
            for key, value in vars(old).items():  # some optimizers keep their estimates there
                alike = isinstance(value, Tensor) and value.shape == old.shape
                setattr(parameter, key, select(value, keep, old.shape) if alike else value)
            change.replaced[old] = (parameter, keep)
            new = parameter
        setattr(module, attribute, new)
    for (path, attribute), value in plan.counts.items():
        _set(model.get_submodule(path), attribute, value)
    for path, branches in plan.removed.items():
        block = model.get_submodule(path)
        training = block.training
        for branch in branches:
            assert branch.remove is not None
            block = branch.remove(block)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, block.train(training))
    held = {id(p) for p in model.parameters()}
    # What was made smaller may have gone with its branch all the same.
    change.replaced = {old: new for old, new in change.replaced.items() if id(new[0]) in held}
    change.gone = {p for p in before if p not in change.replaced and id(p) not in held}
    for old in (*change.replaced, *change.gone):
        old.__class__ = CutParameter
    return change


class CutParameter(nn.Parameter):
    """A parameter that a cut has replaced or removed: who still trains it must not go on silently.

    Raises:
        ValueError: its gradient is asked for, as optimizers and clipping do.
    """

    @property
    def grad(self) -> Tensor | None:
        raise ValueError(
            f"parameters: one of shape {tuple(self.shape)} was cut and is not the model's any "
            "more; give every optimizer to search.step() and search.finish(), and take "
            "model.parameters() anew after a cut"
        )

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        _ = self.grad


@torch.no_grad()
def load_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a model's state in place.

    Raises:
        ValueError: names or shapes differ; nothing has been loaded then.
    """
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    if wrong:
        raise ValueError(f"checkpoint: does not fit the model at {wrong[0]} ({len(wrong)} tensors)")
    for name, tensor in own.items():
        tensor.copy_(state[name])
