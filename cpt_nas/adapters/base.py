"""What an adapter says about a block: its branches, its unit groups, and what to slice.

An adapter is a function ``block -> list[Branch] | Refusal``. All names in it are relative to the
block. It is the only place that knows a timm block's insides; everything else reads this data.

A block may hold modules that have adapters of their own (an Mlp, an attention). Their unit groups
become groups of the branch that they lie in, see :func:`cpt_nas.pruning.search_space.nest`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeGuard

from torch import nn


@dataclass(frozen=True)
class Slice:
    """Along ``dim`` of ``tensor``, unit u owns entries u*width .. (u+1)*width - 1.

    A packed tensor (query, key and value; a value and its gate) holds ``parts`` equal blocks, one
    after the other, and the unit owns those entries of each.
    """

    tensor: str
    dim: int = 0
    width: int = 1
    parts: int = 1


@dataclass(frozen=True)
class Count:
    """``module.attribute`` is ``per_unit`` times the units left.

    The attribute may lead on into lists and mappings: 'feature_info.2.num_chs'.

    Attributes:
        module: its name, seen from the block.
        attribute: of the module.
        per_unit: how much a unit adds.
        of_model: the name is seen from the model instead.
    """

    module: str
    attribute: str
    per_unit: int = 1
    of_model: bool = False

    def owner(self, block: str) -> str:
        """The module's path in the model, from the block's."""
        seen_from = "" if self.of_model else block
        return ".".join(p for p in (seen_from, self.module) if p)


@dataclass(frozen=True)
class UnitGroup:
    """Units that are read by dense layers alone, so that each can be cut.

    They exist inside one branch; or outside all, and then branches may write and read them, too:
    what such a branch holds of them goes with it.

    Attributes:
        name: unique in the block.
        kind: 'filters', 'groups', 'hidden' or 'heads'.
        size: K, the number of units.
        slices: every tensor that loses entries when a unit goes.
        counts: every attribute that counts units.
        folds: the readers' weights, multiplied by the gate (form (c)); multiplying the readers'
            inputs is the same function (form (a)).
        produced_by: layers whose output channels are the group's -> channels a unit.
        consumed_by: layers whose input channels are the group's -> channels a unit.
    """

    name: str
    kind: str
    size: int
    slices: tuple[Slice, ...]
    counts: tuple[Count, ...]
    folds: tuple[Slice, ...]
    produced_by: dict[str, int]
    consumed_by: dict[str, int]

    @property
    def width(self) -> int:
        """Channels a unit in the first of the layers that make them."""
        return self.slices[0].width


@dataclass(frozen=True)
class Branch:
    """A residual branch of a block.

    Attributes:
        name: relative to the block; '' where the block has one branch only.
        groups: its unit groups.
        folds: tensors scaled by the branch gate (the last norm's affine); empty = multiply.
        multiply: the module whose output is scaled in form (a).
        layers: what is gone when the branch is gone: modules with all that is in them, and
            functions that the block calls itself, as ':add' and ':add#1'.
        remove: returns what stands in the block's place once the branch is gone, or None where
            the branch cannot go (then it has no branch gate).
        reason: why not, where ``remove`` is None.
        uncut: why further units of it cannot be cut; '' where all can.
        projection: the module on the skip connection; '' where the skip passes the input itself.
    """

    name: str
    groups: tuple[UnitGroup, ...]
    folds: tuple[str, ...]
    multiply: str
    layers: tuple[str, ...]
    remove: Callable[[nn.Module], nn.Module] | None
    reason: str = ""
    uncut: str = ""
    projection: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a block is not gated."""

    reason: str


def is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it just calls its parts one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


Adapter = Callable[[nn.Module], "list[Branch] | Refusal"]


@dataclass
class Registry:
    """Block class -> adapter. Exact classes: a subclass may compute something else.

    One that takes over the forward pass of ``nn.Sequential`` is a row of modules by another name.
    """

    adapters: dict[type, Adapter] = field(default_factory=dict)

    def add(self, *classes: type) -> Callable[[Adapter], Adapter]:
        def register(adapter: Adapter) -> Adapter:
            for cls in classes:
                self.adapters[cls] = adapter
            return adapter

        return register

    def get(self, block: nn.Module) -> Adapter | None:
        cls: type[nn.Module] = type(block)
        if cls not in self.adapters and is_sequence(block):
            cls = nn.Sequential
        return self.adapters.get(cls)


REGISTRY = Registry()
