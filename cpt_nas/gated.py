"""A model with its gates: where they sit, what is left, and cutting away what has closed.

The gates live beside the model, not in it: ``model.parameters()`` are the weights only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cpt_nas import cut
from cpt_nas.adapters import Slice
from cpt_nas.config import SearchSettings
from cpt_nas.cost import group_key
from cpt_nas.gates import BernoulliGate, Sampler
from cpt_nas.gating import (
    Found,
    Handles,
    describe,
    layers_only,
    mount_branch,
    mount_units,
    units_only,
    unmount,
)
from cpt_nas.structure import dense_structure

NARROW = {"both": lambda found: found, "layers": layers_only, "units": units_only}

Kept = dict[str, dict[str, Tensor] | None]
"""branch -> {group: positions kept of those that are there now}, or None where it goes."""


class HasModule(Protocol):
    """An averaged copy of the model, held in ``module``."""

    module: nn.Module


class GatedModel:
    """A timm model, its gates, and what is left of it.

    Args:
        model: an uncut model; :meth:`mount` puts the gates into it.
        settings: which gates, and how they are applied.
        model_kwargs: what the model was made with, kept in the structure.

    Attributes:
        found: branch name -> the branch, of all that are not excluded.
        gates: slot -> gate; a branch's slot is its name, a group's 'branch/group' ('.' as '/').
        structure: what is left now.
        generator: of the masks.

    Raises:
        ValueError: nothing can be gated, or a pattern matches nothing.
    """

    def __init__(
        self, model: nn.Module, settings: SearchSettings, model_kwargs: Mapping[str, Any]
    ) -> None:
        self.model = model
        self.settings = settings
        self.description = describe(model, settings.include, settings.exclude)
        narrow = NARROW[settings.gate]
        self.found: dict[str, Found] = {f.name: narrow(f) for f in self.description.branches}
        if not any(f.branch.groups or f.branch.remove for f in self.found.values()):
            raise ValueError(
                f"model: nothing can be gated in {type(model).__name__}; "
                "cpt-nas inspect MODEL says why"
            )
        # The structure also names what is not gated here, so that it can be rebuilt from names.
        architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", "")
        self.structure = dense_structure(model, architecture, dict(model_kwargs))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.gates = nn.ModuleDict()
        self._handles: Handles = []

    def mount(self) -> None:
        """Put the gates in place, all open."""
        model, fold = self.model, self.settings.fold
        for found in self.found.values():
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
        s = self.settings
        gate = BernoulliGate(size, theta=s.theta_init, estimator=s.estimator)
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
        plan, gate_plan = cut.Plan(), cut.Plan()
        for name, fewer_or_none in decided.items():
            found, branch = self.found[name], self.structure.branches[name]
            if fewer_or_none is None:
                plan.removed.setdefault(found.block, []).append(found.branch)
                branch.kept = False
                for slot in map(slot_of, (name, *(group_key(name, g) for g in branch.units))):
                    if slot in self.gates:
                        del self.gates[slot]
                for units in branch.units.values():
                    units.kept = []
                continue
            cut.plan_units(plan, found.block, found.branch, fewer_or_none)
            for group, positions in fewer_or_none.items():
                units = branch.units[group]
                units.kept = [units.kept[i] for i in positions.tolist()]
                slot = slot_of(group_key(name, group))
                for tensor in ("theta", "mask", "index", "charge", "side", "memory"):
                    name_of = f"{slot}.{tensor}"
                    along = Slice(name_of, dim=1 if tensor == "memory" else 0)
                    gate_plan.keep[name_of] = [(along, positions)]
        cut.apply(gate_plan, self.gates, theta_optimizer)
        cut.apply(plan, self.model, optimizer)
        if ema is not None:
            cut.apply(plan, ema.module)
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
            averaged = cut.plain_state_dict(ema.module)
        self.discard()
        if ema is not None and averaged is not None:
            training = ema.module.training
            ema.module = copy.deepcopy(self.model).requires_grad_(False).train(training)
            cut.load_plain_state_dict(ema.module, averaged)

    def discard(self) -> None:
        """Take the gates out as if they were open."""
        unmount(self.model, self._handles)
        self._handles = []
        self.gates = nn.ModuleDict()

    @torch.no_grad()
    def _silence(self, model: nn.Module) -> None:
        """Zero the readers' weights of units that are closed but stay."""
        for name, found in self.found.items():
            if not self.structure.branches[name].kept:
                continue
            for group in found.branch.groups:
                theta = self.open_theta(name, group.name)
                closed = (theta <= 0.5).nonzero().flatten().cpu()
                for fold in group.folds if len(closed) else ():
                    tensor = cut.get_tensor(model, cut.join(found.block, fold.tensor))
                    index = cut.entries(closed, fold, tensor.shape[fold.dim]).to(tensor.device)
                    tensor.index_fill_(fold.dim, index, 0.0)


def slot_of(name: str) -> str:
    """Where a branch's or a group's gate is: a ModuleDict's keys hold no dots."""
    return name.replace(".", "/")
