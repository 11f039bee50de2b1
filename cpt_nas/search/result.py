"""What a search has found: the structure, and what every layer costs before and after."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cpt_nas.costs.cost_model import CostModel
from cpt_nas.pruning.structure import Structure

LATENCY = "latency"


@dataclass(frozen=True, repr=False)
class SearchResult:
    """A structure beside its dense network.

    Attributes:
        dense: the uncut network's structure.
        structure: what is left.
        cost: the network's costs at any structure.
        summary: log_gamma, budgets, what they reached; see :meth:`Search.summary`.
    """

    dense: Structure
    structure: Structure
    cost: CostModel
    summary: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """A row a layer: name, type, branch, and MACs, parameters (and seconds) before and after.

        Columns: name, type, branch ('' outside any), macs_dense, params_dense, macs, params, and
        latency_dense_s, latency_s where latency is among the costs.
        """
        terms = self.cost.terms
        columns: dict[str, Any] = {
            "name": [t.layer.name for t in terms],
            "type": [t.layer.type for t in terms],
            "branch": [t.branch or "" for t in terms],
        }
        for suffix, structure in (("_dense", self.dense), ("", self.structure)):
            for measure in self.cost.names:
                column = f"{measure}{suffix}" + ("_s" if measure == LATENCY else "")
                columns[column] = self.cost.per_layer(structure, measure)
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        before, after = self.cost.of_structure(self.dense), self.cost.of_structure(self.structure)
        costs = ", ".join(f"{m} {after[m] / before[m]:.3f}" for m in self.cost.names)
        name = self.dense.architecture or "a model"
        return (
            f"SearchResult of {name}\n"
            f"  left: {self.structure.branches_left} of {self.dense.branches_left} branches,"
            f" {self.structure.units_left} of {self.dense.units_left} units\n"
            f"  over the dense network: {costs}"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the three lines, and the table of layers."""
        return f"<pre>{html.escape(repr(self))}</pre>{self.to_frame().to_html(escape=True)}"
