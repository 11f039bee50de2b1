"""A model with its gates: where they sit, what is left, and cutting away what has closed.

The gates live beside the model, not in it: ``model.parameters()`` are the weights only.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from cpt_nas.adapters import Slice
from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.gates.mount import Handles, Sampler, mount_branch, mount_units, unmount
from cpt_nas.pruning import surgery
from cpt_nas.pruning.search_space import SearchSpace, group_key
from cpt_nas.pruning.structure import Structure

Kept = dict[str, dict[str, Tensor] | None]
"""branch -> {group: positions kept of those that are there now}, or None where it goes."""


class HasModule(Protocol):
    """An averaged copy of the model, held in ``module``."""

    module: nn.Module


class GatedModel:
    """A timm model, its gates, and what is left of it.

    Args:
        model: an uncut model; :meth:`mount` puts the gates into it.
        space: the part of its search space that is gated.
        structure: its dense structure, of the whole space.
        theta_init: every gate's first theta.
        estimator: of theta's gradient.
        fold: fold the gates into weights; False: multiply activations.
        seed: of the masks.

    Attributes:
        branches: branch name -> the branch, of all that are gated.
        gates: slot -> gate; a branch's slot is its name, a group's 'branch/group' ('.' as '/').
        structure: what is left now. It also names what is not gated.
        generator: of the masks.

    Raises:
        ValueError: nothing can be gated.
    """

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace,
        structure: Structure,
        *,
        theta_init: float = 1.0,
        estimator: str = "endpoint",
        fold: bool = True,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.branches = space.by_name
        if not any(f.branch.groups or f.branch.remove for f in space.branches):
            raise ValueError(
                f"model: nothing can be gated in {type(model).__name__}; "
                "cpt-nas inspect MODEL says why"
            )
        self.structure = structure
        self.theta_init, self.estimator, self.fold = theta_init, estimator, fold
        self.generator = torch.Generator().manual_seed(seed)
        self.gates = nn.ModuleDict()
        self._handles: Handles = []

    def mount(self) -> None:
        """Put the gates in place, all open."""
        model, fold = self.model, self.fold
        for found in self.branches.values():
            units = []
            for group in found.branch.groups:
                gate = self._new_gate(group_key(found.name, group.name), group.size)
                self._handles += mount_units(model, found, group.name, gate, fold)
                units.append(gate)
            if found.branch.remove is not None:
                gate = self._new_gate(found.name, 1)
                self._handles += mount_branch(model, found, gate, fold)
                for group_gate in units:
                    group_gate.belongs_to(gate)
        self.gates.to(next(model.parameters()).device)
        sampler = Sampler(self.gates, self.generator)
        self._handles.append(model.register_forward_pre_hook(sampler))

    def _new_gate(self, name: str, size: int) -> BernoulliGate:
        gate = BernoulliGate(size, theta=self.theta_init, estimator=self.estimator)
        self.gates[slot_of(name)] = gate
        return gate

    def all_gates(self) -> list[BernoulliGate]:
        return [g for g in self.gates.values() if isinstance(g, BernoulliGate)]

    def gate(self, name: str) -> BernoulliGate | None:
        """The gate of a branch, or of a group by its key; None where nothing is gated (now)."""
        slot = slot_of(name)
        if slot not in self.gates:
            return None
        gate = self.gates[slot]
        assert isinstance(gate, BernoulliGate)
        return gate

    def theta(self, dense: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """({branch: theta [1]}, {group's key: theta [K]}) of what is left; 1 where ungated.

        Args:
            dense: all of them 1.
        """
        branches, units = {}, {}
        for name, left in self.structure.branches.items():
            if left.kept:
                branches[name] = self._theta_of(name, 1, dense)
                for group, kept in left.units.items():
                    key = group_key(name, group)
                    units[key] = self._theta_of(key, len(kept.kept), dense)
        return branches, units

    def _theta_of(self, name: str, size: int, dense: bool) -> Tensor:
        gate = self.gate(name)
        if dense or gate is None:
            return torch.ones(size, device=next(self.model.parameters()).device)
        return gate.theta

    def open_theta(self, branch: str, group: str) -> Tensor:
        """theta [K] of a group whose branch is left."""
        gate = self.gate(group_key(branch, group))
        assert gate is not None, "a branch that is left has all its groups' gates"
        return gate.theta.detach()

    # ---- cutting --------------------------------------------------------------------------------

    def cut(
        self,
        kept: Kept,
        theta_optimizer: torch.optim.Optimizer | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        ema: HasModule | None = None,
    ) -> bool:
        """Cut the model, the gates, both optimizers' state and the averaged copy alike.

        Args:
            kept: of the branches that change; a branch that is missing stays as it is.

        Returns:
            Whether anything changed.
        """
        decided: Kept = {}
        for name, groups in kept.items():
            left = self.structure.branches[name].units
            fewer = {g: p for g, p in (groups or {}).items() if len(p) < len(left[g].kept)}
            if groups is None or fewer:
                decided[name] = None if groups is None else fewer
        if not decided:
            return False
        plan, gate_plan = surgery.Plan(), surgery.Plan()
        for name, fewer_or_none in decided.items():
            found, branch = self.branches[name], self.structure.branches[name]
            if fewer_or_none is None:
                plan.removed.setdefault(found.block, []).append(found.branch)
                branch.kept = False
                for slot in map(slot_of, (name, *(group_key(name, g) for g in branch.units))):
                    if slot in self.gates:
                        del self.gates[slot]
                for units in branch.units.values():
                    units.kept = []
                continue
            surgery.plan_units(plan, found.block, found.branch, fewer_or_none)
            for group, positions in fewer_or_none.items():
                units = branch.units[group]
                units.kept = [units.kept[i] for i in positions.tolist()]
                slot = slot_of(group_key(name, group))
                # Every tensor of a gate has its units along the last dimension.
                for name_in_gate, tensor in held_tensors(self.gates[slot]):
                    name_of = f"{slot}.{name_in_gate}"
                    along = Slice(name_of, dim=tensor.dim() - 1)
                    gate_plan.keep[name_of] = [(along, positions)]
        surgery.apply(gate_plan, self.gates, theta_optimizer)
        surgery.apply(plan, self.model, optimizer)
        if ema is not None:
            surgery.apply(plan, ema.module)
        return True

    def unmount(self, ema: HasModule | None = None) -> None:
        """Take the gates out of the model and of its averaged copy.

        Units that are closed but stay enter with zero weights in their readers: the function does
        not jump, and training may put them to use.
        """
        self._silence(self.model)
        averaged = None
        if ema is not None:
            self._silence(ema.module)
            averaged = surgery.plain_state_dict(ema.module)
        self.discard()
        if ema is not None and averaged is not None:
            training = ema.module.training
            ema.module = copy.deepcopy(self.model).requires_grad_(False).train(training)
            surgery.load_plain_state_dict(ema.module, averaged)

    def discard(self) -> None:
        """Take the gates out as if they were open."""
        unmount(self.model, self._handles)
        self._handles = []
        self.gates = nn.ModuleDict()

    @torch.no_grad()
    def _silence(self, model: nn.Module) -> None:
        """Zero the readers' weights of units that are closed but stay."""
        for name, found in self.branches.items():
            if not self.structure.branches[name].kept:
                continue
            for group in found.branch.groups:
                theta = self.open_theta(name, group.name)
                closed = (theta <= 0.5).nonzero().flatten().cpu()
                for fold in group.folds if len(closed) else ():
                    tensor = surgery.get_tensor(model, surgery.join(found.block, fold.tensor))
                    index = surgery.entries(closed, fold, tensor.shape[fold.dim]).to(tensor.device)
                    tensor.index_fill_(fold.dim, index, 0.0)


def slot_of(name: str) -> str:
    """Where a branch's or a group's gate is: a ModuleDict's keys hold no dots."""
    return name.replace(".", "/")


def held_tensors(gate: nn.Module) -> list[tuple[str, Tensor]]:
    """A gate's own parameters and buffers, those that an update rule keeps there included."""
    return [*gate.named_parameters(recurse=False), *gate.named_buffers(recurse=False)]
