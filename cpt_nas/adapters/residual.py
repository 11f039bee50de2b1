"""Blocks of the form ``x = x + branch(x)``, once or several times, each branch a chain of modules.

Covers the transformers and what is built like them. When branches go, :class:`Residuals` runs the
ones that are left; the modules keep their names, so weights and cuts go on as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cpt_nas.adapters.base import REGISTRY, Branch, Refusal
from cpt_nas.adapters.chains import flatten, is_silent, unit_groups

Chain = tuple[str, ...]


class Residuals(nn.Module):
    """The branches that are left of a block: ``x + chain(x)``, one after the other.

    Args:
        block: the block, whose modules are taken over under their names.
        chains: the names of the modules of each branch, in the order in which they are called.
        informed: modules that are given the block's further arguments (an attention mask, rotary
            embeddings). They are ignored where such a module is gone.
    """

    def __init__(self, block: nn.Module, chains: Sequence[Chain], informed: Chain = ()) -> None:
        super().__init__()
        self.chains = tuple(tuple(c) for c in chains)
        self.informed = informed
        for name, module in block.named_children():
            if any(name in chain for chain in self.chains):
                self.add_module(name, module)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the block's: the shape stays."""
        for chain in self.chains:
            y = x
            for name in chain:
                module = getattr(self, name)
                y = module(y, *args, **kwargs) if name in self.informed else module(y)
            x = x + y
        return x


def residual_block(cls: type[nn.Module], *chains: Chain, informed: Chain = ()) -> None:
    """Register a block class whose forward is ``x = x + chain(x)`` for each chain in turn.

    Args:
        cls: the class, exactly.
        chains: of each branch the names of its modules in calling order, the drop path last. Ones
            that the block lacks, or that are None, are skipped.
        informed: modules that take the block's further arguments.
    """

    def adapter(block: nn.Module) -> list[Branch] | Refusal:
        present = [
            tuple(n for n in chain if getattr(block, n, None) is not None) for chain in chains
        ]
        return [residual_branch(block, present, index, informed) for index in range(len(present))]

    REGISTRY.add(cls)(adapter)


def residual_branch(
    block: nn.Module, chains: Sequence[Chain], index: int, informed: Chain = ()
) -> Branch:
    """One branch of such a block, named after the module that does the work in it."""
    chain = tuple(chains[index])
    add = ":add" if index == 0 else f":add#{index}"

    def remove(now: nn.Module) -> nn.Module:
        held = now.chains if isinstance(now, Residuals) else chains
        left = [c for c in held if tuple(c) != chain]
        return Residuals(now, left, informed) if left else Residuals(now, ())

    groups, uncut = unit_groups(block, chain)
    return Branch(
        name=_work_of(block, chain) if len(chains) > 1 else "",
        groups=groups,
        folds=tail(block, chain),
        multiply=chain[-1],
        layers=(*chain, add),
        remove=remove,
        uncut=uncut,
    )


def _work_of(block: nn.Module, chain: Chain) -> str:
    """The module with the most parameters."""
    return max(chain, key=lambda n: sum(p.numel() for p in block.get_submodule(n).parameters()))


def tail(block: nn.Module, chain: Sequence[str]) -> tuple[str, ...]:
    """The tensors that scale all that a chain puts out, if it ends in a linear map; else ().

    Weight and bias of the last norm, layer scale, convolution or linear layer, looked for in the
    usual places: the last module, or the last of an Mlp or an attention.
    """
    leaves = list(flatten(block, chain))
    if not leaves:
        return ()
    name, module = leaves[-1]
    for inner in ("fc2", "proj"):
        if isinstance(getattr(module, inner, None), (nn.Linear, nn.Conv2d)):
            name, module = f"{name}.{inner}", getattr(module, inner)
            break
    if type(module).__name__ in ("LayerScale", "LayerScale2d"):
        return (f"{name}.gamma",)
    linear = isinstance(module, (nn.Linear, nn.Conv2d)) or _is_plain_norm(module)
    if not linear or getattr(module, "weight", None) is None:
        return ()
    if "Std" in type(module).__name__:  # a standardised weight forgets its scale
        return ()
    return tuple(f"{name}.{t}" for t in ("weight", "bias") if getattr(module, t, None) is not None)


def _is_plain_norm(module: nn.Module) -> bool:
    """A norm with an affine map at its end, and no activation behind it."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
        return is_silent(getattr(module, "act", None))
    return False
