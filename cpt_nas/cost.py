"""Expected cost of a gated network: MACs, parameters (eqs. 9-11) and measured seconds.

Every cost is a sum over layers j of

    theta_branch(j) * (const + per_in*n_in + per_out*n_out + per_in_out*n_in*n_out),

where n is the expected number of channels, the sum of a group's theta times its channels a unit,
or the full width where nothing is gated. No theta appears twice in a product, so every cost is
multilinear in theta; that makes the solutions deterministic (Theorem 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cpt_nas.gating import Found, absolute, describe, owns
from hwprofiles import Coefficients, LayerSpec, MissingLayers
from hwprofiles.tracing import trace_all

if TYPE_CHECKING:
    from cpt_nas.structure import Structure
    from hwprofiles import Profile


@dataclass(frozen=True)
class Term:
    """One layer's place in the structure.

    Attributes:
        layer: the traced layer.
        branch: name of the branch it vanishes with, or None.
        group_in, group_out: 'branch/group' whose units are its channels, or None.
        width_in, width_out: channels a unit there; the full width where no group.
    """

    layer: LayerSpec
    branch: str | None
    group_in: str | None
    group_out: str | None
    width_in: float
    width_out: float


PARAMETER = "parameter"
"""The type of a layer that is only a parameter."""


def group_key(branch: str, group: str) -> str:
    return f"{branch}/{group}"


def place_layers(layers: Sequence[LayerSpec], branches: Sequence[Found]) -> list[Term]:
    """Say of every traced layer which branch gates it and which groups are its channels."""
    branch_of: dict[str, str] = {}
    produced: dict[str, tuple[str, int]] = {}
    consumed: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    for found in branches:
        prefixes = [absolute(found.block, p) for p in found.branch.layers]
        for layer in layers:
            if any(owns(p, layer.name) for p in prefixes):
                branch_of[layer.name] = found.name
        for group in found.branch.groups:
            key = group_key(found.name, group.name)
            sizes[key] = group.size
            for table, names in (
                (produced, group.produced_by),
                (consumed, group.consumed_by),
            ):
                for name, width in names.items():
                    prefix = absolute(found.block, name)
                    owned = [x.name for x in layers if owns(prefix, x.name)]
                    table.update(dict.fromkeys(owned, (key, width)))
    terms = []
    for layer in layers:
        group_out: str | None
        group_in: str | None
        width_out: float
        width_in: float
        group_out, width_out = produced.get(layer.name, (None, layer.out_channels))
        group_in, width_in = consumed.get(layer.name, (None, layer.in_channels))
        if layer.form == "channel":  # one dimension, counted in input channels
            if layer.type == PARAMETER and group_out is not None:
                group_in, width_in = group_out, 1.0 / sizes[group_out]
            elif group_out is not None:
                group_in = group_out
                width_in = width_out * layer.in_channels / layer.out_channels
            group_out, width_out = None, layer.out_channels
        terms.append(
            Term(layer, branch_of.get(layer.name), group_in, group_out, width_in, width_out)
        )
    return terms


class Cost(nn.Module):
    """The multilinear costs of one model, evaluated from theta.

    Args:
        terms: from :func:`place_layers`.
        profile: if given, 'latency' (seconds) is a cost as well as 'macs' and 'params'.

    Raises:
        ValueError: the profile does not know some of the layers; lists their signatures.
    """

    coefficients: Tensor
    offsets: Tensor
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
            scale = profile.calibration.scale
            tables["latency"] = [
                Coefficients() if t.layer.type == PARAMETER else profile.cost(t.layer.signature)
                for t in terms
            ]
        self.names = list(tables)
        rows = torch.tensor(
            [[[c.const, c.per_in, c.per_out, c.per_in_out] for c in t] for t in tables.values()],
            dtype=torch.float64,
        )
        if profile is not None:
            rows[self.names.index("latency")] *= scale
        offsets = [0.0, 0.0] + ([profile.calibration.offset_s] if profile is not None else [])
        # Index G (one past the last group) and B stand for "not gated": a constant 1 there.
        b, g = len(self.branches), len(self.groups)
        at_branch = {None: b} | {n: i for i, n in enumerate(self.branches)}
        at_group = {None: g} | {n: i for i, n in enumerate(self.groups)}
        self.register_buffer("coefficients", rows)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float64))
        self.register_buffer("branch_at", torch.tensor([at_branch[t.branch] for t in terms]))
        self.register_buffer("in_at", torch.tensor([at_group[t.group_in] for t in terms]))
        self.register_buffer("out_at", torch.tensor([at_group[t.group_out] for t in terms]))
        widths = [[t.width_in, t.width_out] for t in terms]
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float64))

    def forward(self, branches: Mapping[str, Tensor], units: Mapping[str, Tensor]) -> Tensor:
        """All costs, [len(names)] float64.

        Args:
            branches: branch name -> its theta (a scalar or [1]); a missing name is a gone branch.
            units: 'branch/group' -> its theta [K]; a missing key is a group whose branch is gone.
        """
        one = self.coefficients.new_ones(1)
        zero = self.coefficients.new_zeros(1)
        z = [branches[n].double().reshape(1) if n in branches else zero for n in self.branches]
        n = [units[k].double().sum().reshape(1) if k in units else zero for k in self.groups]
        z_all, n_all = torch.cat([*z, one]), torch.cat([*n, one])
        n_in = n_all[self.in_at] * self.widths[:, 0]
        n_out = n_all[self.out_at] * self.widths[:, 1]
        forms = torch.stack([torch.ones_like(n_in), n_in, n_out, n_in * n_out], dim=-1)
        per_layer = (self.coefficients * forms).sum(-1) * z_all[self.branch_at]
        total: Tensor = per_layer.sum(-1) + self.offsets
        return total

    def per_layer(self, structure: Structure, name: str) -> list[float]:
        """The cost ``name`` of every layer under a decided structure, in the order of terms."""
        branches, units = structure_theta(structure)
        row = self.names.index(name)
        values = []
        for t, (const, per_in, per_out, both) in zip(self.terms, self.coefficients[row].tolist()):
            n_in = t.width_in * (units[t.group_in].sum().item() if t.group_in in units else 1)
            n_out = t.width_out * (units[t.group_out].sum().item() if t.group_out in units else 1)
            gone = t.branch is not None and t.branch not in branches
            values.append(
                0.0 if gone else const + per_in * n_in + per_out * n_out + both * n_in * n_out
            )
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
    """A structure as theta of ones, in the form :class:`Cost` takes."""
    live = {n: b for n, b in structure.branches.items() if b.kept}
    branches = {n: torch.ones(1) for n in live}
    units = {
        group_key(n, g): torch.ones(len(u.kept))
        for n, b in live.items()
        for g, u in b.units.items()
    }
    return branches, units


def build_cost(model: nn.Module, example_input: Tensor, profile: Profile | None = None) -> Cost:
    """The costs of an uncut, ungated model.

    Raises:
        ValueError: a parameter that no traced layer counts, or layers the profile does not know.
    """
    traced = trace_all(model, example_input)
    layers = [*traced.layers, *(_bare(name, size) for name, size in traced.bare.items())]
    counted, held = sum(x.params for x in layers), sum(p.numel() for p in model.parameters())
    if counted != held:
        raise ValueError(
            f"model: {held} parameters, but the traced layers hold {counted}: "
            "a layer type is not known to hwprofiles"
        )
    return Cost(place_layers(layers, describe(model).branches), profile)


def _bare(name: str, size: int) -> LayerSpec:
    """A parameter that no layer counts: it has a size, and takes no time of its own."""
    return LayerSpec(
        name=name,
        type=PARAMETER,
        signature=f"parameter({size})",
        in_channels=1,
        out_channels=1,
        groups=1,
        form="channel",
        macs=0.0,
        params=size,
        activation_bytes=0,
    )


def predict_latency(
    structure: Structure, profile: Profile, dense_model: nn.Module, example_input: Tensor
) -> float:
    """Seconds a forward pass of the cut network takes, by the profile (calibrated)."""
    return build_cost(dense_model, example_input, profile).of_structure(structure)["latency"]
