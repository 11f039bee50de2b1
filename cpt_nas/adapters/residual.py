"""The two forms of most residual blocks, in which each branch is a chain of modules.

``residual_block`` is for blocks that compute ``x = x + chain(x)`` once or several times, as
transformers do. A block without some of its branches stays where it is, with its other modules, and
runs the branches that are left (see :mod:`remainder`).

``chain_block`` is for blocks that compute ``act(chain(pre(x)) + shortcut(x))``, as ResNets do. What
is left of the shortcut stands in the place of a block without its branch.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from timm.layers import Conv2dSame
from torch import nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import flatten, has, is_silent, unit_groups
from cpt_nas.adapters.known import unlike_its_class
from cpt_nas.adapters.remainder import Chain, Remainder, Step, become, remainder_of


def residual_block(
    cls: type[nn.Module],
    *chains: Chain | tuple[Step, ...],
    takes_args: tuple[str, ...] = (),
    after: str = "",
) -> None:
    """Register a block class whose forward is ``x = base(x) + steps(x)`` for each chain in turn.

    A block without one of its branches runs the chains that are left.

    Args:
        cls: the class. Its subclasses are not registered.
        chains: the branches, in order. Names that the block lacks, or that are None, are skipped.
        takes_args: the modules that take the block's further arguments.
        after: a module after the last addition.
    """
    given = [c if isinstance(c, Chain) else Chain(c) for c in chains]

    def adapter(block: nn.Module) -> list[Branch] | Refusal:
        held = [replace(c, steps=tuple(s for s in c.steps if _held(block, s))) for c in given]
        held = [c for c in held if any(_parameters(block, n) for n in c.names)]
        end = after if after and not is_silent(getattr(block, after)) else ""
        names = {name for chain in held for name in chain.names}
        scales = tuple(n for n in sorted(names) if isinstance(getattr(block, n), nn.Parameter))
        whole = Remainder(cls, tuple(held), scales, takes_args, end)
        return [_branch(block, whole, index) for index in range(len(held))]

    REGISTRY.add(cls)(adapter)


def _held(block: nn.Module, step: Step) -> bool:
    return not isinstance(step, str) or getattr(block, step, None) is not None


def _branch(block: nn.Module, whole: Remainder, index: int) -> Branch:
    """One branch of such a block, named after its module with the most parameters."""
    chains = whole.chains
    chain = chains[index]
    scales = [n for n in chain.names if n in whole.scales]
    modules = [n for n in chain.names if n not in scales]
    alone = [n for n in modules if sum(n in c.names for c in chains) == 1]
    told = [n for n in alone if {"set_window_size", "rel_pos"} & set(dir(getattr(block, n)))]

    def remove(now: nn.Module) -> nn.Module:
        held = remainder_of(now) or whole
        left = [replace(c, steps=()) if c == chain else c for c in held.chains]
        passed = [[n for n in (c.base, c.before) if n] for c in left]
        works = [any(not is_silent(getattr(now, n)) for n in names) for names in passed]
        left = [c for c, does in zip(left, works) if c.steps or does]
        for name in (*alone, *scales):
            delattr(now, name)
        told_of, idle = (*held.told, *told), (*held.idle, *chain.methods)
        return become(now, replace(held, chains=tuple(left), told=told_of, idle=idle))

    groups, uncut = unit_groups(block, modules)
    # The block itself calls the scalings and additions of its branches in order.
    scaled = [any(n in whole.scales for n in c.names) for c in chains]
    calls = [_nth(":add", index)]
    calls += [_nth(":mul", sum(scaled[:index]))] if scaled[index] else []
    return Branch(
        name=_work_of(block, modules) if len(chains) > 1 else "",
        groups=groups,
        folds=(scales[0],) if scales else tail(block, modules),
        multiply=alone[-1],
        layers=(*alone, *scales, *calls, *chain.calls),
        remove=remove,
        uncut=uncut,
        projection=chain.base,
    )


def _nth(call: str, index: int) -> str:
    return call if index == 0 else f"{call}#{index}"


def chain_block(
    *classes: type[nn.Module],
    chain: Sequence[str],
    shortcut: str = "",
    act: str = "",
    pre: Sequence[str] = (),
    shortcut_after_pre: Literal["never", "if projected", "always"] = "never",
    nonnegative: bool = False,
    skip: Callable[[nn.Module], str] = lambda block: "",
    extra: Sequence[str] = (),
    scale: str = "",
    parallel: str = "",
) -> None:
    """Register classes that compute ``act(chain(pre(x)) + shortcut(x))``.

    Args:
        classes: the classes. Their subclasses are not registered.
        chain: the branch's modules in calling order, without the drop path.
        shortcut: the attribute that holds the shortcut's projection. Where it is missing, None or
            an identity, the shortcut is the input.
        act: the module after the addition.
        pre: the modules before the branch.
        shortcut_after_pre: whether the shortcut starts after ``pre``, as the branch does.
        nonnegative: whether the input comes from a ReLU. Then a ReLU after the addition changes
            nothing in a block without its branch and projection.
        skip: a function that says of a block why it has no skip connection; '' where it has one.
        extra: further parameters and calls that are removed with the branch.
        scale: the parameter by which the block itself scales the branch, where it has one.
        parallel: why the chain's units cannot be cut although its modules are known; '' where the
            modules are called one after the other.
    """

    def adapter(block: nn.Module) -> list[Branch] | Refusal:
        here = [n for n in chain if has(block, n)]
        groups, uncut = ((), parallel) if parallel else unit_groups(block, here)
        without = skip(block)
        if without:
            if not groups:
                return Refusal(uncut or f"{without}, and no units inside")
            return [Branch("", groups, (), "", (), None, without, uncut)]
        projected = bool(shortcut) and has(block, shortcut)
        projected = projected and not is_silent(block.get_submodule(shortcut))
        kept = [n for n in pre if has(block, n)]
        shared = shortcut_after_pre == "always" or (
            shortcut_after_pre == "if projected" and projected
        )
        last = block.get_submodule(act) if act else nn.Identity()
        done = is_silent(last) or (nonnegative and isinstance(last, nn.ReLU) and not projected)
        remains = [*(kept if shared else ()), *([shortcut] if projected else ())]
        remains += [] if done else [act]

        def remove(now: nn.Module) -> nn.Module:
            if not remains:
                return nn.Identity()
            left = OrderedDict((n, now.get_submodule(n)) for n in remains)
            if not projected and act in left:  # an in-place one would overwrite the block's input
                left[act] = copy.deepcopy(left[act])
                for module in left[act].modules():
                    if hasattr(module, "inplace"):
                        module.inplace = False
            return nn.Sequential(left)

        drop = [n for n in ("drop_path",) if isinstance(getattr(block, n, None), nn.Module)]
        layers = (*here, *(() if shared else kept), *drop, ":add", *extra)
        layers += (act,) if act and done else ()
        multiply = [*here, *drop][-1]
        scaled = scale and getattr(block, scale, None) is not None
        folds = (scale,) if scaled else tail(block, here)
        on_skip = shortcut if projected else ""
        return [Branch("", groups, folds, multiply, layers, remove, "", uncut, on_skip)]

    REGISTRY.add(*classes)(adapter)


def _work_of(block: nn.Module, chain: Sequence[str]) -> str:
    """The name of the module with the most parameters."""
    return max(chain, key=lambda n: _parameters(block, n))


def _parameters(block: nn.Module, name: str) -> int:
    """The number of parameters of the module or parameter of that name."""
    part = getattr(block, name)
    held = part.parameters() if isinstance(part, nn.Module) else [part]
    return sum(p.numel() for p in held)


def tail(block: nn.Module, chain: Sequence[str]) -> tuple[str, ...]:
    """The tensors that scale all of a chain's output; () where it does not end in a linear map.

    They are the weight and bias of the last norm, convolution or linear layer, or the layer scale's
    gamma. The last layer is the chain's last module, or the last layer of an Mlp or an attention
    that stands there.
    """
    leaves = list(flatten(block, chain))
    if not leaves:
        return ()
    name, module = leaves[-1]
    for inner, behind, classes in (
        ("fc2", "drop2", ("Mlp", "SwiGLU")),
        ("proj", "proj_drop", ("Att", "XCA")),
    ):
        found = is_layer(getattr(module, inner, None)) and is_silent(getattr(module, behind, None))
        if found and any(c in type(module).__name__ for c in classes):
            name, module = f"{name}.{inner}", getattr(module, inner)
            break
    if type(module).__name__ in ("LayerScale", "LayerScale2d"):
        return (f"{name}.gamma",)
    if not (is_layer(module) or _is_plain_norm(module)) or getattr(module, "weight", None) is None:
        return ()
    return tuple(f"{name}.{t}" for t in ("weight", "bias") if getattr(module, t, None) is not None)


def is_layer(module: nn.Module | None) -> bool:
    """Whether a module is a plain linear layer or convolution."""
    known = type(module) in (nn.Linear, nn.Conv2d, Conv2dSame)
    return module is not None and known and not unlike_its_class(module)


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a norm without an activation after it."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
        return not unlike_its_class(module) and all(map(is_silent, module.children()))
    return False
