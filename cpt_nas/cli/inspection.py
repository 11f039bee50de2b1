"""What would be gated in a model, what not and why, and how many parameters the gates reach."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from torch import nn

from cpt_nas.pruning.search_space import PrunableBranch, SearchSpace, holds, owns
from cpt_nas.pruning.surgery import get_tensor, join


@dataclass(frozen=True)
class Reach:
    """Parameters that gates can remove.

    Attributes:
        total: of the model.
        by_units: gone when one unit is left of every group.
        by_all: gone when every branch gate is closed, and one unit is left of the other groups.
        by_branch: branch name -> its part of ``by_all``.
    """

    total: int
    by_units: int
    by_all: int
    by_branch: dict[str, int]


def reach(model: nn.Module, space: SearchSpace) -> Reach:
    """Count the parameters that the gates of an uncut model can remove; meta tensors will do."""
    total = sum(p.numel() for p in model.parameters())
    removable = [item for item in space.branches if item.branch.remove is not None]
    units = sum(_by_units(model, item) for item in space.branches)
    # Units may run through branches that go: what these hold of them is counted once.
    branch = {
        item.name: _inside(model, item) if item in removable else _by_units(model, item, removable)
        for item in space.branches
    }
    return Reach(total, units, sum(branch.values()), branch)


def share_left(item: PrunableBranch) -> dict[str, float]:
    """Tensor -> the share of it that is there when one unit is left of every group.

    A tensor cut along two dimensions keeps the product of the two shares.
    """
    left: dict[str, float] = defaultdict(lambda: 1.0)
    for group in item.branch.groups:
        for cut in group.slices:
            left[join(item.block, cut.tensor)] /= group.size
    return left


def _by_units(model: nn.Module, item: PrunableBranch, but_in: Sequence[PrunableBranch] = ()) -> int:
    left = share_left(item)
    names = [name for name in left if not any(holds(other, name) for other in but_in)]
    tensors = {name: get_tensor(model, name) for name in names}
    gone = sum(t.numel() * (1 - left[n]) for n, t in tensors.items() if isinstance(t, nn.Parameter))
    return round(gone)


def _inside(model: nn.Module, item: PrunableBranch) -> int:
    block = model.get_submodule(item.block)
    prefixes = [p for p in item.branch.layers if ":" not in p]
    names = block.named_parameters()
    return sum(p.numel() for n, p in names if any(owns(prefix, n) for prefix in prefixes))


def show(out: Console, model: nn.Module, space: SearchSpace, name: str) -> None:
    """Print the gated branches, what stays and why, and how much of the parameters gates reach."""
    reached = reach(model, space)
    table = Table("branch", "block", "branch gate", "unit groups", "can remove", title=name)
    for item in space.branches:
        block = type(model.get_submodule(item.block)).__name__
        groups = ", ".join(f"{g.name}: {g.size} {g.kind}" for g in item.branch.groups) or "none"
        gate = "yes" if item.branch.remove is not None else f"no: {item.branch.reason}"
        table.add_row(item.name, block, gate, groups, f"{reached.by_branch[item.name]:,}")
    if space.branches:
        out.print(table)
    said = [(path, reason) for path, reason in space.refusals.items()]
    said += [(item.name, item.branch.uncut) for item in space.branches if item.branch.uncut]
    for reason in dict.fromkeys(reason for _, reason in said):
        paths = [path or "the model" for path, why in said if why == reason]
        out.print(f"not gated: {_some(paths)}: {reason}", highlight=False)
    for reason, paths in _beside(model, space).items():
        out.print(f"not gated: {_some(paths)}: {reason}", highlight=False)
    out.print(
        f"gates can remove {reached.by_all:,} of {reached.total:,} parameters"
        f" ({reached.by_all / max(reached.total, 1):.0%})",
        highlight=False,
    )


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


OUTSIDE = "outside any block with an adapter (stem, head: the residual stream keeps its width)"


def _beside(model: nn.Module, space: SearchSpace) -> dict[str, list[str]]:
    """Reason -> modules with parameters that no adapter says anything of."""
    spoken = {item.block for item in space.branches} | set(space.refusals)
    spoken |= {item.name for item in space.branches}
    found: dict[str, list[str]] = defaultdict(list)

    def visit(path: str, module: nn.Module) -> None:
        if path in spoken or not list(module.parameters()):
            return
        if not path or any(p.startswith(path + ".") for p in spoken):
            for name, child in module.named_children():
                visit(join(path, name), child)
        elif "." not in path:
            found[OUTSIDE].append(path)
        elif any(p.dim() > 1 for p in module.parameters()):  # norms go with what they norm
            found[f"{type(module).__name__} has no adapter"].append(path)

    visit("", model)
    return found
