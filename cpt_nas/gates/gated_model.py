"""A model with its gates: where they sit, what is left, and cutting away what has closed.

The gates live beside the model, not in it: ``model.parameters()`` are the weights only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from cpt_nas.adapters import Slice
from cpt_nas.gates.bernoulli import BernoulliGate
from cpt_nas.gates.mount import Followed, Handles, Live, Mounting, Sampler, Source, strip
from cpt_nas.pruning import optimizer_state, surgery
from cpt_nas.pruning.search_space import SearchSpace, group_key, without_gone
from cpt_nas.pruning.structure import Structure

Kept = dict[str, dict[str, Tensor] | None]
"""branch -> {group: positions kept of those that are there now}, or None where it goes."""


class HasModule(Protocol):
    """An averaged copy of the model, held in ``module``."""

    module: nn.Module


Copies = HasModule | Sequence[HasModule] | None
"""One averaged copy, several, or none."""


class GatedModel:
    """A timm model, its gates, and what is left of it.

    Args:
        model: an uncut model; it is as it was until :meth:`mount`.
        space: the part of its search space that is gated.
        structure: its dense structure, of the whole space.
        theta_init: every gate's first theta.
        estimator: of theta's gradient.
        fold: fold the gates into weights; False: multiply activations.
        seed: of the masks.

    Attributes:
        branches: branch name -> the branch, of all that are gated; without what has gone of
            what its units reached into.
        gates: slot -> gate; a branch's slot is its name, a group's 'branch/group' ('.' as '/').
        structure: what is left now. It also names what is not gated.
        generator: of the masks.
        sampler: draws them.

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
        self.branches = dict(space.by_name)
        if not any(f.branch.groups or f.branch.remove for f in space.branches):
            raise ValueError(
                f"model: nothing can be gated in {type(model).__name__}; "
                "cpt-nas inspect MODEL says why"
            )
        self.structure = structure
        self.theta_init, self.estimator, self.fold = theta_init, estimator, fold
        self.generator = torch.Generator().manual_seed(seed)
        self.gates = nn.ModuleDict()
        for found in self.branches.values():
            units = [
                self._new_gate(group_key(found.name, group.name), group.size)
                for group in found.branch.groups
            ]
            if found.branch.remove is not None:
                branch = self._new_gate(found.name, 1)
                for gate in units:
                    gate.belongs_to(branch)
        self.gates.to(next(model.parameters()).device)
        self.sampler = Sampler(self.gates, self.generator)
        self._handles: Handles = []  # the sampler's is the last
        self._copies: list[tuple[nn.Module, Handles]] = []

    def mount(self) -> None:
        """Put the gates' hooks into the model.

        Raises:
            ValueError: something that a gate scales is not a parameter; the model is as it was.
        """
        model = self.model
        self._handles = self._mount_into(model, lambda gate: Live(gate, model))
        self._handles.append(model.register_forward_pre_hook(self.sampler))

    def _mount_into(self, network: nn.Module, source: Callable[[BernoulliGate], Source]) -> Handles:
        """Put the hooks of all gates that are left into the model or a copy of it, or none."""
        mounting = Mounting(network, source)
        try:
            for found in self.branches.values():
                for group in found.branch.groups:
                    units = self.gate(group_key(found.name, group.name))
                    if units is not None:
                        mounting.units(found, group.name, units, self.fold)
                branch = self.gate(found.name)
                if branch is not None:
                    mounting.branch(found, branch, self.fold)
        except ValueError:
            _remove(mounting.handles)
            raise
        return mounting.handles

    def follow(self, copies: Iterable[nn.Module]) -> None:
        """Let averaged copies show the structure that is decided now, and be cut with the model.

        Args:
            copies: all that there are from now on.

        Raises:
            ValueError: one is no copy of the model as it is now.
        """
        copies = list(copies)
        if [id(c) for c in copies] == [id(c) for c, _ in self._copies]:
            return
        for network in copies:
            self._check_copy(network)
        for _, handles in self._copies:
            _remove(handles)
        self._copies = []
        for network in copies:
            strip(network)
            self._copies.append((network, self._mount_into(network, Followed)))

    @property
    def copies(self) -> list[nn.Module]:
        """The averaged copies that follow."""
        return [network for network, _ in self._copies]

    def cuttable(self) -> set[str]:
        """Names of the tensors that a cut may make smaller."""
        return {
            surgery.join(found.block, cut.tensor)
            for name, found in self.branches.items()
            for group in found.branch.groups
            for cut in group.slices
            if self.structure.branches[name].kept
        }

    def _check_copy(self, network: nn.Module) -> None:
        own, others = self.model.state_dict(), network.state_dict()
        wrong = [n for n in own if n not in others or others[n].shape != own[n].shape]
        wrong += [n for n in others if n not in own]
        if wrong:
            raise ValueError(
                f"ema: its module is no copy of the searched model as it is now; they differ at "
                f"{wrong[0]} ({len(wrong)} tensors). It must be given at every step; the copy of a "
                "larger network needs an object whose .module is this part of it"
            )

    def _new_gate(self, name: str, size: int) -> BernoulliGate:
        gate = BernoulliGate(size, theta=self.theta_init, estimator=self.estimator)
        self.gates[slot_of(name)] = gate
        return gate

    def all_gates(self) -> list[BernoulliGate]:
        return [g for g in self.gates.values() if isinstance(g, BernoulliGate)]

    def forget(self) -> None:
        """Drop what the present samples have told."""
        for gate in self.all_gates():
            gate.forget()
            gate.theta.grad = None

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

    def undecided(self, threshold: float) -> float:
        """Share of the gates with theta strictly inside (threshold, 1 - threshold)."""
        thetas = [g.theta.detach() for g in self.all_gates()]
        if not thetas:
            return 0.0
        theta = torch.cat(thetas)
        return float(((theta > threshold) & (theta < 1 - threshold)).float().mean())

    # ---- cutting --------------------------------------------------------------------------------

    def cut(
        self,
        kept: Kept,
        theta_optimizer: torch.optim.Optimizer | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
    ) -> bool:
        """Cut the model, the gates, the optimizers' state and the averaged copies alike.

        Args:
            kept: of the branches that change; a branch that is missing stays as it is.

        Returns:
            Whether anything changed.

        Raises:
            ValueError: an optimizer or a copy cannot follow; nothing has changed then.
        """
        decided: Kept = {}
        for name, groups in kept.items():
            left = self.structure.branches[name].units
            fewer = {g: p for g, p in (groups or {}).items() if len(p) < len(left[g].kept)}
            if groups is None or fewer:
                decided[name] = None if groups is None else fewer
        if not decided:
            return False
        plan, gate_plan = self._plans(decided)
        optimizer_state.check(optimizers, self.model, plan)
        for network, _ in self._copies:
            self._check_copy(network)

        for name, fewer_or_none in decided.items():
            branch = self.structure.branches[name]
            if fewer_or_none is None:
                branch.kept = False
                for slot in map(slot_of, (name, *(group_key(name, g) for g in branch.units))):
                    if slot in self.gates:
                        del self.gates[slot]
                for units in branch.units.values():
                    units.kept = []
                gone = self.branches[name]
                self.branches = {
                    other: found if other == name else without_gone(found, gone)
                    for other, found in self.branches.items()
                }
                continue
            for group, positions in fewer_or_none.items():
                units = branch.units[group]
                units.kept = [units.kept[i] for i in positions.tolist()]
        self._unmount()
        change = surgery.apply(gate_plan, self.gates)
        if theta_optimizer is not None:
            optimizer_state.follow([theta_optimizer], change)
        optimizer_state.follow(optimizers, surgery.apply(plan, self.model))
        self.mount()
        for index, (network, handles) in enumerate(self._copies):
            _remove(handles)
            surgery.apply(plan, network)
            self._copies[index] = (network, self._mount_into(network, Followed))
        return True

    def _plans(self, decided: Kept) -> tuple[surgery.Plan, surgery.Plan]:
        """What goes of the model, and of its gates."""
        plan, gate_plan = surgery.Plan(), surgery.Plan()
        for name, fewer in decided.items():
            found = self.branches[name]
            if fewer is None:
                plan.removed.setdefault(found.block, []).append(found.branch)
                continue
            surgery.plan_units(plan, found.block, found.branch, fewer)
            for group, positions in fewer.items():
                slot = slot_of(group_key(name, group))
                # Every tensor of a gate has its units along the last dimension.
                for name_in_gate, tensor in held_tensors(self.gates[slot]):
                    name_of = f"{slot}.{name_in_gate}"
                    along = Slice(name_of, dim=tensor.dim() - 1)
                    gate_plan.keep[name_of] = [(along, positions)]
        return plan, gate_plan

    def unmount(self) -> None:
        """Take the gates out of the model and of its averaged copies.

        Units that are closed but stay enter with zero weights in their readers: the function does
        not jump, and training may put them to use.
        """
        for network in (self.model, *(network for network, _ in self._copies)):
            self._silence(network)
        self.discard()

    def discard(self) -> None:
        """Take the gates out as if they were open."""
        self._unmount()
        for _, handles in self._copies:
            _remove(handles)
        self._copies = []
        self.gates = nn.ModuleDict()

    def _unmount(self) -> None:
        _remove(self._handles)
        self._handles = []

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


def _remove(handles: Handles) -> None:
    for handle in handles:
        handle.remove()


def slot_of(name: str) -> str:
    """Where a branch's or a group's gate is: a ModuleDict's keys hold no dots."""
    return name.replace(".", "/")


def held_tensors(gate: nn.Module) -> list[tuple[str, Tensor]]:
    """A gate's own parameters and buffers, those that an update rule keeps there included."""
    return [*gate.named_parameters(recurse=False), *gate.named_buffers(recurse=False)]


def averaged_copies(ema: Copies) -> list[nn.Module]:
    """The networks that averaged copies hold.

    Raises:
        ValueError: one holds none.
    """
    networks = []
    for one in ema if isinstance(ema, list | tuple) else [ema]:
        network = getattr(one, "module", None)
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"ema: a {type(one).__name__} has no .module; give ModelEmaV3, AveragedModel, or "
                "an object that holds the copy so"
            )
        networks.append(network)
    return networks
