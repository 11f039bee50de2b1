"""Expected cost of a gated network: MACs, parameters (eqs. 9-11) and measured seconds.

Every cost is a sum over layers j of

    theta_branch(j) * (const + per_in*n_in + per_out*n_out + per_in_out*n_in*n_out),

where n is the expected number of channels, the sum of a group's theta times its channels a unit,
or the full width where nothing is gated. No theta appears twice in a product, so every cost is
multilinear in theta; that makes the solutions deterministic (Theorem 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cpt_nas.adapters.known import unlike_its_class
from cpt_nas.costs.terms import PARAMETER, Term, bare_parameter, place_layers
from cpt_nas.pruning.search_space import SearchSpace, find_branches, group_key
from cpt_nas.pruning.structure import Structure
from hwprofiles import Coefficients, MissingLayers, Profile
from hwprofiles.layers import layer_cost
from hwprofiles.tracing import trace_all


class CostModel(nn.Module):
    """The multilinear costs of one model, evaluated from theta.

    Args:
        terms: from :func:`place_layers`.
        profile: if given, 'latency' (seconds) is a cost as well as 'macs' and 'params'.

    Raises:
        ValueError: the profile does not know some of the layers; lists their signatures.
    """

    coefficients: Tensor
    branch_at: Tensor
    in_at: Tensor
    out_at: Tensor
    widths: Tensor

    def __init__(self, terms: Sequence[Term], profile: Profile | None = None) -> None:
        super().__init__()
        self.terms = list(terms)
        self.branches = list(dict.fromkeys(t.branch for t in terms if t.branch is not None))
        groups = [g for t in terms for g in (t.group_in, t.group_out) if g is not None]
        self.groups = list(dict.fromkeys(groups))
        tables = {
            "macs": [t.layer.macs_coefficients for t in terms],
            "params": [t.layer.params_coefficients for t in terms],
        }
        if profile is not None:
            timed = [t.layer for t in terms if t.layer.type != PARAMETER]
            missing = profile.missing(timed)
            if missing:
                raise MissingLayers(missing, profile)
            tables["latency"] = [
                Coefficients() if t.layer.type == PARAMETER else profile.cost(t.layer.signature)
                for t in terms
            ]
        self.names = list(tables)
        rows = torch.tensor(
            [[[c.const, c.per_in, c.per_out, c.per_in_out] for c in t] for t in tables.values()],
            dtype=torch.float64,
        )
        # Index G (one past the last group) and B stand for "not gated": a constant 1 there.
        b, g = len(self.branches), len(self.groups)
        at_branch = {None: b} | {n: i for i, n in enumerate(self.branches)}
        at_group = {None: g} | {n: i for i, n in enumerate(self.groups)}
        self.register_buffer("coefficients", rows)
        self.register_buffer("branch_at", torch.tensor([at_branch[t.branch] for t in terms]))
        self.register_buffer("in_at", torch.tensor([at_group[t.group_in] for t in terms]))
        self.register_buffer("out_at", torch.tensor([at_group[t.group_out] for t in terms]))
        widths = [[t.width_in, t.width_out] for t in terms]
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float64))

    def per_layer_costs(
        self, branches: Mapping[str, Tensor], units: Mapping[str, Tensor]
    ) -> Tensor:
        """Every cost of every layer, [len(names), len(terms)] float64; the arguments of forward."""
        one = self.coefficients.new_ones(1)
        zero = self.coefficients.new_zeros(1)
        z = [branches[n].double().reshape(1) if n in branches else zero for n in self.branches]
        n = [units[k].double().sum().reshape(1) if k in units else zero for k in self.groups]
        z_all, n_all = torch.cat([*z, one]), torch.cat([*n, one])
        n_in = n_all[self.in_at] * self.widths[:, 0]
        n_out = n_all[self.out_at] * self.widths[:, 1]
        const, per_in, per_out, both = self.coefficients.unbind(-1)
        costs = layer_cost(const, per_in, per_out, both, n_in, n_out)
        return costs * z_all[self.branch_at]

    def forward(self, branches: Mapping[str, Tensor], units: Mapping[str, Tensor]) -> Tensor:
        """All costs, [len(names)] float64.

        Args:
            branches: branch name -> its theta (a scalar or [1]); a missing name is a gone branch.
            units: 'branch/group' -> its theta [K]; a missing key is a group whose branch is gone.
        """
        total: Tensor = self.per_layer_costs(branches, units).sum(-1)
        return total

    @torch.no_grad()
    def per_layer(self, structure: Structure, name: str) -> list[float]:
        """The cost ``name`` of every layer under a decided structure, in the order of terms."""
        costs = self.per_layer_costs(*structure_theta(structure))
        values: list[float] = costs[self.names.index(name)].tolist()
        return values

    def of_structure(self, structure: Structure) -> dict[str, float]:
        """Every cost of a decided structure."""
        live = {n: b for n, b in structure.branches.items() if b.kept}
        units = {group_key(n, g): len(u.kept) for n, b in live.items() for g, u in b.units.items()}
        return self.of_counts(live, units)

    @torch.no_grad()
    def of_counts(self, branches: Iterable[str], units: Mapping[str, int]) -> dict[str, float]:
        """Every cost of the network with these branches, and this many units in their groups."""
        one = self.coefficients.new_ones(1)
        counts = {key: one * count for key, count in units.items()}
        return dict(zip(self.names, self(dict.fromkeys(branches, one), counts).tolist()))


def structure_theta(structure: Structure) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A structure as theta of ones, in the form :class:`CostModel` takes."""
    live = {n: b for n, b in structure.branches.items() if b.kept}
    branches = {n: torch.ones(1) for n in live}
    units = {
        group_key(n, g): torch.ones(len(u.kept))
        for n, b in live.items()
        for g, u in b.units.items()
    }
    return branches, units


def build_cost(
    model: nn.Module, example_input: Tensor, space: SearchSpace, profile: Profile | None = None
) -> CostModel:
    """The costs of an uncut, ungated model.

    Args:
        model: traced with ``example_input``; only layer sizes matter.
        space: the model's whole search space.
        profile: if given, seconds are among the costs.

    Raises:
        ValueError: a parameter that no traced layer counts, or layers the profile does not know.
    """
    traced = trace_all(model, example_input)
    layers = [*traced.layers, *(bare_parameter(name, size) for name, size in traced.bare.items())]
    counted, held = sum(x.params for x in layers), sum(p.numel() for p in model.parameters())
    if counted != held:
        for name, module in model.named_modules():
            if is_parametrized(module):
                raise ValueError(f"model: {name}: {unlike_its_class(module)}, which is not counted")
        raise ValueError(
            f"model: {held} parameters, but the traced layers hold {counted}: "
            "a layer type is not known to hwprofiles"
        )
    return CostModel(place_layers(layers, space.branches), profile)


def predict_latency(
    structure: Structure, profile: Profile, dense_model: nn.Module, example_input: Tensor
) -> float:
    """Seconds a forward pass of the cut network takes, by the profile (calibrated)."""
    cost = build_cost(dense_model, example_input, find_branches(dense_model), profile)
    return cost.of_structure(structure)["latency"]
