"""Masked must be cut: tried on the model itself where its code is nobody's here.

Adapters know timm's classes. In a model that timm does not make, a plain ``nn.Sequential`` may be
tapped by what holds it, or a block read from outside. So every branch is masked in one copy and
cut in another; where the two compute different things, it is not gated.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cpt_nas.pruning import surgery
from cpt_nas.pruning.probe import outputs, outputs_of, probe_input, same, shaken
from cpt_nas.pruning.search_space import PrunableBranch, SearchSpace

REASON = "something else reads what lies inside it: masked and cut are not the same"


def failures(model: nn.Module, space: SearchSpace, example_input: Tensor) -> dict[str, str]:
    """Branch name -> why it cannot be gated, of those whose masked and cut forms differ.

    Args:
        model: uncut, without gates. It is copied, and runs on noise.
        space: what is to be gated.
        example_input: a batch that the model takes.
    """
    trial = _Trial(model, example_input)
    branches = [b for b in space.branches if b.branch.groups or b.branch.remove]
    if trial.agrees(branches):
        return {}
    failed = [b for b in branches if not trial.agrees([b])]
    rest = [b for b in branches if b not in failed]
    if not trial.agrees(rest):  # they hold one by one only
        failed = branches
    return {b.name: REASON for b in failed}


class _Trial:
    """A disturbed copy of the model, in double precision where the model can do that."""

    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        own = next(model.parameters()).dtype
        for dtype in dict.fromkeys((torch.float64, own)):
            self.base = shaken(model, dtype)
            self.x = probe_input(example_input, dtype)
            try:
                found = outputs_of(self.base, self.x)
            except ValueError:
                if dtype is own:
                    raise
                continue
            for parameter in self.base.parameters():
                parameter.mul_(1.25)
            if same(outputs(self.base, self.x), found):
                raise ValueError("model: a copy of it does not run the copy's weights")
            return

    def agrees(self, branches: Sequence[PrunableBranch]) -> bool:
        """Whether half of all units, and every second branch, may be masked or cut alike."""
        removable = [b for b in branches if b.branch.remove is not None]
        units = [b for b in branches if b.branch.groups]
        rounds = [(units, []), ([], removable[::2]), ([], removable[1::2])]
        return all(self._alike(*parts) for parts in rounds if any(parts))

    def _alike(self, units: Sequence[PrunableBranch], gone: Sequence[PrunableBranch]) -> bool:
        masked, cut = copy.deepcopy(self.base), copy.deepcopy(self.base)
        plan = surgery.Plan()
        for item in units:
            kept = {g.name: torch.arange(0, g.size, 2) for g in item.branch.groups}
            surgery.plan_units(plan, item.block, item.branch, kept)
            for group in item.branch.groups:
                for fold in group.folds:
                    tensor = surgery.get_tensor(masked, surgery.join(item.block, fold.tensor))
                    closed = torch.arange(1, group.size, 2)
                    index = surgery.entries(closed, fold, tensor.shape[fold.dim])
                    tensor.index_fill_(fold.dim, index.to(tensor.device), 0.0)
        for item in gone:
            plan.removed.setdefault(item.block, []).append(item.branch)
            for name in item.branch.folds:
                surgery.get_tensor(masked, surgery.join(item.block, name)).zero_()
            if not item.branch.folds:
                last = masked.get_submodule(surgery.join(item.block, item.branch.multiply))
                last.register_forward_hook(_silence)
        surgery.apply(plan, cut)
        try:
            return same(outputs(cut.eval(), self.x), outputs(masked, self.x))
        except (RuntimeError, ValueError, IndexError, AttributeError, TypeError):
            return False  # what reads it from outside no longer fits


def _silence(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output * 0.0
