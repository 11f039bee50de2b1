"""What an adapter says about a block: its branches, its unit groups and the tensors to slice.

An adapter is a function ``block -> list[Branch] | Refusal``. All names in it are relative to the
block. Only adapters know what is inside a timm block; all other code reads this data.

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

    The attribute may lead into lists and mappings, as 'feature_info.2.num_chs' does.

    Attributes:
        module: the module's name relative to the block.
        attribute: the name of the module's attribute.
        per_unit: how much of the attribute one unit counts for.
        of_model: whether ``module`` is relative to the model instead of the block.
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
    """Units that only dense layers read, so that each of them can be cut.

    A group lies inside one branch, or outside all of them. Branches may also write and read a group
    that lies outside; when such a branch is removed, its part of the group is removed with it.

    Attributes:
        name: a name that no other group of the block has.
        kind: 'filters', 'groups', 'hidden' or 'heads'.
        size: the number of units, K.
        slices: every tensor that loses entries when a unit is cut.
        counts: every attribute that counts units.
        folds: the readers' weights, which the folded form of the gates multiplies by the gate.
            The multiplied form multiplies the readers' inputs, which gives the same outputs.
        produced_by: the layers whose output channels are the group's, with their channels a unit.
        consumed_by: the layers whose input channels are the group's, with their channels a unit.
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
        """The channels of one unit in the first layer that makes them."""
        return self.slices[0].width


@dataclass(frozen=True)
class Branch:
    """A residual branch of a block.

    Attributes:
        name: its name inside the block; '' where the block has only one branch.
        groups: its unit groups.
        folds: the tensors that the folded form scales by the branch gate, such as the weight and
            bias of the last norm. Where there are none, the module's output is multiplied.
        multiply: the module whose output the multiplied form scales.
        layers: what is removed with the branch: modules with all that is in them, and functions
            that the block itself calls, such as ':add' and ':add#1' (the second addition).
        remove: a function that takes the block and returns what stands in its place without the
            branch; None where the branch cannot be removed, and then it has no branch gate.
        reason: why the branch cannot be removed, where ``remove`` is None.
        uncut: why some of its units cannot be cut; '' where all of them can.
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
    """The reason why a block is not gated."""

    reason: str


def is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether a module does nothing but call its parts one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


Adapter = Callable[[nn.Module], "list[Branch] | Refusal"]


@dataclass
class Registry:
    """The adapter of each block class. A subclass has none, as it may compute something else.

    A class that inherits the forward pass of ``nn.Sequential`` is treated as ``nn.Sequential``.
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
