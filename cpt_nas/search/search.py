"""The search in three calls for a user's own loop: penalty(), step(), finish().

   search = cpt_nas.attach(model, example_input, profile="cpu.yaml", latency_budget=0.5,
                           total_steps=epochs * len(data))
   for x, y in data:
        loss = criterion(model(x), y) + search.penalty()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        search.step(optimizer)
    model = search.finish(optimizer)

Algorithm 1 of arXiv 2411.09127: weights by the user's optimizer, theta by an update rule of
:mod:`cpt_nas.search.update_rule` with projection, removal of what falls to the threshold. The gates
live beside the model, not in it: ``model.parameters()`` are the weights only, before and after
``attach``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hwprofiles
from cpt_nas.costs.cost_model import build_cost
from cpt_nas.gates.gated_model import GatedModel, HasModule, Kept
from cpt_nas.pruning import surgery
from cpt_nas.pruning.origin import explore
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to, load_structure
from cpt_nas.search import importance, records
from cpt_nas.search.estimates import BranchEstimate, BranchState, by_theta, differing
from cpt_nas.search.regularizer import Regularizer
from cpt_nas.search.result import SearchResult
from cpt_nas.search.rules import make_update_rule
from cpt_nas.search.settings import SearchConfig, SearchSettings, charged_cost, is_timed
from hwprofiles import Profile


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
        model_kwargs: what the model was created with, kept in the structure for rebuilding;
            default: what timm remembers. Whether timm makes the model again is tried, and a
            warning says what differs.
        **settings: see :class:`cpt_nas.search.settings.SearchSettings`: latency_budget and the
            like, or log_gamma (pruning level); alpha (computation against parameters), kappa
            (layers against units), estimator, ...

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
    return Search(model, example_input, profile, checked, model_kwargs)


class Search:
    """A gated model, the rule that moves its gates, and how far the search is.

    Attributes:
        gated: the model with its gates, and what is left of it.
        space: the model's whole search space.
        dense: the uncut model's structure.
        cost: the model's costs at any structure.
        cost_name: what is charged: 'latency', 'complexity', or the budgets' measures.
        regularizer: what the gates are charged.
        rule: the update rule of theta.
        steps: optimizer steps taken.
        frozen: the structure is decided and the gates are gone.
        channel_divisor: widths are rounded up to a multiple of it.
        forced: gates that were decided at the freeze against theta > 0.5, to meet the budgets.
        undecided_at_freeze: share of the gates undecided then; NaN before.
        trace: a row every ``cut_interval`` steps; see :func:`cpt_nas.search.records.trace_row`.
        removed: a row for all that has gone; see :func:`cpt_nas.search.records.removed_rows`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        profile: Profile | None,
        settings: SearchSettings,
        model_kwargs: dict[str, Any] | None,
    ) -> None:
        self.settings = settings
        self.profile = profile
        self.steps = 0
        self.frozen = False
        self.forced = 0
        self.undecided_at_freeze = float("nan")
        self.trace: list[dict[str, float]] = []
        self.removed: list[dict[str, Any]] = []
        if settings.channel_divisor is not None:
            self.channel_divisor = settings.channel_divisor
        else:
            self.channel_divisor = profile.channel_divisor if profile is not None else 1
        self._start = copy.deepcopy(model).cpu() if settings.rewind else None
        self.cost_name = charged_cost(settings, profile)
        self.space = find_branches(model)
        self.dense, strange = explore(model, self.space, example_input, model_kwargs)
        self.gated = GatedModel(
            model,
            self.space.select(settings.include, settings.exclude, settings.gate).without(strange),
            self.dense.model_copy(deep=True),
            theta_init=settings.theta_init,
            estimator=settings.estimator,
            fold=settings.fold,
            seed=settings.seed,
        )
        # Traced on the plain model, before the gates are in place.
        timed = is_timed(settings, self.cost_name)
        self.cost = build_cost(model, example_input, self.space, profile if timed else None)
        self.cost.to(next(model.parameters()).device)
        weights = profile.weights if profile is not None else None
        default_alpha = weights.alpha if weights is not None else 0.5
        default_kappa = weights.kappa if weights is not None else 0.0
        self.regularizer = Regularizer(
            self.gated,
            self.cost,
            self.cost_name,
            default_alpha if settings.alpha is None else settings.alpha,
            default_kappa if settings.kappa is None else settings.kappa,
        )
        self.rule = make_update_rule(self.regularizer, settings, self.channel_divisor)

    @property
    def model(self) -> nn.Module:
        return self.gated.model

    @property
    def gates(self) -> nn.ModuleDict:
        """Slot -> gate; a branch's slot is its name, a group's 'branch/group' ('.' as '/')."""
        return self.gated.gates

    @property
    def allocations(self) -> list[dict[str, Any]]:
        """Rows of what stays under budgets; :func:`cpt_nas.search.records.allocation_rows`."""
        return self.rule.allocations

    @property
    def log_gamma(self) -> float:
        """The pruning level now, of the binding budget where there are several."""
        return self.rule.log_gamma(self.steps)

    def __repr__(self) -> str:
        left, dense = self.gated.structure, self.dense
        state = "frozen" if self.frozen else f"undecided {self.undecided():.0%}"
        budgets = ", ".join(f"{m} <= {b:.4g}" for m, b in self.rule.budgets.items())
        return (
            f"Search of {dense.architecture or type(self.model).__name__}, step {self.steps},"
            f" {state}\n"
            f"  charged: {self.cost_name}, {budgets or f'log_gamma {self.log_gamma:.4g}'};"
            f" expected cost {self.expected_cost():.3f} of dense\n"
            f"  left: {left.branches_left} of {dense.branches_left} branches,"
            f" {left.units_left} of {dense.units_left} units"
        )

    def costs(self) -> dict[str, Tensor]:
        """Expected 'macs', 'params' (and 'latency', seconds), differentiable in theta."""
        return self.regularizer.costs()

    def live_costs(self) -> dict[str, float]:
        """Costs of the network as it is cut now, whatever its gates say."""
        return self.regularizer.live_costs()

    def expected_cost(self) -> float:
        """The charged cost over the dense network's, 0..1; the binding budget's, if any."""
        return self.rule.expected()

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

    def summary(self) -> dict[str, Any]:
        """What a run's result says of its search; plain data."""
        live = self.live_costs()
        return {
            "log_gamma": self.log_gamma,
            "alpha": self.regularizer.alpha,
            "kappa": self.regularizer.kappa,
            "budgets": self.rule.budgets,
            "binding": self.rule.binding(),
            "reached": {measure: live[measure] for measure in self.rule.budgets},
            "dense_costs": self.regularizer.dense,
            "forced": self.forced,
            "undecided_at_freeze": self.undecided_at_freeze,
        }

    def result(self) -> SearchResult:
        """The structure as it is now, with every layer's costs before and after."""
        return SearchResult(self.dense, self.structure(), self.cost, self.summary())

    def penalty(self) -> Tensor:
        """The regularizer, a scalar to add to the mean loss; exact in theta, no sampling."""
        if self.frozen:
            return torch.zeros((), device=self.cost.widths.device)
        return self.rule.penalty(self.steps).float()

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
        settings, gates = self.settings, self.gated.all_gates()
        slopes = importance.shared_slopes(gates)
        keep = importance.kept_memory(settings.estimation * settings.ramp_steps)
        for gate, new in zip(gates, slopes, strict=True):
            gate.remember(keep, new)
        self.rule.update(self.steps, slopes)
        for gate in gates:
            gate.project(self.rule.highest_theta(self.steps, gate))
        self.steps += 1
        due = self.steps % settings.cut_interval == 0
        last = settings.freeze_step is not None and self.steps >= settings.freeze_step
        if due or last:
            levels = self.rule.trace(self.steps)
            row = records.trace_row(self.steps, levels, self.gated, self.undecided())
            self.trace.append(row)
        if last:
            self.freeze(optimizer, ema)
            self._rewind(optimizer, ema)
            return True
        return due and self.cut(optimizer, ema)

    def cut(self, optimizer: torch.optim.Optimizer | None, ema: HasModule | None = None) -> bool:
        """Remove what has fallen to the threshold. Returns whether anything went."""
        estimates = importance.estimates(self.gated)
        states = by_theta(estimates, self.channel_divisor, self.settings.threshold)
        states = self.rule.select(estimates, states)
        return self._cut_to(estimates, states, False, optimizer, ema)

    def freeze(self, optimizer: torch.optim.Optimizer | None, ema: HasModule | None = None) -> None:
        """Decide every gate by theta > 0.5, so that every budget holds; cut; take the gates out."""
        if self.frozen:
            return
        self.undecided_at_freeze = self.undecided()
        estimates = importance.estimates(self.gated)
        wanted = by_theta(estimates, self.channel_divisor, 0.5)
        states = self.rule.select_final(estimates, wanted)
        self.forced = differing(states, wanted)
        self._cut_to(estimates, states, True, optimizer, ema)
        self.gated.unmount(ema)
        self.frozen = True

    def finish(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        ema: HasModule | None = None,
    ) -> nn.Module:
        """Freeze if that has not happened, and return the plain, smaller timm model."""
        self.freeze(optimizer, ema)
        return self.model

    def _cut_to(
        self,
        estimates: dict[str, BranchEstimate],
        states: dict[str, BranchState],
        at_freeze: bool,
        optimizer: torch.optim.Optimizer | None,
        ema: HasModule | None,
    ) -> bool:
        gradients = self.regularizer.gradients(self.rule.levels(self.steps))
        self.removed += records.removed_rows(
            self.steps, self.gated, gradients, estimates, states, at_freeze
        )
        kept = importance.kept_positions(estimates, states)
        return self.gated.cut(kept, self.rule.theta_optimizer, optimizer, ema)

    def _rewind(self, optimizer: torch.optim.Optimizer, ema: HasModule | None) -> None:
        """Set the weights to those from before the search, cut alike, if they were kept for that.

        Not in :meth:`finish`: nothing trains after it.
        """
        if self._start is None:
            return
        start = surgery.plain_state_dict(cut_to(self._start, self.gated.structure))
        for network in [self.model, *([] if ema is None else [ema.module])]:
            surgery.load_plain_state_dict(network, start)
        optimizer.state.clear()
        self._start = None

    # ---- resuming -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed search needs beside the model's weights; tensors and plain data."""
        gates = self.gated
        return {
            "structure": gates.structure.model_dump(),
            "gates": gates.gates.state_dict(),
            "masks": {slot: g.mask for slot, g in zip(gates.gates, gates.all_gates())},
            "steps": self.steps,
            "frozen": self.frozen,
            "generator": gates.generator.get_state(),
            "rule": self.rule.state_dict(),
            "forced": self.forced,
            "undecided_at_freeze": self.undecided_at_freeze,
            "trace": self.trace,
            "removed": self.removed,
            "start": None if self._start is None else dict(self._start.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a freshly attached search, and its model's shapes, to a saved state.

        The weights' values and the weights' optimizer are the caller's to restore, afterwards.

        Raises:
            ValueError: the state is of another model, or was made under other budgets.
        """
        wanted = load_structure(state["structure"])
        if wanted.branches.keys() != self.gated.structure.branches.keys():
            raise ValueError("checkpoint: its structure is of another model")
        kept: Kept = {
            name: {g: torch.tensor(u.kept) for g, u in b.units.items()} if b.kept else None
            for name, b in wanted.branches.items()
            if name in self.gated.branches
        }
        self.rule.check_state(state["rule"])
        self.gated.cut(kept, self.rule.theta_optimizer)
        self.steps = int(state["steps"])
        self.gated.generator.set_state(state["generator"])
        self.forced = int(state["forced"])
        self.undecided_at_freeze = float(state["undecided_at_freeze"])
        self.trace, self.removed = list(state["trace"]), list(state["removed"])
        self.rule.load_state_dict(state["rule"])
        if state["frozen"]:
            self.gated.discard()
            self.frozen = True
            self._start = None
            return
        if self._start is not None:
            self._start.load_state_dict(state["start"])
        self.gates.load_state_dict(state["gates"])
        for gate, mask in zip(self.gated.all_gates(), state["masks"].values(), strict=True):
            gate.mask = mask.to(gate.theta)
