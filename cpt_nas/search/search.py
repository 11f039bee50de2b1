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
live beside the model: its parameters, their names and order are what they were before ``attach``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cpt_nas.costs.cost_model import build_cost
from cpt_nas.costs.sections import count_sections
from cpt_nas.gates.gated_model import Copies, GatedModel, Kept, averaged_copies
from cpt_nas.pruning import optimizer_state, surgery
from cpt_nas.pruning.origin import explore
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import Structure, cut_to
from cpt_nas.search import backward, importance, records
from cpt_nas.search.estimates import BranchEstimate, BranchState, by_theta, differing
from cpt_nas.search.law import Law, law_in_force
from cpt_nas.search.regularizer import Regularizer
from cpt_nas.search.result import SearchResult
from cpt_nas.search.resume import saved_structure
from cpt_nas.search.rules import make_update_rule
from cpt_nas.search.settings import SearchSettings, is_timed
from hwprofiles import Profile

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None


class Search:
    """A gated model, the rule that moves its gates, and how far the search is.

    Attributes:
        gated: the model with its gates, and what is left of it.
        space: the model's whole search space.
        dense: the uncut model's structure.
        cost: the model's costs at any structure.
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
        timed = is_timed(settings, profile is not None)
        self._start = copy.deepcopy(model).cpu() if settings.rewind else None
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
        try:
            self.cost = build_cost(model, example_input, self.space, profile if timed else None)
        except (RuntimeError, AssertionError) as error:  # the model's own
            said = " ".join(str(error).split())[:150]
            shape = tuple(example_input.shape)
            raise ValueError(f"example_input: {shape} does not fit the model: {said}") from error
        self.cost.to(next(model.parameters()).device)
        removable = sum(f.branch.remove is not None for f in self.gated.branches.values())
        layers = count_sections(self.space, self.cost.terms)
        law = law_in_force(settings, profile, removable, layers)
        self.regularizer = Regularizer(self.gated, self.cost, law)
        self.rule = make_update_rule(self.regularizer, settings, self.channel_divisor)
        self._loss_scale = backward.LossScale(self.cost.widths.device)
        self._optimizers: list[torch.optim.Optimizer] = []  # what step() was given
        self._driven = False
        self.gated.mount()  # the last thing: until here the model is as it was

    @property
    def model(self) -> nn.Module:
        return self.gated.model

    @property
    def law(self) -> Law:
        """What is charged, its three numbers, and where each comes from."""
        return self.regularizer.law

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
            f"  charged: {self.law.cost}, {budgets or f'log_gamma {self.log_gamma:.4g}'};"
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
        return self.gated.undecided(self.settings.threshold)

    def structure(self) -> Structure:
        """What is left now; enough to rebuild the network."""
        return self.gated.structure.model_copy(deep=True)

    def summary(self) -> dict[str, Any]:
        """What a run's result says of its search; plain data."""
        live = self.live_costs()
        return {
            "log_gamma": self.log_gamma,
            "alpha": self.law.alpha.value,
            "kappa": self.law.kappa.value,
            "law": self.law.as_data(),
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
        penalty = self.rule.penalty(self.steps).float()
        return self._loss_scale.marked(penalty) if len(self.gates) else penalty

    # ---- the loop's calls -----------------------------------------------------------------------

    def step(self, optimizer: Optimizers, ema: Copies = None) -> bool:
        """Update theta, project, and cut when due. Call after ``optimizer.step()``.

        A step whose loss or gradients were not finite is none: nothing moves, as under a GradScaler
        that has skipped the optimizer's.

        Args:
            optimizer: the weights' optimizer, or all of them in a list; their parameter lists and
                state are cut alongside, those of optimizers that they wrap included.
            ema: an averaged copy to be cut identically (timm's ModelEmaV3, torch's AveragedModel),
                or several in a list.

        Returns:
            Whether the network changed shape. Under DDP it must then be wrapped anew.

        Raises:
            ValueError: a trainable parameter is in no optimizer, one cannot follow a cut, the
                gates were left out of the forward or backward pass, or the weights are not finite.
        """
        if self.frozen:
            return False
        if optimizer is None:
            raise ValueError("optimizer: None; give what trains the weights")
        self._take(optimizer, ema)
        charged = self.rule.theta_optimizer is not None and self.log_gamma > 0
        slopes = backward.read(self.gated, self._loss_scale, self._optimizers, charged)
        self.gated.sampler.renew()
        if slopes is None:
            self.gated.forget()
            backward.check_weights(self.model, self.steps)
            return False
        settings, gates = self.settings, self.gated.all_gates()
        self._driven = True
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
            levels, open_ = self.rule.trace(self.steps), self.undecided()
            self.trace.append(records.trace_row(self.steps, levels, self.gated, open_))
        if last:
            networks = [self.model, *self.gated.copies]
            self.freeze()
            self._rewind(networks)
            return True
        return due and self.cut()

    def cut(self, optimizer: Optimizers = None, ema: Copies = None) -> bool:
        """Remove what has fallen to the threshold. Returns whether anything went.

        Args:
            optimizer, ema: default: those that :meth:`step` was given.
        """
        self._take(optimizer, ema)
        self._driven = True
        estimates = importance.estimates(self.gated)
        states = by_theta(estimates, self.channel_divisor, self.settings.threshold)
        states = self.rule.select(estimates, states)
        return self._cut_to(estimates, states, False)

    def freeze(self, optimizer: Optimizers = None, ema: Copies = None) -> None:
        """Decide every gate by theta > 0.5, so that every budget holds; cut; take the gates out.

        Args:
            optimizer, ema: default: those that :meth:`step` was given.
        """
        if self.frozen:
            return
        self._take(optimizer, ema)
        undecided = self.undecided()
        estimates = importance.estimates(self.gated)
        wanted = by_theta(estimates, self.channel_divisor, 0.5)
        states = self.rule.select_final(estimates, wanted)
        self._cut_to(estimates, states, True)
        self.undecided_at_freeze = undecided
        self.forced = differing(states, wanted)
        self.gated.unmount()
        self.frozen = True

    def finish(self, optimizer: Optimizers = None, ema: Copies = None) -> nn.Module:
        """Freeze if that has not happened, and return the plain, smaller timm model.

        Args:
            optimizer, ema: default: those that :meth:`step` was given.

        Raises:
            ValueError: the model was trained and :meth:`step` never called.
        """
        if self.gated.sampler.is_used and not self._driven:
            raise ValueError(
                "finish: the model has trained without a step of the search; call "
                "search.step(optimizer) after every optimizer.step()"
            )
        self.freeze(optimizer, ema)
        return self.model

    def _take(self, optimizer: Optimizers, ema: Copies) -> None:
        """Let optimizers and averaged copies follow from now on, if they can."""
        if optimizer is not None:
            optimizers = optimizer_state.optimizers_of(optimizer)
            if not optimizers or list(map(id, optimizers)) != list(map(id, self._optimizers)):
                optimizer_state.check_held(self.model, optimizers)
                optimizer_state.check_state(optimizers, self.model, self.gated.cuttable())
                self._optimizers = optimizers
        if ema is not None:
            self.gated.follow(averaged_copies(ema))

    def _cut_to(
        self,
        estimates: dict[str, BranchEstimate],
        states: dict[str, BranchState],
        at_freeze: bool,
    ) -> bool:
        gradients = self.regularizer.gradients(self.rule.levels(self.steps))
        rows = records.removed_rows(self.steps, self.gated, gradients, estimates, states, at_freeze)
        kept = importance.kept_positions(estimates, states)
        changed = self.gated.cut(kept, self.rule.theta_optimizer, self._optimizers)
        self.removed += rows
        return changed

    def _rewind(self, networks: Sequence[nn.Module]) -> None:
        """Set the weights to those from before the search, cut alike, if they were kept for that.

        Not in :meth:`finish`: nothing trains after it.
        """
        if self._start is None:
            return
        start = cut_to(self._start, self.gated.structure).state_dict()
        for network in networks:
            surgery.load_state_dict(network, start)
        for optimizer in self._optimizers:
            optimizer.state.clear()
        self._start = None

    # ---- resuming -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed search needs beside the model's weights; tensors and plain data."""
        gates = self.gated
        return {
            "structure": gates.structure.model_dump(),
            "gates": gates.gates.state_dict(),
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

    def load_state_dict(
        self, state: dict[str, Any], optimizer: Optimizers = None, ema: Copies = None
    ) -> None:
        """Bring a freshly attached search, and its model's shapes, to a saved state.

        The values of weights, optimizers and averaged copies are the caller's to restore,
        afterwards; their shapes and lists are right then.

        Args:
            optimizer, ema: of the model, to be cut alongside, as in :meth:`step`.

        Raises:
            ValueError: the state is of another model, was made under other budgets or is none, or
                the search is not fresh; nothing has changed then.
        """
        if self.steps or self.gated.structure != self.dense:
            raise ValueError("checkpoint: the search has begun; load into a freshly attached one")
        wanted = saved_structure(state, self.dense, self.gated)
        kept: Kept = {
            name: {g: torch.tensor(u.kept) for g, u in b.units.items()} if b.kept else None
            for name, b in wanted.branches.items()
            if name in self.gated.branches
        }
        self.rule.check_state(state["rule"])
        self._take(optimizer, ema)
        self.gated.cut(kept, self.rule.theta_optimizer, self._optimizers)
        self._driven = True
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
