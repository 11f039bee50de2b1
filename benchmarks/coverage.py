"""Which of timm's models can be gated, and how large a part of each.

    python benchmarks/coverage.py            # every model in timm, about ten minutes on one core
    python benchmarks/coverage.py "vit_*"    # the models of that pattern, only printed
    python benchmarks/coverage.py --real     # cut the smallest gated model of every family

The first form builds models on torch's meta device, which takes no memory for weights. It writes
docs/results/coverage.csv and docs/results/coverage.md. With --real the smallest gated model of each
family in that table is built with weights. Its gates are closed at random, it is cut, and the
outputs of the masked and the cut model are compared. That writes docs/results/coverage_real.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from rich.progress import track
from timm.models._registry import _model_to_module
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import cpt_nas
from cpt_nas.cli.inspection import reach, share_left
from cpt_nas.pruning.search_space import SearchSpace, find_branches
from cpt_nas.pruning.surgery import join

DOCS = Path(__file__).parents[1] / "docs" / "results"
NO_ADAPTER = "no adapter for its blocks"
KINDS = ("units and branches", "units only", "branches only", "not gated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default=None)
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()
    pattern = arguments.pattern
    logging.disable(logging.WARNING)
    if arguments.real:
        check_real(pd.read_csv(DOCS / "coverage.csv"))
        return
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
    """The row of one model."""
    row: dict[str, Any] = {"model": name, "family": _model_to_module.get(name, "")}
    try:
        with torch.device("meta"), contextlib.redirect_stderr(io.StringIO()):
            model = timm.create_model(name)
    except Exception as error:  # timm cannot build every model on the meta device
        return row | {"kind": "not gated", "reason": f"timm: {type(error).__name__}: {error}"}
    found = find_branches(model)
    groups = [(f, g) for f in found.branches for g in f.branch.groups]
    branches = sum(f.branch.remove is not None for f in found.branches)
    kind = KINDS[(not branches) + 2 * (not groups) if branches or groups else 3]
    reached = reach(model, found)
    macs = removable_macs(model, found)
    return row | {
        "kind": kind,
        "branches": branches,
        "groups": len(groups),
        "units": sum(g.size for _, g in groups),
        "params": reached.total,
        "unit_params_share": reached.by_units / reached.total,
        "removable_params_share": reached.by_all / reached.total,
        "macs": macs[0],
        "unit_macs_share": macs[1],
        "removable_macs_share": macs[2],
        "reason": "; ".join(dict.fromkeys(reasons(found)))[:200] or NO_ADAPTER * (kind == KINDS[3]),
    }


def reasons(found: SearchSpace) -> list[str]:
    """Why blocks, branches or units are left out, without the blocks' names."""
    said = [*found.refusals.values()]
    for f in found.branches:
        said += [f.branch.uncut] if f.branch.uncut else []
        said += [f.branch.reason] if f.branch.reason and f.branch.remove is None else []
    return said


def removable_macs(model: nn.Module, found: SearchSpace) -> tuple[float, float, float]:
    """The multiply-adds of a model, the share that units hold, and the share that all gates hold.

    They are counted by torch's flop counter, which knows convolutions, linear layers and attention.
    All three are NaN where the model does not run on the meta device.
    """
    size = (model.pretrained_cfg or {}).get("input_size", (3, 224, 224))
    counter = FlopCounterMode(display=False)
    try:
        with torch.device("meta"), torch.no_grad(), counter:
            model.eval()(torch.zeros(1, *size))
    except Exception:
        return (float("nan"),) * 3
    counts = counter.get_flop_counts()
    top = type(model).__name__
    flops = {name: sum(ops.values()) for name, ops in counts.items()}
    total = flops.get("Global", 0)
    if not total:
        return (float("nan"),) * 3
    by_units = by_all = 0.0
    for f in found.branches:
        left = {n.rpartition(".")[0]: s for n, s in share_left(f).items() if n.endswith("weight")}
        units = sum(flops.get(f"{top}.{m}", 0) * (1 - s) for m, s in left.items())
        by_units += units
        if f.branch.remove is None:
            by_all += units
        else:
            inside = [f"{top}.{join(f.block, x)}" for x in f.branch.layers if ":" not in x]
            by_all += sum(flops.get(m, 0) for m in inside)
    return total / 2, by_units / total, by_all / total


def summary(table: pd.DataFrame) -> str:
    """A sentence: how many models can be gated, how many of them by many units, and how."""
    gated = table["kind"] != "not gated"
    share = table.get("unit_params_share", pd.Series(0.0, index=table.index))
    enough = share.fillna(0) >= 0.3
    kinds = ", ".join(f"{n} {kind}" for kind, n in table["kind"].value_counts().items())
    return (
        f"Of {len(table)} architectures {gated.mean():.1%} can be gated, {enough.mean():.1%} with "
        f"unit gates that reach at least 30 % of their parameters ({kinds})"
    )


def check_real(table: pd.DataFrame) -> None:
    """Compare the smallest gated model of every family, masked and cut; writes a table."""
    gated = table[table["kind"] != "not gated"].sort_values("params")
    rows = []
    for _, row in track(list(gated.groupby("family").first().reset_index().iterrows()), "families"):
        rows.append({"family": row["family"], "model": row["model"], **cut_at_random(row["model"])})
    result = pd.DataFrame(rows)
    result.to_csv(DOCS / "coverage_real.csv", index=False, lineterminator="\n")
    print(result[result["error"] != ""].to_string())
    print(f"{len(result)} families, largest difference {result['difference'].max():.1e}")


def cut_at_random(name: str) -> dict[str, Any]:
    """How far the outputs of a masked model and of its cut are apart, or the error that arose."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    x = torch.randn(1, *(model.pretrained_cfg or {}).get("input_size", (3, 224, 224)))
    before = sum(p.numel() for p in model.parameters())
    try:
        search = cpt_nas.attach(model, x)
        for gate in search.gates.values():
            gate.theta.data = (torch.rand(len(gate)) > 0.4).float()
            if len(gate) > 1:
                gate.theta.data[0] = 1.0
        with torch.no_grad():
            masked = model(x)
            after = search.finish()(x)
    except Exception as error:
        return {
            "left": math.nan,
            "difference": math.nan,
            "error": f"{type(error).__name__}: {error}",
        }
    left = sum(p.numel() for p in model.parameters()) / before
    difference = float((after - masked).abs().max() / masked.abs().max().clamp(min=1e-9))
    return {"left": round(left, 4), "difference": difference, "error": ""}


def page(table: pd.DataFrame) -> str:
    """The text of docs/results/coverage.md."""
    counts = table.pivot_table(index="family", columns="kind", values="model", aggfunc="count")
    counts = counts.reindex(columns=list(KINDS)).fillna(0).astype(int)
    columns = {
        "unit_params_share": "params, units",
        "removable_params_share": "params, all",
        "unit_macs_share": "MACs, units",
        "removable_macs_share": "MACs, all",
    }
    shares = table.groupby("family")[list(columns)].median()
    for column, title in columns.items():
        counts[title] = [f"{x:.0%}" if x == x else "" for x in shares[column]]
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
            "Families are timm's modules. The last columns are medians over a family: the share of "
            "a model's parameters and multiply-adds that goes when one unit is left of every group "
            "(units), and when every branch gate is closed besides (all). Multiply-adds are those "
            "of convolutions, linear layers and attention; empty where a model does not run "
            "without real memory.",
            "",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
