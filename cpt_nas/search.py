"""The search in three calls for a user's own loop: penalty(), step(), finish().

   search = cpt_nas.attach(model, example_input, profile="cpu.yaml", latency_budget=0.5,
                           total_steps=epochs * len(data))
   for x, y in data:
        loss = criterion(model(x), y) + search.penalty()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        search.step(optimizer)
    model = search.finish(optimizer)

Algorithm 1 of arXiv 2411.09127: weights by the user's optimizer, theta by Adam at a constant rate
with projection to [0, 1], removal of what falls to the threshold. Under a budget theta moves by
the sign of the same gradient, taken over many steps, at the price that meets the budget. The gates
live beside the model, not in it: ``model.parameters()`` are the weights only, before and after
``attach``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

import hwprofiles
from cpt_nas import cut, decide
from cpt_nas.config import SearchConfig, SearchSettings
from cpt_nas.cost import build_cost, group_key
from cpt_nas.gated import GatedModel, HasModule, Kept
from cpt_nas.gates import BernoulliGate
from cpt_nas.price import OBJECTIVE, Price, cost_name
from cpt_nas.structure import Structure, cut_to, load_structure
from cpt_nas.trace import look_rows, removed_rows, trace_row
from hwprofiles import Profile

OFF = 0.1  # 1 - theta of an open branch while the target falls: often enough to know its worth
OFF_UNITS = 2.0  # units of a group that are off at a time, while the target falls; at most OFF
LEAST_OFF = 0.02  # of them
CHANGE = 0.15  # of a benefit: how far it may yet be another, whatever its noise
DRIFT = 3.0  # of theta's range, while the gates settle
MEMORY = 1.25  # of the listening: the steps that the gates' benefits are averaged over
LEAST_MEMORY = 20  # steps
BEFORE: dict[str, Any] = {
    **{"levels": {OBJECTIVE: {}}, "forced": 0, "undecided_at_freeze": float("nan")},
    **{"trace": [], "removed": [], "looks": [], "decided": {}, "start": None},
}
"""What the state of a search may lack, saved by an earlier version."""


def attach(
    model: nn.Module,
    example_input: Tensor,
    profile: Profile | str | Path | None = None,
    *,
    total_steps: int | None = None,
    model_kwargs: dict[str, Any] | None = None,
    allow_foreign: bool = False,
    **settings: Any,
) -> Search:
    """Put gates into a timm model, in place, and return the search that drives them.

    Args:
        model: an uncut model with an adapter for its blocks (``cpt-nas inspect`` tells).
        example_input: one input batch, for tracing layer sizes; values do not matter.
        profile: a cost profile, or its file or shipped name. Needed for ``cost="latency"`` and
            for ``latency_budget``.
        total_steps: optimizer steps of the whole training. With it the settings are those of a
            recipe's search section, with warmup, ramp and freeze as shares of the training and
            their defaults; without it, warmup_steps, ramp_steps and freeze_step.
        allow_foreign: the profile may be of another machine: the network is to run there.
        model_kwargs: what the model was created with, kept in the structure for rebuilding.
        **settings: see :class:`cpt_nas.config.SearchSettings`: latency_budget and the like, or
            log_gamma (pruning level); alpha (computation against parameters), kappa (layers
            against units), estimator, ...

    Raises:
        ValueError: a setting out of range, nothing to gate, a profile that lacks layers or is of
            another machine, or a budget that cannot be met.
    """
    if total_steps is None:
        checked = SearchSettings.from_mapping(settings)
    elif total_steps < 1:
        raise ValueError(f"total_steps: {total_steps}, must be at least 1")
    else:
        seed = settings.pop("seed", 0)
        checked = SearchConfig.from_mapping(settings).settings(total_steps, seed)
    if isinstance(profile, str | Path):
        profile = hwprofiles.load(profile)
    if profile is not None:
        hwprofiles.require_target(profile, allow_foreign=allow_foreign)
    return Search(model, example_input, profile, checked, model_kwargs or {})


class Search:
    """A gated model, what it is charged, and how far the search is.

    Attributes:
        gated: the model with its gates, and what is left of it.
        price: what the gates are charged: costs, budgets, levels.
        steps: optimizer steps taken.
        frozen: the structure is decided and the gates are gone.
        channel_step: widths are rounded up to a multiple of it.
        forced: gates that were decided at the freeze against theta > 0.5, to meet the budgets.
        undecided_at_freeze: share of the gates undecided then; NaN before.
        trace: a row every ``cut_interval`` steps; see :func:`cpt_nas.trace.trace_row`.
        removed: a row for all that has gone; see :func:`cpt_nas.trace.removed_rows`.
        looks: rows of what everything was worth under a budget; :func:`cpt_nas.trace.look_rows`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        profile: Profile | None,
        settings: SearchSettings,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.settings = settings
        self.profile = profile
        self.steps = 0
        self.frozen = False
        self.forced = 0
        self.undecided_at_freeze = float("nan")
        self.trace: list[dict[str, float]] = []
        self.removed: list[dict[str, Any]] = []
        self.looks: list[dict[str, Any]] = []
        self._decided: dict[str, decide.State] = {}  # at the last look
        if settings.channel_step is not None:
            self.channel_step = settings.channel_step
        else:
            self.channel_step = profile.channel_step if profile is not None else 1
        self._start = copy.deepcopy(model).cpu() if settings.rewind else None
        timed = cost_name(settings, profile) == "latency" or "latency" in settings.amounts()
        self.gated = GatedModel(model, settings, model_kwargs)
        # Traced on the plain model, before the gates are in place.
        cost = build_cost(model, example_input, profile if timed else None)
        cost.to(next(model.parameters()).device)
        self.price = Price(self.gated, cost, settings, profile, self.channel_step)
        thetas = [gate.theta for gate in self.gated.all_gates()]
        self.theta_optimizer = torch.optim.Adam(thetas, lr=settings.rate())

    @property
    def model(self) -> nn.Module:
        return self.gated.model

    @property
    def gates(self) -> nn.ModuleDict:
        """Slot -> gate; a branch's slot is its name, a group's 'branch/group' ('.' as '/')."""
        return self.gated.gates

    @property
    def log_gamma(self) -> float:
        """The pruning level now, of the binding budget where there are several."""
        return self.price.log_gamma(self.steps)

    def costs(self) -> dict[str, Tensor]:
        """Expected 'macs', 'params' (and 'latency', seconds), differentiable in theta."""
        return self.price.costs()

    def live_costs(self) -> dict[str, float]:
        """Costs of the network as it is cut now, whatever its gates say."""
        return self.price.live_costs()

    def expected_cost(self) -> float:
        """The charged cost over the dense network's, 0..1; the binding budget's, if any."""
        return self.price.expected()

    def undecided(self) -> float:
        """Share of the gates still there with theta strictly inside (threshold, 1 - threshold)."""
        gates = self.gated.all_gates()
        if not gates:
            return 0.0
        theta = torch.cat([g.theta.detach() for g in gates])
        t = self.settings.threshold
        return float(((theta > t) & (theta < 1 - t)).float().mean())

    def structure(self) -> Structure:
        """What is left now; enough to rebuild the network."""
        return self.gated.structure.model_copy(deep=True)

    def penalty(self) -> Tensor:
        """The regularizer, a scalar to add to the mean loss; exact in theta, no sampling."""
        if self.frozen:
            return torch.zeros((), device=self.price.cost.widths.device)
        return self.price.penalty(self.steps).float()

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
        self._estimate()
        if self.price.budgets:
            self._follow_target()
        else:
            self.theta_optimizer.step()
        self.theta_optimizer.zero_grad(set_to_none=True)
        for gate in self.gated.all_gates():
            gate.project(self._most(gate))
        self.steps += 1
        due = self.steps % self.settings.cut_interval == 0
        last = self.settings.freeze_step is not None and self.steps >= self.settings.freeze_step
        if due or last:
            self.trace.append(trace_row(self))
        if last:
            self.freeze(optimizer, ema)
            self._rewind(optimizer, ema)
            return True
        return due and self.cut(optimizer, ema)

    def _estimate(self) -> None:
        """Remember what the samples said; without a budget, add it to theta's gradient.

        Under DDP it is the mean over the processes, which draw the same masks; the gates are not
        in the model that it wraps.
        """
        gates = self.gated.all_gates()
        slopes = [gate.slopes() for gate in gates]
        if torch.distributed.is_available() and torch.distributed.is_initialized() and gates:
            flat = torch.cat(slopes, dim=1)
            flat /= torch.distributed.get_world_size()
            torch.distributed.all_reduce(flat)
            slopes = list(flat.split([len(g) for g in gates], dim=1))
        listened = self.settings.listen * self.settings.ramp_steps
        keep = 1.0 - 1.0 / max(LEAST_MEMORY, MEMORY * listened)
        for gate, new in zip(gates, slopes, strict=True):
            if not self.price.budgets:
                gradient = gate.gradient(new)
                gate.theta.grad = gradient + (0.0 if gate.theta.grad is None else gate.theta.grad)
            gate.remember(keep, new)

    # ---- under a budget -------------------------------------------------------------------------

    def _most(self, gate: BernoulliGate) -> float:
        """A gate's highest theta now: below 1 while the worth of what is open must be known."""
        s = self.settings
        probing = s.warmup_steps <= self.steps < s.warmup_steps + s.ramp_steps
        if not (self.price.budgets and probing):
            return 1.0
        # Units are many, and each tells of its group.
        return 1.0 - min(OFF, max(LEAST_OFF, OFF_UNITS / len(gate)))

    def _follow_target(self) -> None:
        """Move every theta to the side that the target asks for; look anew when due.

        While the target falls, it is decided anew at each look what stays in the end, and of the
        rest as much closes as the target asks for. When it has arrived, every gate settles.
        """
        s = self.settings
        ramp = next(iter(self.price.falling.values()))
        if self.steps < ramp.begin:
            return
        rate = s.rate()
        if self.steps >= ramp.end:
            rate = DRIFT / max(1, (s.freeze_step or ramp.end + ramp.ramp) - ramp.end)
        if self.steps == ramp.end or (
            self.steps < ramp.end and (self.steps - ramp.begin) % ramp.interval == 0
        ):
            self._look(self.steps + ramp.interval)
        for gate in self.gated.all_gates():
            gate.drift(rate)

    @torch.no_grad()
    def _look(self, ahead: int) -> None:
        """Decide what stays in the end, and what of the rest goes by step ``ahead``."""
        candidates = self._candidates()
        final = self._decide(candidates, decide.whole(candidates), self._decided)
        self._decided = final.states
        self.looks += look_rows(self, candidates, final)
        decision = decide.towards(
            candidates,
            final.states,
            self.channel_step,
            self.price,
            self.price.goals(ahead),
            self.price.scales,
        )
        if decision.worth:
            self.price.set_levels(decision)
        for name, positions in _kept(candidates, decision.states).items():
            gate = self.gated.gate(name)
            if gate is not None:
                gate.side.fill_(-1.0 if positions is None else 1.0)
            for group in candidates[name].groups:
                units = self.gated.gate(group_key(name, group))
                assert units is not None
                # What closes with its branch goes with it, whole.
                units.side.fill_(1.0 if positions is None else -1.0)
                if positions is not None:
                    units.side[positions[group].to(units.side.device)] = 1.0

    def _decide(
        self,
        candidates: Mapping[str, decide.Candidate],
        states: Mapping[str, decide.State],
        before: Mapping[str, decide.State] | None = None,
    ) -> decide.Decision:
        """From ``states``, so that the budgets hold and are made use of."""
        return decide.decide(
            candidates,
            states,
            self.channel_step,
            self.price,
            self.price.budgets,
            self.price.scales,
            before=before,
        )

    # ---- cutting --------------------------------------------------------------------------------

    def cut(self, optimizer: torch.optim.Optimizer | None, ema: HasModule | None = None) -> bool:
        """Remove what has fallen to the threshold. Returns whether anything went."""
        candidates = self._candidates()
        states = decide.by_theta(candidates, self.channel_step, self.settings.threshold)
        if self.price.budgets:
            states = self._spared(candidates, states)
        self.removed += removed_rows(self, candidates, states, forced=False)
        return self.gated.cut(_kept(candidates, states), self.theta_optimizer, optimizer, ema)

    def freeze(self, optimizer: torch.optim.Optimizer | None, ema: HasModule | None = None) -> None:
        """Decide every gate by theta > 0.5, so that every budget holds; cut; take the gates out."""
        if self.frozen:
            return
        self.undecided_at_freeze = self.undecided()
        candidates = self._candidates()
        wanted = decide.by_theta(candidates, self.channel_step, 0.5)
        decision = self._decide(candidates, wanted)
        self.forced = decide.differing(decision.states, wanted)
        self.removed += removed_rows(self, candidates, decision.states, forced=True)
        self.gated.cut(_kept(candidates, decision.states), self.theta_optimizer, optimizer, ema)
        self.gated.unmount(ema)
        self.frozen = True

    def _rewind(self, optimizer: torch.optim.Optimizer, ema: HasModule | None) -> None:
        """Set the weights to those from before the search, cut alike, if they were kept for that.

        Not in :meth:`finish`: nothing trains after it.
        """
        if self._start is None:
            return
        start = cut.plain_state_dict(cut_to(self._start, self.gated.structure))
        for network in [self.model, *([] if ema is None else [ema.module])]:
            cut.load_plain_state_dict(network, start)
        optimizer.state.clear()
        self._start = None

    def finish(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        ema: HasModule | None = None,
    ) -> nn.Module:
        """Freeze if that has not happened, and return the plain, smaller timm model."""
        self.freeze(optimizer, ema)
        return self.model

    # ---- deciding -------------------------------------------------------------------------------

    def _candidates(self) -> dict[str, decide.Candidate]:
        """The branches that are still there, with their gates."""
        candidates = {}
        for name, found in self.gated.found.items():
            if not self.gated.structure.branches[name].kept:
                continue
            gate = self.gated.gate(name)
            groups = {}
            for g in found.branch.groups:
                units = self.gated.gate(group_key(name, g.name))
                assert units is not None, "a branch that is left has all its groups' gates"
                benefit, variance = units.benefit()
                benefits = decide.shrunk(benefit, variance).cpu()
                noise = _uncertain(float(benefit.mean()), float(variance.mean()) / len(variance))
                theta = units.theta.detach().cpu()
                groups[g.name] = decide.Group(theta, benefits, g.width, noise)
            if gate is None:
                candidates[name] = decide.Candidate(1.0, 0.0, False, groups)
            else:
                mean, noise = (float(x) for x in gate.benefit())
                noise = _uncertain(mean, noise)
                candidates[name] = decide.Candidate(
                    float(gate.theta.detach()), mean, True, groups, noise
                )
        return candidates

    def _spared(
        self, candidates: Mapping[str, decide.Candidate], states: Mapping[str, decide.State]
    ) -> dict[str, decide.State]:
        """Without the changes that would take the network below all its budgets.

        What has closed may have to reopen then. Branches that are about to close do not count:
        a branch comes back whole or not at all, which seldom fills a budget.
        """
        spared = decide.whole(candidates)
        closing = {
            name: decide.State(False, {})
            for name, c in candidates.items()
            if c.removable and c.theta <= 0.5
        }
        for name in sorted(states, key=lambda n: candidates[n].theta):
            whole = spared[name]
            spared[name] = states[name]
            costs = self.price.costs_of(spared | closing)
            if all(costs[m] < bound for m, bound in self.price.budgets.items()):
                spared[name] = whole
        return spared

    # ---- resuming -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed search needs beside the model's weights; tensors and plain data."""
        gates = self.gated
        return {
            "structure": gates.structure.model_dump(),
            "gates": gates.gates.state_dict(),
            "masks": {slot: g.mask for slot, g in zip(gates.gates, gates.all_gates())},
            "theta_optimizer": self.theta_optimizer.state_dict(),
            "steps": self.steps,
            "frozen": self.frozen,
            "generator": gates.generator.get_state(),
            "levels": self.price.state_dict(),
            "forced": self.forced,
            "undecided_at_freeze": self.undecided_at_freeze,
            "trace": self.trace,
            "removed": self.removed,
            "looks": self.looks,
            "decided": {name: (x.kept, x.counts) for name, x in self._decided.items()},
            "start": None if self._start is None else dict(self._start.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a freshly attached search, and its model's shapes, to a saved state.

        The weights' values and the weights' optimizer are the caller's to restore, afterwards.

        Raises:
            ValueError: the state is of another model, or was made under other budgets.
        """
        state = BEFORE | state
        wanted = load_structure(state["structure"])
        if wanted.branches.keys() != self.gated.structure.branches.keys():
            raise ValueError("checkpoint: its structure is of another model")
        self.price.load_state_dict(state["levels"])
        kept: Kept = {
            name: {g: torch.tensor(u.kept) for g, u in b.units.items()} if b.kept else None
            for name, b in wanted.branches.items()
            if name in self.gated.found
        }
        self.gated.cut(kept, self.theta_optimizer)
        self.steps = int(state["steps"])
        self.gated.generator.set_state(state["generator"])
        self.forced = int(state["forced"])
        self.undecided_at_freeze = float(state["undecided_at_freeze"])
        self.trace, self.removed = list(state["trace"]), list(state["removed"])
        self.looks = list(state["looks"])
        self._decided = {name: decide.State(*x) for name, x in state["decided"].items()}
        if state["frozen"]:
            self.gated.discard()
            self.frozen = True
            self._start = None
            return
        if self._start is not None:
            self._start.load_state_dict(state["start"])
        own = self.gates.state_dict()
        absent = {key: own[key] for key in own if key.endswith((".side", ".memory"))}
        self.gates.load_state_dict(absent | state["gates"])
        for gate, mask in zip(self.gated.all_gates(), state["masks"].values(), strict=True):
            gate.mask = mask.to(gate.theta)
        saved = state["theta_optimizer"]
        if len(saved["param_groups"]) == 2:  # branches and units apart, in an earlier version
            self.theta_optimizer = self._two_groups()
        self.theta_optimizer.load_state_dict(saved)

    def _two_groups(self) -> torch.optim.Adam:
        branches = [g.theta for name in self.gated.found if (g := self.gated.gate(name))]
        held = {id(theta) for theta in branches}
        units = [g.theta for g in self.gated.all_gates() if id(g.theta) not in held]
        return torch.optim.Adam([{"params": branches}, {"params": units}], lr=self.settings.rate())


def _uncertain(benefit: float, variance: float) -> float:
    """The variance of what a benefit will be: its noise, and what may yet change."""
    return variance + (CHANGE * benefit) ** 2


def _kept(candidates: Mapping[str, decide.Candidate], states: Mapping[str, decide.State]) -> Kept:
    """Of every branch the most wanted units, as many as its state says, or None."""
    return {
        name: {
            group: candidates[name].groups[group].order[:count].sort().values
            for group, count in state.counts.items()
        }
        if state.kept
        else None
        for name, state in states.items()
    }
