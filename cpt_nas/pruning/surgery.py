"""Cutting: a plan {tensor: [(dim, keep)]} applied to everything that has the tensor's shape.

The only place that changes a tensor's shape. Parameters are replaced by new ones, not resized in
place: a loss from the last step may still hold the old graph, and resizing under it would fail
in the next backward. The optimizer's lists and state follow, so nobody has to be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

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
            key = (join(block, count.module), count.attribute)
            plan.counts[key] = count.per_unit * len(units)


def locate(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module and attribute that really hold a tensor, also under a parametrization."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if parametrize.is_parametrized(module, attribute):
        holders: nn.ModuleDict = module.parametrizations  # type: ignore[assignment]
        return holders[attribute], "original"
    return module, attribute


def get_tensor(model: nn.Module, name: str) -> Tensor:
    module, attribute = locate(model, name)
    tensor: Tensor = getattr(module, attribute)
    return tensor


def _select(tensor: Tensor, keep: Iterable[tuple[Slice, Tensor]]) -> Tensor:
    for cut, units in keep:
        index = entries(units, cut, tensor.shape[cut.dim]).to(tensor.device)
        tensor = tensor.index_select(cut.dim, index)
    return tensor


def _set(owner: Any, path: str, value: int) -> None:
    """Set an attribute, or an entry of the lists and mappings that it leads to."""
    first, *rest = path.split(".")
    if not rest:
        setattr(owner, first, value)
        return
    inner = getattr(owner, first)
    for part in rest[:-1]:
        inner = inner[int(part) if isinstance(inner, list) else part]
    inner[rest[-1]] = value


@torch.no_grad()
def apply(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Cut ``model`` in place, with its gradients and, if given, its optimizer's state.

    Raises:
        ValueError: the optimizer keeps state of another shape than its parameter's, which nobody
            here knows how to cut.
    """
    if optimizer is not None:
        _check_state(plan, model, optimizer)
    swapped: dict[int, nn.Parameter] = {}
    for name, keep in plan.keep.items():
        module, attribute = locate(model, name)
        old: Tensor = getattr(module, attribute)
        new = _select(old.detach(), keep).clone(memory_format=torch.preserve_format)
        if isinstance(old, nn.Parameter):
            parameter = nn.Parameter(new, requires_grad=old.requires_grad)
            if old.grad is not None:
                parameter.grad = _select(old.grad, keep)
            swapped[id(old)] = parameter
            if optimizer is not None and old in optimizer.state:
                state = optimizer.state.pop(old)
                optimizer.state[parameter] = {
                    k: _select(v, keep) if _is_like(v, old) else v for k, v in state.items()
                }
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
    if optimizer is not None:
        _follow(model, optimizer, swapped)


def _is_like(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def _check_state(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for name in plan.keep:
        tensor = get_tensor(model, name)
        for key, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != tensor.shape:
                raise ValueError(
                    f"optimizer: {type(optimizer).__name__} keeps {key!r} of shape "
                    f"{tuple(value.shape)} for {name} {tuple(tensor.shape)}; only state of the "
                    "parameter's own shape can be cut (SGD, Adam, AdamW, LAMB, Lion, ...)"
                )


def _follow(
    model: nn.Module, optimizer: torch.optim.Optimizer, new: dict[int, nn.Parameter]
) -> None:
    """Swap cut parameters, drop removed ones, and assert that none is left behind."""
    live = {id(p) for p in model.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [new.get(id(p), p) for p in group["params"]]
        for parameter in group["params"]:
            if id(parameter) not in live:
                optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if id(p) in live]
    check_optimizer(model, optimizer)


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Every parameter that trains is in the optimizer (others' silent failure, peers.md 1).

    Raises:
        ValueError: one is not, named.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if lost:
        raise ValueError(
            f"optimizer: {len(lost)} trainable parameters of the model are not in it, e.g. "
            f"{lost[0]}; build it from model.parameters()"
        )


def plain_name(name: str) -> str:
    """A tensor's name as it is without parametrizations."""
    return name.replace("parametrizations.", "").removesuffix(".original")


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict under the plain model's names, without parametrizations."""
    return {plain_name(name): tensor for name, tensor in model.state_dict().items()}


@torch.no_grad()
def load_plain_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what :func:`plain_state_dict` gave; names and shapes must match."""
    own = plain_state_dict(model)
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    if wrong:
        raise ValueError(f"checkpoint: does not fit the model at {wrong[0]} ({len(wrong)} tensors)")
    for name, tensor in own.items():
        tensor.copy_(state[name])
