"""Optimizers that follow a cut: their lists of parameters, and what they keep for each.

Some wrap others (Lookahead, SAM), and some training uses several: all of them follow alike. Whether
they can is asked before anything is cut (:func:`check`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cpt_nas.pruning.surgery import Change, Plan, get_tensor, select

BROADCAST = ("row_var", "col_var")
"""State that torch's Adafactor keeps with size 1 in one dimension, whatever the others' sizes."""
FOLLOWED = ("param_groups", "state", "defaults")
PLAIN = "SGD, Adam, AdamW, LAMB, Lion, Muon, torch's Adafactor, ..."


def optimizers_of(given: object) -> list[Optimizer]:
    """Every optimizer that is given, and those that they wrap.

    Args:
        given: an optimizer, several in a list or tuple, or None.

    Raises:
        ValueError: something else.
    """
    if given is None:
        return []
    found: list[Optimizer] = []
    for one in given if isinstance(given, list | tuple) else [given]:
        if not _is_optimizer(one):
            raise ValueError(
                f"optimizer: a {type(one).__name__}; must be an optimizer of torch's kind, or a "
                "list of them"
            )
        for each in _unwrapped(one):
            if not any(each is other for other in found):
                found.append(each)
    return found


def _is_optimizer(value: object) -> bool:
    return isinstance(getattr(value, "param_groups", None), list) and isinstance(
        getattr(value, "state", None), Mapping
    )


def _unwrapped(optimizer: Any) -> Iterator[Optimizer]:
    yield optimizer
    for value in vars(optimizer).values():
        for inner in value if isinstance(value, list | tuple) else [value]:
            if _is_optimizer(inner) and inner is not optimizer:
                yield from _unwrapped(inner)


def check_held(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Every parameter that trains is in an optimizer: what is not would be lost without a word.

    Raises:
        ValueError: one is not, named.
    """
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    lost = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if lost:
        raise ValueError(
            f"optimizer: {len(lost)} trainable parameters of the model are not in it, e.g. "
            f"{lost[0]}; build it from model.parameters(), give all optimizers as a list, or "
            "freeze what is not to train (requires_grad_(False))"
        )


def check(optimizers: Sequence[Optimizer], model: nn.Module, plan: Plan) -> None:
    """Whether all of them can follow a cut.

    Raises:
        ValueError: a trainable parameter is in none of them, or one keeps something that nobody
            here knows how to cut.
    """
    if optimizers:
        check_held(model, optimizers)
    check_state(optimizers, model, plan.keep)


def check_state(optimizers: Iterable[Optimizer], model: nn.Module, names: Collection[str]) -> None:
    """Whether what they keep of the tensors ``names`` can be cut.

    Raises:
        ValueError: one keeps state of another shape than its parameter's, or outside of its state.
    """
    tensors = {name: get_tensor(model, name) for name in names}
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        kept = {k: v for k, v in vars(optimizer).items() if k not in FOLLOWED}
        for group in optimizer.param_groups:
            kept |= {k: v for k, v in group.items() if k != "params"}
        for attribute, value in kept.items():
            if _holds_tensors(value):
                raise ValueError(
                    f"optimizer: {kind} keeps tensors in {attribute!r}, which a cut "
                    f"cannot follow; use one that keeps them in its state ({PLAIN})"
                )
        for name, tensor in tensors.items():
            for key, value in optimizer.state.get(tensor, {}).items():
                if not _can_follow(key, value, tensor):
                    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value)
                    raise ValueError(
                        f"optimizer: {kind} keeps {key!r} of shape {shape} for {name} "
                        f"{tuple(tensor.shape)}; only state of the parameter's own shape can be "
                        f"cut ({PLAIN})"
                    )


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor) and value.numel() > 1


def _is_like(key: object, value: object, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.dim() != parameter.dim() or value.dim() == 0:
        return False
    pairs = list(zip(value.shape, parameter.shape))
    return all(a == b for a, b in pairs) or (
        key in BROADCAST and all(a in (1, b) for a, b in pairs)
    )


def _can_follow(key: object, value: object, parameter: Tensor) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 or _is_like(key, value, parameter)
    return not _holds_tensors(value)


@torch.no_grad()
def follow(optimizers: Iterable[Optimizer], change: Change) -> None:
    """Swap what was cut and drop what is gone; everything else stays, in its order."""
    groups = {id(group): group for o in optimizers for group in o.param_groups}  # wrappers share
    for group in groups.values():
        stay = [i for i, p in enumerate(group["params"]) if p not in change.gone]
        held = [group["params"][i] for i in stay]
        group["params"] = [change.replaced[p][0] if p in change.replaced else p for p in held]
        if "param_names" in group:
            group["param_names"] = [group["param_names"][i] for i in stay]
    for optimizer in optimizers:
        for old, (new, keep) in change.replaced.items():
            if old in optimizer.state:
                optimizer.state[new] = {
                    key: select(value, keep, old.shape) if _is_like(key, value, old) else value
                    for key, value in optimizer.state.pop(old).items()
                }
        for old in change.gone:
            optimizer.state.pop(old, None)
