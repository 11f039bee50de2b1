"""The search space: the branches and unit groups that the adapters find in a model."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from torch import nn

from cpt_nas.adapters import REGISTRY, Branch, Refusal, UnitGroup
from cpt_nas.adapters.base import Adapter, is_sequence
from cpt_nas.pruning.exactness import Sharing, refused_block, refused_branches, silent_about
from cpt_nas.pruning.feature_maps import FeatureMaps
from cpt_nas.pruning.surgery import join


@dataclass(frozen=True)
class PrunableBranch:
    """A branch of the model.

    Attributes:
        block: the block's path.
        branch: the branch's data.
        name: its name in the model.
        plain: the block is a mere container.
    """

    block: str
    branch: Branch
    name: str
    plain: bool = False


@dataclass(frozen=True)
class SearchSpace:
    """What the adapters found in a model: computed once, and handed on to all that need it.

    Attributes:
        branches: what can be gated, in the model's order.
        refusals: block path -> why it is not gated.
    """

    branches: tuple[PrunableBranch, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, PrunableBranch]:
        return {branch.name: branch for branch in self.branches}

    def select(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        gate: Literal["both", "layers", "units"] = "both",
    ) -> SearchSpace:
        """The part of the space that is searched.

        Args:
            include: shell patterns of branch names; if any, only matching branches are gated.
            exclude: patterns of branch names that are not.
            gate: gates on branches and units, or on one kind only.

        Raises:
            ValueError: a pattern matches no branch.
        """
        names = [branch.name for branch in self.branches]
        for option, patterns in (("include", include), ("exclude", exclude)):
            for pattern in patterns:
                if not any(fnmatch.fnmatchcase(n, pattern) for n in names):
                    some = ", ".join(names[:4])
                    raise ValueError(
                        f"{option}: {pattern!r} matches no branch; branches are {some}..."
                    )
        kept, refusals = [], dict(self.refusals)
        for branch in self.branches:
            if include and not _matches(branch.name, include):
                refusals[branch.name] = "not among the included patterns"
            elif _matches(branch.name, exclude):
                refusals[branch.name] = "excluded by pattern"
            else:
                kept.append(NARROW[gate](branch))
        return SearchSpace(tuple(kept), refusals)

    def without(self, refused: Mapping[str, str]) -> SearchSpace:
        """The space but for some branches, and why these are refused."""
        kept = tuple(branch for branch in self.branches if branch.name not in refused)
        return SearchSpace(kept, {**self.refusals, **refused})


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def find_branches(model: nn.Module) -> SearchSpace:
    """Walk an uncut model with the adapters. What is not exactly what they know is refused."""
    found: list[PrunableBranch] = []
    refusals: dict[str, str] = {}
    sharing = Sharing(model)
    for path, module in model.named_modules():
        reason = refused_block(module, is_root=not path)
        adapter = REGISTRY.get(module)
        answer = Refusal(reason) if reason or adapter is None else _ask(adapter, module)
        if isinstance(answer, Refusal):
            if answer.reason:
                refusals[path] = answer.reason
            continue
        refused = refused_branches(module, answer)
        for branch in answer:
            name = join(path, branch.name)
            reason = refused.get(branch.name) or sharing.of_branch(path, branch)
            if reason:
                refusals[name] = reason
            else:
                found.append(PrunableBranch(path, branch, name, is_sequence(module)))
    nested = nest(without_doubles(found))
    maps = FeatureMaps(model)
    branches = [_with_feature_maps(_with_reason(model, item, nested), maps) for item in nested]
    names = [branch.name for branch in branches]
    assert len(set(names)) == len(names), "adapters: two branches of one name"
    return SearchSpace(tuple(branches), refusals)


def _ask(adapter: Adapter, block: nn.Module) -> list[Branch] | Refusal:
    """The adapter's answer. A block whose parts were taken out may lack what it reads."""
    try:
        return adapter(block)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        return Refusal(f"its parts are not those that {type(block).__name__} makes ({error})")


def _with_reason(
    model: nn.Module, item: PrunableBranch, branches: Sequence[PrunableBranch]
) -> PrunableBranch:
    """The branch; where no unit of it can be cut, with the reason."""
    branch = item.branch
    if branch.groups or branch.uncut:
        return item
    tensors = (join(b.block, s.tensor) for b in branches for g in b.branch.groups for s in g.slices)
    if any(holds(item, tensor) for tensor in tensors):  # units run through it
        return item
    why = silent_about(model.get_submodule(item.block), branch)
    return replace(item, branch=replace(branch, uncut=why))


def _with_feature_maps(item: PrunableBranch, maps: FeatureMaps) -> PrunableBranch:
    """The branch; its groups count what the model says of its feature maps, too."""
    groups = []
    for group in item.branch.groups:
        produced = {absolute(item.block, name): w for name, w in group.produced_by.items()}
        groups.append(replace(group, counts=(*group.counts, *maps.counts(produced))))
    return replace(item, branch=replace(item.branch, groups=tuple(groups)))


def owns(prefix: str, name: str) -> bool:
    """Whether a branch's layer entry covers a layer or module of that name."""
    if name == prefix:
        return True
    if ":" in prefix:  # one function call: ':add' is not ':add#1'
        return False
    return name.startswith((prefix + ".", prefix + ":", prefix + "#"))


def absolute(block: str, name: str) -> str:
    """The name in the model of something in a block."""
    return block + name if name.startswith(":") else join(block, name)


def nest(branches: Sequence[PrunableBranch]) -> list[PrunableBranch]:
    """Give the units of a module inside a branch to that branch.

    An Mlp has an adapter of its own and so has the block that it stands in: the units are the
    Mlp's, the branch gate is the block's, and when the branch goes the units go with it.
    """
    kept: list[PrunableBranch] = []
    for found in branches:
        inner = found.branch
        outer = None
        if inner.remove is None and not inner.layers:
            holds = (
                i
                for i, other in enumerate(kept)
                if any(owns(absolute(other.block, x), found.block) for x in other.branch.layers)
            )
            outer = next(holds, None)
        if outer is None:
            kept.append(found)
            continue
        host = kept[outer]
        within = found.block.removeprefix(host.block).lstrip(".")
        groups = (*host.branch.groups, *(renamed(g, within) for g in inner.groups))
        uncut = "; ".join(r for r in (host.branch.uncut, inner.uncut) if r)
        kept[outer] = replace(host, branch=replace(host.branch, groups=groups, uncut=uncut))
    return kept


def without_doubles(branches: Sequence[PrunableBranch]) -> list[PrunableBranch]:
    """Drop the groups of plain containers whose tensors another adapter's groups slice already."""
    taken: set[tuple[str, int]] = set()
    kept = []
    # The more specific adapter comes first: containers only get what is left.
    for found in sorted(branches, key=lambda f: f.plain):
        groups = []
        for group in found.branch.groups:
            slices = {(join(found.block, s.tensor), s.dim) for s in group.slices}
            if found.plain and slices & taken:
                continue
            taken |= slices
            groups.append(group)
        if groups or not found.plain:
            branch = replace(found.branch, groups=tuple(groups))
            kept.append((branches.index(found), replace(found, branch=branch)))
    return [found for _, found in sorted(kept, key=lambda pair: pair[0])]


def renamed(group: UnitGroup, prefix: str) -> UnitGroup:
    """The group with all its names seen from further outside."""

    def layers(widths: dict[str, int]) -> dict[str, int]:
        return {absolute(prefix, name): width for name, width in widths.items()}

    return replace(
        group,
        name=join(prefix, group.name),
        slices=tuple(replace(s, tensor=join(prefix, s.tensor)) for s in group.slices),
        folds=tuple(replace(s, tensor=join(prefix, s.tensor)) for s in group.folds),
        counts=tuple(c if c.of_model else replace(c, module=c.owner(prefix)) for c in group.counts),
        produced_by=layers(group.produced_by),
        consumed_by=layers(group.consumed_by),
    )


def holds(branch: PrunableBranch, name: str) -> bool:
    """Whether what the model calls by that name goes with the branch."""
    return any(owns(absolute(branch.block, layer), name) for layer in branch.branch.layers)


def without_gone(found: PrunableBranch, gone: PrunableBranch) -> PrunableBranch:
    """The branch after another one has gone that its units reached into.

    The channels that run past a section in a chain are written and read in it, too. Without it
    they are what is left: its tensors and counts are none of theirs any more.
    """

    def stays(name: str) -> bool:
        return not holds(gone, absolute(found.block, name))

    groups = [
        replace(
            group,
            slices=tuple(s for s in group.slices if stays(s.tensor)),
            folds=tuple(s for s in group.folds if stays(s.tensor)),
            counts=tuple(c for c in group.counts if not holds(gone, c.owner(found.block))),
        )
        for group in found.branch.groups
    ]
    return replace(found, branch=replace(found.branch, groups=tuple(groups)))


def layers_only(found: PrunableBranch) -> PrunableBranch:
    """The branch without its unit groups (concurrent_layer_pruning)."""
    return replace(found, branch=replace(found.branch, groups=()))


def units_only(found: PrunableBranch) -> PrunableBranch:
    """The branch without a gate of its own (robust_parsimonious_dnn)."""
    branch = replace(found.branch, remove=None, reason="unit gates only")
    return replace(found, branch=branch)


def group_key(branch: str, group: str) -> str:
    return f"{branch}/{group}"


NARROW: dict[str, Callable[[PrunableBranch], PrunableBranch]] = {
    "both": lambda branch: branch,
    "layers": layers_only,
    "units": units_only,
}
