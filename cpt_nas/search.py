"""The search in three calls for a user's own loop: penalty(), step(), finish().

    search = cpt_nas.attach(model, example_input, log_gamma=0.02)
    for x, y in data:
        loss = criterion(model(x), y) + search.penalty()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        search.step(optimizer)
    model = search.finish(optimizer)

Algorithm 1 of arXiv 2411.09127: weights by the user's optimizer, theta by Adam at a constant rate
with projection to [0, 1], removal of what falls to the threshold. The gates live beside the
model, not in it: ``model.parameters()`` are the weights only, before and after ``attach``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

import hwprofiles
from cpt_nas import cut
from cpt_nas.adapters import Slice
from cpt_nas.config import SearchSettings
from cpt_nas.cost import build_cost, group_key
from cpt_nas.gates import BernoulliGate, Sampler
from cpt_nas.gating import (
    Found,
    describe,
    layers_only,
    mount_branch,
    mount_units,
    units_only,
    unmount,
)
from cpt_nas.structure import Structure, dense_structure, load_structure
from hwprofiles import Profile


class HasModule(Protocol):
    """An averaged copy of the model, held in ``module``."""

    module: nn.Module


def attach(
    model: nn.Module,
    example_input: Tensor,
    profile: Profile | str | Path | None = None,
    *,
    model_kwargs: dict[str, Any] | None = None,
    allow_foreign: bool = False,
    **settings: Any,
) -> Search:
    """Put gates into a timm model, in place, and return the search that drives them.

    Args:
        model: an uncut model with an adapter for its blocks (``cpt-nas inspect`` tells).
        example_input: one input batch, for tracing layer sizes; values do not matter.
        profile: a cost profile, or its file or shipped name. Needed for ``cost="latency"``.
        allow_foreign: the profile may be of another machine: the network is to run there.
        model_kwargs: what the model was created with, kept in the structure for rebuilding.
        **settings: see :class:`cpt_nas.config.SearchSettings`: log_gamma (pruning level), alpha
            (computation against parameters), kappa (layers against units), estimator, ...

    Raises:
        ValueError: a setting out of range, nothing to gate, or a profile that lacks layers or
            is of another machine.
    """
    checked = SearchSettings.from_mapping(settings)
    if isinstance(profile, str | Path):
        profile = hwprofiles.load(profile)
    if profile is not None:
        hwprofiles.require_target(profile, allow_foreign=allow_foreign)
    return Search(model, example_input, profile, checked, model_kwargs or {})


class Search:
    """Gates, cost and cutting of one model.

    Attributes:
        gates: slot -> gate; a branch's slot is its name, a group's 'branch/group' ('.' as '/').
        steps: optimizer steps taken.
        frozen: the structure is decided and the gates are gone.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        profile: Profile | None,
        settings: SearchSettings,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.model = model
        self.settings = settings
        self.profile = profile
        self.steps = 0
        self.frozen = False
        self.cost_name = settings.cost or ("latency" if profile is not None else "complexity")
        if self.cost_name == "latency" and profile is None:
            raise ValueError("cost: 'latency' needs a profile; without one it must be 'complexity'")
        weights = profile.weights if profile is not None else None
        default_alpha = weights.alpha if weights is not None else 0.5
        default_kappa = weights.kappa if weights is not None else 0.0
        self.alpha = default_alpha if settings.alpha is None else settings.alpha
        self.kappa = default_kappa if settings.kappa is None else settings.kappa
        if settings.channel_step is not None:
            self.channel_step = settings.channel_step
        else:
            self.channel_step = profile.channel_step if profile is not None else 1

        self.description = describe(model, settings.include, settings.exclude)
        narrow = {"both": lambda f: f, "layers": layers_only, "units": units_only}[settings.gate]
        self.found: dict[str, Found] = {f.name: narrow(f) for f in self.description.branches}
        gated = [f for f in self.found.values() if f.branch.groups or f.branch.remove]
        if not gated:
            raise ValueError(
                f"model: nothing can be gated in {type(model).__name__}; "
                "cpt-nas inspect MODEL says why"
            )
        device = next(model.parameters()).device
        # The structure also names what is not gated here, so that it can be rebuilt from names.
        architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", "")
        self._structure = dense_structure(model, architecture, model_kwargs)
        latency = profile if self.cost_name == "latency" else None
        self.cost = build_cost(model, example_input, latency).to(device)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.gates = nn.ModuleDict()
        handles = []
        for found in gated:
            for group in found.branch.groups:
                gate = self._new_gate(group_key(found.name, group.name), group.size)
                handles += mount_units(model, found, group.name, gate, settings.fold)
            if found.branch.remove is not None:
                gate = self._new_gate(found.name, 1)
                handles += mount_branch(model, found, gate, settings.fold)
        self.gates.to(device)
        handles.append(model.register_forward_pre_hook(Sampler(self.gates, self.generator)))
        self._handles = handles
        self.theta_optimizer = torch.optim.Adam(self.gates.parameters(), lr=settings.theta_lr)
        self._set_dense_totals()

    def _new_gate(self, name: str, size: int) -> BernoulliGate:
        s = self.settings
        gate = BernoulliGate(size, theta=s.theta_init, estimator=s.estimator)
        self.gates[_slot(name)] = gate
        return gate

    def _set_dense_totals(self) -> None:
        self.dense = self.cost.of_structure(self._structure)
        full = self.costs(dense=True)
        self._dense_objective = float(self._objective(full, len(self.found)))
        # What each gate is charged with everything open: the weight of its polarising term.
        with torch.enable_grad():
            theta = [g.theta for g in self._gates()]
            before = [t.detach().clone() for t in theta]
            with torch.no_grad():
                for t in theta:
                    t.fill_(1.0)
            objective = self._objective(self.costs(), self._branch_sum())
            for gate, charge in zip(self._gates(), torch.autograd.grad(objective, theta)):
                gate.charge.copy_(charge)
            with torch.no_grad():
                for t, value in zip(theta, before):
                    t.copy_(value)

    def _gates(self) -> list[BernoulliGate]:
        return [g for g in self.gates.values() if isinstance(g, BernoulliGate)]

    def _gate(self, name: str) -> BernoulliGate | None:
        """The gate of a branch, or of a group by its key; None where nothing is gated (now)."""
        slot = _slot(name)
        if slot not in self.gates:
            return None
        gate = self.gates[slot]
        assert isinstance(gate, BernoulliGate)
        return gate

    # ---- cost ---------------------------------------------------------------------------------

    def costs(self, dense: bool = False) -> dict[str, Tensor]:
        """Expected 'macs', 'params' (and 'latency', seconds), differentiable in theta."""
        branches: dict[str, Tensor] = {}
        units: dict[str, Tensor] = {}
        for name, kept in self._structure.branches.items():
            if not kept.kept:
                continue
            branches[name] = self._theta(name, 1, dense)
            for group, left in kept.units.items():
                key = group_key(name, group)
                units[key] = self._theta(key, len(left.kept), dense)
        return dict(zip(self.cost.names, self.cost(branches, units)))

    def _theta(self, name: str, size: int, dense: bool) -> Tensor:
        gate = self._gate(name)
        if dense or gate is None:
            return torch.ones(size, device=self.cost.widths.device)
        return gate.theta

    def _branch_sum(self) -> Tensor | float:
        live = [n for n in self.found if self._structure.branches[n].kept]
        return sum((self._theta(n, 1, False).double().sum() for n in live), torch.zeros(()))

    def _objective(self, costs: dict[str, Tensor], branches: Tensor | float) -> Tensor:
        """The regularizer over log gamma: eq. 11 with eq. 13 put in, or latency in its place."""
        layers = len(self.found)
        if self.cost_name == "latency":
            return layers * costs["latency"] / self.dense["latency"]
        work = self.alpha * costs["macs"] / self.dense["macs"]
        size = (1.0 - self.alpha) * costs["params"] / self.dense["params"]
        return layers * (work + size) + self.kappa * branches

    @property
    def log_gamma(self) -> float:
        """The pruning level now: zero during warm-up, then rising linearly to its full value."""
        s = self.settings
        since = self.steps - s.warmup_steps
        return s.log_gamma * min(
            1.0, max(0.0, since / s.ramp_steps if s.ramp_steps else since >= 0)
        )

    def penalty(self) -> Tensor:
        """The regularizer, a scalar to add to the mean loss; exact in theta, no sampling."""
        if self.frozen:
            return torch.zeros((), device=self.cost.widths.device)
        value = self._objective(self.costs(), self._branch_sum())
        if self.settings.polarize and len(self.gates):
            hang = torch.stack([(g.charge * g.theta * (1 - g.theta)).sum() for g in self._gates()])
            value = value + self.settings.polarize * hang.sum()
        return (self.log_gamma * value).float()

    @torch.no_grad()
    def expected_cost(self) -> float:
        """The charged cost over the dense network's, 0..1."""
        return float(self._objective(self.costs(), self._branch_sum())) / self._dense_objective

    def undecided(self) -> float:
        """Share of the gates still there with theta strictly inside (threshold, 1 - threshold)."""
        gates = self._gates()
        if not gates:
            return 0.0
        theta = torch.cat([g.theta.detach() for g in gates])
        t = self.settings.threshold
        return float(((theta > t) & (theta < 1 - t)).float().mean())

    def structure(self) -> Structure:
        """What is left now; enough to rebuild the network."""
        return self._structure.model_copy(deep=True)

    def live_costs(self) -> dict[str, float]:
        """Costs of the network as it is cut now, whatever its gates say."""
        return self.cost.of_structure(self._structure)

    # ---- the loop's calls -----------------------------------------------------------------------

    def step(self, optimizer: torch.optim.Optimizer, ema: HasModule | None = None) -> bool:
        """Update theta, project, and cut when due. Call after ``optimizer.step()``.

        Args:
            optimizer: the weights' optimizer; its parameter lists and state are cut alongside.
            ema: an averaged copy to be cut identically (timm's ModelEmaV3, torch's AveragedModel).

        Returns:
            Whether the network changed shape. Under DDP it must then be wrapped anew.
        """
        if self.frozen:
            return False
        self._reduce_gradients()
        self.theta_optimizer.step()
        self.theta_optimizer.zero_grad(set_to_none=True)
        for gate in self._gates():
            gate.project()
        self.steps += 1
        if self.settings.freeze_step is not None and self.steps >= self.settings.freeze_step:
            self.freeze(optimizer, ema)
            return True
        if self.steps % self.settings.cut_interval == 0:
            return self.cut(optimizer, ema)
        return False

    def _reduce_gradients(self) -> None:
        """The mean of theta's gradient over DDP's processes; the gates are not in the model."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        grads = [g.theta.grad for g in self._gates() if g.theta.grad is not None]
        if grads:
            flat = torch.cat(grads) / torch.distributed.get_world_size()
            torch.distributed.all_reduce(flat)
            for grad, part in zip(grads, flat.split([len(g) for g in grads])):
                grad.copy_(part)

    def cut(self, optimizer: torch.optim.Optimizer | None, ema: HasModule | None = None) -> bool:
        """Remove what has fallen to the threshold. Returns whether anything went."""
        kept = self._keep_above(self.settings.threshold)
        return self._apply(kept, optimizer, ema)

    def freeze(self, optimizer: torch.optim.Optimizer | None, ema: HasModule | None = None) -> None:
        """Decide every gate by theta > 0.5, cut, and take the gates out.

        Closed units that stay because the channel step rounds up enter with zero weights in
        their consumer: the function does not jump, and training may put them to use.
        """
        if self.frozen:
            return
        self._apply(self._keep_above(0.5), optimizer, ema)
        self._silence(self.model)
        averaged = None
        if ema is not None:
            self._silence(ema.module)
            averaged = cut.plain_state_dict(ema.module)
        unmount(self.model, self._handles)
        if ema is not None and averaged is not None:
            training = ema.module.training
            ema.module = copy.deepcopy(self.model).requires_grad_(False).train(training)
            cut.load_plain_state_dict(ema.module, averaged)
        self._handles = []
        self.gates = nn.ModuleDict()
        self.frozen = True

    def finish(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        ema: HasModule | None = None,
    ) -> nn.Module:
        """Freeze if that has not happened, and return the plain, smaller timm model."""
        self.freeze(optimizer, ema)
        return self.model

    # ---- cutting --------------------------------------------------------------------------------

    def _keep_above(self, threshold: float) -> dict[str, dict[str, Tensor] | None]:
        """branch -> {group: positions kept} where it shrinks, or None where it goes."""
        decided: dict[str, dict[str, Tensor] | None] = {}
        for name, found in self.found.items():
            if not self._structure.branches[name].kept:
                continue
            gate = self._gate(name)
            gone = gate is not None and float(gate.theta.detach()) <= threshold
            groups: dict[str, Tensor] = {}
            for group in found.branch.groups:
                theta = self._open_theta(name, group.name).cpu()
                alive = int((theta > threshold).sum())
                if alive == 0 and gate is not None:
                    gone = True
                width = group.width
                count = min(len(theta), _round_up(max(alive, 1) * width, self.channel_step, width))
                if count < len(theta):
                    order = theta.sort(descending=True, stable=True).indices
                    groups[group.name] = order[:count].sort().values
            if gone:
                decided[name] = None
            elif groups:
                decided[name] = groups
        return decided

    def _open_theta(self, branch: str, group: str) -> Tensor:
        gate = self._gate(group_key(branch, group))
        assert gate is not None, "a branch that is left has all its groups' gates"
        return gate.theta.detach()

    def _apply(
        self,
        decided: dict[str, dict[str, Tensor] | None],
        optimizer: torch.optim.Optimizer | None,
        ema: HasModule | None,
    ) -> bool:
        if not decided:
            return False
        plan, gate_plan = cut.Plan(), cut.Plan()
        gone = []
        for name, kept in decided.items():
            found, left = self.found[name], self._structure.branches[name]
            if kept is None:
                plan.removed.setdefault(found.block, []).append(found.branch)
                left.kept = False
                for units in left.units.values():
                    units.kept = []
                gone += [name, *(group_key(name, g) for g in left.units)]
                continue
            cut.plan_units(plan, found.block, found.branch, kept)
            for group, positions in kept.items():
                units = left.units[group]
                units.kept = [units.kept[i] for i in positions.tolist()]
                slot = _slot(group_key(name, group))
                for tensor in ("theta", "mask", "index", "charge"):
                    name_of = f"{slot}.{tensor}"
                    gate_plan.keep[name_of] = [(Slice(name_of), positions)]
        for slot in map(_slot, gone):
            if slot in self.gates:
                del self.gates[slot]
        cut.apply(gate_plan, self.gates, self.theta_optimizer)
        cut.apply(plan, self.model, optimizer)
        if ema is not None:
            cut.apply(plan, ema.module)
        return True

    @torch.no_grad()
    def _silence(self, model: nn.Module) -> None:
        """Zero the consumers' weights of units that are closed but stay."""
        for name, found in self.found.items():
            if not self._structure.branches[name].kept:
                continue
            for group in found.branch.groups:
                theta = self._open_theta(name, group.name)
                closed = (theta <= 0.5).nonzero().flatten().cpu()
                for fold in group.folds if len(closed) else ():
                    tensor = cut.get_tensor(model, cut.join(found.block, fold.tensor))
                    index = cut.entries(closed, fold, tensor.shape[fold.dim]).to(tensor.device)
                    tensor.index_fill_(fold.dim, index, 0.0)

    # ---- resuming -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed search needs beside the model's weights; tensors and plain data."""
        return {
            "structure": self._structure.model_dump(),
            "gates": self.gates.state_dict(),
            "masks": {slot: g.mask for slot, g in zip(self.gates, self._gates())},
            "theta_optimizer": self.theta_optimizer.state_dict(),
            "steps": self.steps,
            "frozen": self.frozen,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a freshly attached search, and its model's shapes, to a saved state.

        The weights' values and the weights' optimizer are the caller's to restore, afterwards.
        """
        wanted = load_structure(state["structure"])
        if wanted.branches.keys() != self._structure.branches.keys():
            raise ValueError("checkpoint: its structure is of another model")
        decided: dict[str, dict[str, Tensor] | None] = {}
        for name, branch in wanted.branches.items():
            if not branch.kept:
                decided[name] = None
                continue
            fewer = {g: u for g, u in branch.units.items() if len(u.kept) < u.total}
            if fewer:
                decided[name] = {g: torch.tensor(u.kept) for g, u in fewer.items()}
        self._apply(decided, None, None)
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"])
        if state["frozen"]:
            unmount(self.model, self._handles)
            self._handles, self.gates, self.frozen = [], nn.ModuleDict(), True
            return
        self.gates.load_state_dict(state["gates"])
        for gate, mask in zip(self._gates(), state["masks"].values(), strict=True):
            gate.mask = mask.to(gate.theta)
        self.theta_optimizer.load_state_dict(state["theta_optimizer"])


def _slot(name: str) -> str:
    return name.replace(".", "/")


def _round_up(channels: int, step: int, width: int) -> int:
    """Units that fill ``channels`` up to the next multiple of ``step`` channels."""
    return -(-(-(-channels // step) * step) // width)
