"""model -> what would be gated, what not, and why; and the gates put in place."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from cpt_nas.adapters import REGISTRY, Branch, Refusal, UnitGroup
from cpt_nas.cut import join
from cpt_nas.gates import BernoulliGate, Fold, Multiply, MultiplyInput


@dataclass(frozen=True)
class Found:
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


@dataclass
class Description:
    """What the adapters found in a model.

    Attributes:
        branches: what is gated, in the model's order.
        refusals: block path -> why it is not gated.
    """

    branches: list[Found] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def describe(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Description:
    """Walk the model with the adapters.

    Args:
        include: shell patterns of branch names; if any, only matching branches are gated.
        exclude: patterns of branch names that are not.

    Raises:
        ValueError: a pattern matches no branch.
    """
    result = Description()
    for path, module in model.named_modules():
        adapter = REGISTRY.get(module)
        if adapter is None:
            continue
        answer = adapter(module)
        if isinstance(answer, Refusal):
            result.refusals[path] = answer.reason
            continue
        for branch in answer:
            plain = type(module) is nn.Sequential
            result.branches.append(Found(path, branch, join(path, branch.name), plain))
    result.branches = nest(without_doubles(result.branches))
    names = [f.name for f in result.branches]
    assert len(set(names)) == len(names), "adapters: two branches of one name"
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(n, pattern) for n in names):
                some = ", ".join(names[:4])
                raise ValueError(f"{option}: {pattern!r} matches no branch; branches are {some}...")
    kept = []
    for found in result.branches:
        if include and not _matches(found.name, include):
            result.refusals[found.name] = "not among the included patterns"
        elif _matches(found.name, exclude):
            result.refusals[found.name] = "excluded by pattern"
        else:
            kept.append(found)
    result.branches = kept
    return result


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


def nest(branches: Sequence[Found]) -> list[Found]:
    """Give the units of a module inside a branch to that branch.

    An Mlp has an adapter of its own and so has the block that it stands in: the units are the
    Mlp's, the branch gate is the block's, and when the branch goes the units go with it.
    """
    kept: list[Found] = []
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


def without_doubles(branches: Sequence[Found]) -> list[Found]:
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
        counts=tuple(replace(c, module=join(prefix, c.module)) for c in group.counts),
        produced_by=layers(group.produced_by),
        consumed_by=layers(group.consumed_by),
    )


def layers_only(found: Found) -> Found:
    """The branch without its unit groups (concurrent_layer_pruning)."""
    return replace(found, branch=replace(found.branch, groups=()))


def units_only(found: Found) -> Found:
    """The branch without a gate of its own (robust_parsimonious_dnn)."""
    branch = replace(found.branch, remove=None, reason="unit gates only")
    return replace(found, branch=branch)


Handles = list[RemovableHandle]


def mount_units(
    model: nn.Module, found: Found, group: str, gate: BernoulliGate, fold: bool
) -> Handles:
    """Put a unit gate in place, folded into its readers or multiplying their inputs."""
    (units,) = [g for g in found.branch.groups if g.name == group]
    if fold:
        for cut in units.folds:
            _parametrize(model, join(found.block, cut.tensor), Fold(gate, cut.dim, cut.width))
        return []
    handles = []
    for cut in units.folds:
        reader = model.get_submodule(join(found.block, cut.tensor.rpartition(".")[0]))
        dim = -1 if isinstance(reader, nn.Linear) else 1
        hook = MultiplyInput(gate, dim, cut.width)
        handles.append(reader.register_forward_pre_hook(hook))
    return handles


def mount_branch(model: nn.Module, found: Found, gate: BernoulliGate, fold: bool) -> Handles:
    """Put a branch gate in place."""
    if fold and found.branch.folds:
        for tensor in found.branch.folds:
            _parametrize(model, join(found.block, tensor), Fold(gate))
        return []
    module = model.get_submodule(join(found.block, found.branch.multiply))
    return [module.register_forward_hook(Multiply(gate))]


def _parametrize(model: nn.Module, name: str, fold: Fold) -> None:
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    # unsafe: skips a trial call; the Fold never changes shape or dtype.
    parametrize.register_parametrization(module, attribute, fold, unsafe=True)
    fold.train(module.training)


def unmount(model: nn.Module, handles: Handles) -> None:
    """Take every gate out; the parameters stay the same objects."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            holders: nn.ModuleDict = module.parametrizations  # type: ignore[assignment]
            for name, chain in list(holders.items()):
                assert isinstance(chain, parametrize.ParametrizationList)
                if all(isinstance(p, Fold) for p in chain.children()):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    for handle in handles:
        handle.remove()
