"""Which of timm's models can be gated, and how much of them: every name in timm.list_models().

    python benchmarks/coverage.py            # all, about ten minutes on one core
    python benchmarks/coverage.py "vit_*"    # some, printed only

Models are built without memory (torch's meta device), so the largest cost nothing. Writes
docs/coverage.csv and docs/coverage.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from rich.progress import track
from timm.models import list_modules
from timm.models._registry import _model_to_module

import cpt_nas  # noqa: F401  registers its models
from cpt_nas.gating import Description, describe
from cpt_nas.inspection import reach

DOCS = Path(__file__).parents[1] / "docs"
KINDS = ("units and branches", "units only", "branches only", "not gated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default=None)
    pattern = parser.parse_args().pattern
    logging.disable(logging.WARNING)
    names = [n for n in timm.list_models(pattern or "*") if not n.startswith("cpt_")]
    table = pd.DataFrame([look(name) for name in track(names, "models")])
    if pattern is not None:
        print(table.to_string())
        print(summary(table))
        return
    DOCS.mkdir(exist_ok=True)
    table.to_csv(DOCS / "coverage.csv", index=False, float_format="%.4f", lineterminator="\n")
    (DOCS / "coverage.md").write_text(page(table))
    print(summary(table))


def look(name: str) -> dict[str, Any]:
    """One model's row."""
    row: dict[str, Any] = {"model": name, "family": _model_to_module.get(name, "")}
    try:
        with torch.device("meta"), contextlib.redirect_stderr(io.StringIO()):
            model = timm.create_model(name)
    except Exception as error:  # timm's own; some models cannot be built without real memory
        return row | {"kind": "not gated", "reason": f"timm: {type(error).__name__}: {error}"}
    found = describe(model)
    groups = [(f, g) for f in found.branches for g in f.branch.groups]
    branches = sum(f.branch.remove is not None for f in found.branches)
    kind = KINDS[(not branches) + 2 * (not groups) if branches or groups else 3]
    reached = reach(model, found)
    return row | {
        "kind": kind,
        "branches": branches,
        "groups": len(groups),
        "units": sum(g.size for _, g in groups),
        "params": reached.total,
        "unit_params_share": reached.by_units / reached.total,
        "removable_params_share": reached.by_all / reached.total,
        "reason": "; ".join(dict.fromkeys(reasons(found)))[:200],
    }


def reasons(found: Description) -> list[str]:
    """Why blocks, branches or units are left out, without the blocks' names."""
    said = [*found.refusals.values()]
    for f in found.branches:
        said += [f.branch.uncut] if f.branch.uncut else []
        said += [f.branch.reason] if f.branch.reason and f.branch.remove is None else []
    return said


def summary(table: pd.DataFrame) -> str:
    """The issue's three figures, in words."""
    gated = table["kind"] != "not gated"
    share = table.get("unit_params_share", pd.Series(0.0, index=table.index))
    enough = share.fillna(0) >= 0.3
    return (
        f"{len(table)} architectures: {gated.mean():.1%} gated; {enough.mean():.1%} with unit "
        f"gates that reach 30 % of their parameters; {table.kind.value_counts().to_dict()}"
    )


def page(table: pd.DataFrame) -> str:
    """docs/coverage.md."""
    counts = table.pivot_table(index="family", columns="kind", values="model", aggfunc="count")
    counts = counts.reindex(columns=list(KINDS)).fillna(0).astype(int)
    shares = table.groupby("family")[["unit_params_share", "removable_params_share"]].median()
    counts["median share of params: units"] = shares["unit_params_share"].map("{:.0%}".format)
    counts["units and branches "] = shares["removable_params_share"].map("{:.0%}".format)
    why = table[table.kind == "not gated"].groupby("family")["reason"].first()
    counts["why not"] = why.str.slice(0, 80)
    counts = counts.fillna("").sort_index()
    header = "| family | " + " | ".join(counts.columns) + " |"
    rows = [header, "|---" * (len(counts.columns) + 1) + "|"]
    rows += [
        f"| {i} | " + " | ".join(map(str, r)) + " |" for i, r in zip(counts.index, counts.values)
    ]
    return "\n".join(
        [
            "# Which of timm's models can be gated",
            "",
            f"`python benchmarks/coverage.py` (timm {timm.__version__}) looks at every "
            "architecture and writes [coverage.csv](coverage.csv), a row a model, and this page.",
            "",
            summary(table) + ".",
            "",
            "The shares are of a model's parameters: what goes when one unit a group is left, and "
            "when every gate is closed. Families are timm's modules.",
            "",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    assert list_modules()
    main()
