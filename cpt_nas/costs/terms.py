"""Where every traced layer stands in the structure: its branch, and the groups of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cpt_nas.pruning.search_space import PrunableBranch, absolute, group_key, owns
from hwprofiles import LayerSpec


@dataclass(frozen=True)
class Term:
    """One layer's place in the structure.

    Attributes:
        layer: the traced layer.
        branch: name of the branch it vanishes with, or None.
        group_in, group_out: 'branch/group' whose units are its channels, or None.
        width_in, width_out: channels a unit there; the full width where no group.
        projection: it is on a skip connection, which the papers do not count among the layers.
    """

    layer: LayerSpec
    branch: str | None
    group_in: str | None
    group_out: str | None
    width_in: float
    width_out: float
    projection: bool = False


PARAMETER = "parameter"


"""The type of a layer that is only a parameter."""


def place_layers(layers: Sequence[LayerSpec], branches: Sequence[PrunableBranch]) -> list[Term]:
    """Say of every traced layer which branch gates it and which groups are its channels."""
    branch_of: dict[str, str] = {}
    produced: dict[str, tuple[str, int]] = {}
    consumed: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    skips = [absolute(f.block, f.branch.projection) for f in branches if f.branch.projection]
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
        if layer.form == "channel":
            # One dimension, counted in input channels. Whichever it is, the units share it: of
            # attention it is the heads, of a norm of queries the width of one.
            group_in = group_in if group_out is None else group_out
            if group_in is not None:
                width_in = layer.in_channels / sizes[group_in]
            group_out, width_out = None, layer.out_channels
        branch, on_skip = branch_of.get(layer.name), any(owns(s, layer.name) for s in skips)
        terms.append(Term(layer, branch, group_in, group_out, width_in, width_out, on_skip))
    return terms


def bare_parameter(name: str, size: int) -> LayerSpec:
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
