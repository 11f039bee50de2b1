"""What the report's figures share: sizes, legends, ticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DENSE_COLOR = "#777777"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WIDTH = 9.0  # inches
LEGEND_CHARACTERS = 130  # that fit side by side
MOST_TICKS = 60  # layer names on one axis before some are left out


def new_figure(width: float = WIDTH, height: float = 4.0) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def history_lines(ax: Axes, histories: Mapping[str, pd.DataFrame], column: str) -> None:
    for name, style in run_styles(list(histories)).items():
        history = histories[name]
        few = len(history) <= 40
        shown = style | {"marker": style["marker"] if few else "", "ms": 4, "lw": 1.6}
        ax.plot(history["epoch"], history[column], label=literal(name), **shown)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(ax)


def layer_ticks(ax: Axes, names: Sequence[str]) -> None:
    every = -(-len(names) // MOST_TICKS)
    at = range(0, len(names), every)
    ax.set_xticks(at, [literal(names[i]) for i in at], rotation=90, fontsize=7)


def legend_above(ax: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    ax.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(labels),
        frameon=False,
        fontsize=8,
    )


def legend_below(figure: Figure) -> None:
    """One legend for all axes under them, the figure taller by its rows."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if not entries:
        return
    columns = max(1, min(len(entries), LEGEND_CHARACTERS // (max(map(len, entries)) + 8)))
    rows = -(-len(entries) // columns)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.2 * rows)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )


def plain_axes(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#dddddd", lw=0.6)
    ax.set_axisbelow(True)


def from_zero(ax: Axes) -> None:
    ax.set_ylim(0, 1.02 * ax.get_ylim()[1])


def cell_borders(ax: Axes, rows: int, columns: int) -> None:
    ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)


def literal(text: str) -> str:
    """A name as matplotlib shows it: between two $ it would read a formula, or fail to.

    It also leaves what begins with _ out of a legend.
    """
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def wrapped(text: str, width: int = 18) -> str:
    """A name, literal, broken after -, _ or / into lines of about ``width``."""
    lines = [""]
    for i, character in enumerate(text):
        lines[-1] += character
        if character in "-_/ " and len(lines[-1]) > width / 2 and len(text) - i > width / 3:
            lines.append("")
    return literal("\n".join(lines) if len(text) > width else text)


def or_nan(function: Any, values: np.ndarray) -> float:
    return float(function(values)) if np.isfinite(values).any() else float("nan")


def run_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour, line and marker for each run, the same in every figure; no two of 28 are alike."""
    n = len(COLORS)
    return {
        name: {
            "color": COLORS[i % n],
            "linestyle": LINES[i // n % len(LINES)],
            "marker": MARKERS[(i + i // n) % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }
