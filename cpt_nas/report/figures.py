"""The report's figures; each function takes tables and returns a matplotlib Figure.

White background and dark text throughout, so that a figure reads the same on a light and on a
dark page, and in print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from cpt_nas.report.axes import (
    COLORS,
    DENSE_COLOR,
    WIDTH,
    cell_borders,
    from_zero,
    history_lines,
    layer_ticks,
    legend_above,
    legend_below,
    literal,
    new_figure,
    or_nan,
    plain_axes,
    run_styles,
    wrapped,
)
from cpt_nas.report.tables import (
    count_layers,
    cross_table,
    noisy_cells,
    removed,
    three_digits,
    weight_layers,
)

# Okabe and Ito's colours, told apart with colour-blind eyes and in grey; yellow left out.
GONE_COLOR = "#e4e4e4"


def layers_figure(layers: pd.DataFrame, name: str) -> Figure:
    """MACs and parameters of every weight layer before and after, log scale (paper's Figure 2)."""
    weights = weight_layers(layers)
    gone = removed(weights).to_numpy()
    at = np.arange(len(weights))
    figure = new_figure(height=5.6)
    axes = figure.subplots(2, 1, sharex=True)
    for ax, what, label in zip(axes, ("macs", "params"), ("MACs", "parameters"), strict=True):
        for i in at[gone]:
            ax.axvspan(i - 0.5, i + 0.5, color=GONE_COLOR, lw=0)
        left = weights[what].where(weights[what] > 0)  # a gap in the line where nothing is left
        ax.plot(at, weights[f"{what}_dense"], "o-", color=DENSE_COLOR, ms=4, lw=1, mfc="white")
        ax.plot(at, left, "o-", color=COLORS[0], ms=4, lw=1.5)
        ax.set_yscale("log")
        ax.set_ylabel(f"{label} (log scale)")
        plain_axes(ax)
        ax.grid(axis="x", visible=False)
    layer_ticks(axes[1], list(weights["name"]))
    axes[1].set_xlim(-0.6, len(weights) - 0.4)
    lines = axes[0].get_lines()
    handles = [lines[0], lines[1], Patch(color=GONE_COLOR)]
    legend_above(axes[0], handles, ["dense", "after the search", "removed"])
    left_now, dense = count_layers(layers)
    figure.suptitle(f"{literal(name)}: {left_now:.0f} of {dense:.0f} weight layers left")
    return figure


def units_figure(structures: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Units left in every group, a panel a run, one model (paper's Figure 3)."""
    at = np.arange(len(structures))
    figure = new_figure(height=1.0 + 1.5 * len(names))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        ax.bar(at, structures["total"], width=0.8, color=GONE_COLOR, label="dense")
        ax.bar(at, structures[name], width=0.8, color=COLORS[0], label="left")
        ax.set_title(literal(name), fontsize=9, loc="left")
        ax.set_ylabel("units")
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        plain_axes(ax)
        ax.grid(axis="x", visible=False)
    layer_ticks(axes[-1], group_labels(structures))
    axes[-1].set_xlim(-0.6, len(structures) - 0.4)
    handles, labels = axes[0].get_legend_handles_labels()
    legend_above(axes[0], handles, labels)
    return figure


def structures_figure(structures: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Share of units left, a row a group and a column a run, one model."""
    kept = structures[list(names)].to_numpy()
    totals = structures["total"].to_numpy()
    share = np.where(kept > 0, kept / totals[:, None], np.nan)
    figure = new_figure(
        width=min(WIDTH, 3.2 + 1.5 * len(names)), height=1.3 + 0.26 * len(structures)
    )
    ax = figure.subplots()
    colors = matplotlib.colormaps["Blues"].with_extremes(bad=GONE_COLOR)
    image = ax.imshow(share, aspect="auto", cmap=colors, norm=Normalize(0, 1))
    for row, column in np.ndindex(*share.shape):
        value = kept[row, column]
        text = "" if np.isnan(value) else "removed" if value == 0 else f"{value:.0f}/{totals[row]}"
        color = "white" if share[row, column] > 0.6 else "#333333"
        ax.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    ax.set_xticks(range(len(names)), [wrapped(name) for name in names], fontsize=8)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(structures)), [*map(literal, group_labels(structures))], fontsize=7)
    cell_borders(ax, *share.shape)
    figure.colorbar(image, ax=ax, label="share of units left", fraction=0.05, pad=0.03)
    return figure


def training_load_figure(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """MACs spent so far over what the dense network would have spent (paper's Figure 4)."""
    figure = new_figure(height=3.6)
    ax = figure.subplots()
    history_lines(ax, histories, "train_load")
    ax.axhline(1, color=DENSE_COLOR, lw=0.8, ls=(0, (4, 4)))
    ax.set_ylabel("cumulative training load\n(share of the dense network's MACs)")
    from_zero(ax)
    ax.set_xlabel("epoch")
    legend_below(figure)
    return figure


def progress_figure(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Test accuracy and expected cost, over epochs."""
    figure = new_figure(height=5.4)
    axes = figure.subplots(2, 1, sharex=True)
    history_lines(axes[0], histories, "test_acc")
    axes[0].set_ylabel("test accuracy (%)")
    history_lines(axes[1], histories, "expected_cost")
    axes[1].set_ylabel("expected cost\n(share of the dense network's)")
    from_zero(axes[1])
    axes[1].set_xlabel("epoch")
    legend_below(figure)
    return figure


def search_figure(trace: pd.DataFrame, name: str) -> Figure:
    """The search over its steps: log gamma, cost and target, and theta's histogram."""
    columns = [str(c) for c in trace.columns]
    measures = [c.removeprefix("log_gamma:") for c in columns if c.startswith("log_gamma:")]
    figure = new_figure(height=6.4)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1.3, 1.3])
    steps = trace["step"].to_numpy()
    for i, measure in enumerate(measures):
        color = COLORS[i % len(COLORS)]
        shown_as = literal(measure)
        level = trace[f"log_gamma:{measure}"]
        axes[0].plot(steps, level.where(level > 0), color=color, label=shown_as)
        axes[1].plot(steps, trace[f"cost:{measure}"], color=color, label=f"{shown_as}, expected")
        if trace[f"target:{measure}"].notna().any():
            label = f"{shown_as}, target"
            axes[1].plot(steps, trace[f"target:{measure}"], color=color, ls="--", label=label)
    axes[0].set_ylabel("log γ")
    if (trace[[f"log_gamma:{m}" for m in measures]] > 0).any(axis=None):
        axes[0].set_yscale("log")
    axes[1].set_ylabel("share of the\ndense network's cost")
    for ax in axes[:2]:
        plain_axes(ax)
        ax.legend(frameon=False, fontsize=8)
    from_zero(axes[1])
    counts = trace[[c for c in columns if c.startswith("theta_")]].to_numpy(dtype=float).T
    edges = np.concatenate([[2 * steps[0] - steps[1] if len(steps) > 1 else 0], steps])
    shown = np.where(counts > 0, counts, np.nan)
    norm = LogNorm(1, max(2.0, np.nanmax(shown, initial=2.0)))
    image = axes[2].pcolormesh(
        edges, np.linspace(0, 1, len(counts) + 1), shown, cmap="Blues", norm=norm
    )
    axes[2].set_ylabel("θ")
    axes[2].set_xlabel("step")
    figure.colorbar(image, ax=axes[2], label="gates", pad=0.01)
    figure.suptitle(literal(name))
    return figure


def importance_figure(allocations: pd.DataFrame, name: str) -> Figure:
    """Importance per cost of every branch and group at every allocation, over the threshold then.

    Blue is above the threshold, red below; a dot is a branch that is not to stay. A cell is empty
    where the branch is gone.
    """
    threshold = "threshold_importance_per_cost"
    allocations = allocations[allocations[threshold] > 0]
    groups = allocations["group"].where(allocations["group"] == "", " / " + allocations["group"])
    labels = allocations["branch"] + groups
    allocations = allocations.assign(
        label=labels,
        ratio=allocations["importance_per_cost"] / allocations[threshold],
    )
    rows = list(dict.fromkeys(allocations["label"]))
    steps = sorted(allocations["step"].unique())
    ratios = allocations.pivot_table(index="label", columns="step", values="ratio").loc[rows]
    kept = allocations.pivot_table(index="label", columns="step", values="kept").loc[rows]
    width = min(WIDTH, 3.5 + 0.4 * len(steps))
    figure = new_figure(width=width, height=1.6 + 0.22 * len(rows))
    ax = figure.subplots()
    colors = matplotlib.colormaps["RdBu"].with_extremes(bad="white")
    shown = ratios.clip(lower=0.1).to_numpy()
    image = ax.imshow(shown, aspect="auto", cmap=colors, norm=LogNorm(0.1, 10))
    for row, column in np.argwhere(kept.to_numpy() == 0):
        if " / " not in rows[row]:
            ax.plot(column, row, ".", color="#222222")
    ax.set_xticks(range(len(steps)), [str(step) for step in steps], fontsize=7, rotation=90)
    ax.set_yticks(range(len(rows)), [literal(row) for row in rows], fontsize=7)
    ax.set_xlabel("step")
    cell_borders(ax, len(rows), len(steps))
    figure.colorbar(image, ax=ax, label="importance per cost / threshold", pad=0.02)
    figure.suptitle(literal(name))
    return figure


def cross_figure(latency: pd.DataFrame, names: Sequence[str], measured: bool) -> Figure:
    """Every model in every setting: milliseconds, coloured by the share of the setting's slowest.

    The fastest of a setting is framed, unless it was measured on a noisy machine: then none is, and
    the cell says so. Below the time stands what the profile predicted, where both are known.
    """
    verb = "measured" if measured else "predicted"
    shown = cross_table(latency, names, verb)
    ms = shown.to_numpy()
    predicted_ms = cross_table(latency, names, "predicted").to_numpy()
    noisy = noisy_cells(latency, names, verb).to_numpy()
    rows, columns = ms.shape
    slowest = np.array([or_nan(np.nanmax, ms[:, c]) for c in range(columns)])
    figure = new_figure(width=min(WIDTH, 3.2 + 2.2 * columns), height=1.5 + 0.5 * rows)
    ax = figure.subplots()
    colors = matplotlib.colormaps["YlGnBu"].with_extremes(bad=GONE_COLOR)
    image = ax.imshow(ms / slowest, aspect="auto", cmap=colors, norm=Normalize(0, 1.3))
    for row, column in np.ndindex(rows, columns):
        value, guess = float(ms[row, column]), float(predicted_ms[row, column])
        text = "not known" if np.isnan(value) else f"{three_digits(value)} ms"
        if noisy[row, column]:
            text += ", noisy"
        if measured and not np.isnan(guess):
            text += f"\npredicted {three_digits(guess)} ms"
        dark = value / slowest[column] > 0.75
        color = "white" if dark else "#222222"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    for column in range(columns):
        if np.isfinite(slowest[column]):
            best = int(np.nanargmin(ms[:, column]))
            if noisy[best, column]:
                continue
            frame = Rectangle((column - 0.48, best - 0.46), 0.96, 0.92, fill=False, lw=2.5)
            frame.set_edgecolor(COLORS[1])
            ax.add_patch(frame)
    ax.set_xticks(range(columns), [wrapped(c) for c in shown.columns], fontsize=9)
    ax.xaxis.tick_top()
    ax.set_yticks(range(rows), [wrapped(name) for name in names], fontsize=9)
    cell_borders(ax, rows, columns)
    label = f"{verb}, share of the slowest"
    bar = figure.colorbar(image, ax=ax, label=label, fraction=0.06, pad=0.03)
    bar.ax.set_ylim(0, 1)
    return figure


def accuracy_figure(runs: pd.DataFrame, latency: pd.DataFrame, measured: bool) -> Figure:
    """Accuracy against latency, a panel a setting; the bars are the measurements' quartiles.

    Dashed: the Pareto front, no run is both faster and more accurate than its corners. Noisy
    measurements are hollow and not on it.
    """
    settings = list(dict.fromkeys(latency["profile"]))
    figure = new_figure(height=3.8)
    axes = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    styles = run_styles(list(runs["name"]))
    accuracy = dict(zip(runs["name"], runs["accuracy"], strict=True))
    what = "measured" if measured else "predicted"
    known = latency[latency[f"{what}_s"].notna()]
    for ax, setting in zip(axes, settings, strict=True):
        for row in known[known["profile"] == setting].to_dict("records"):
            style = styles[row["run"]]
            x = 1e3 * row[f"{what}_s"]
            quartiles = [[x - 1e3 * row["q25_s"]], [1e3 * row["q75_s"] - x]]
            ax.errorbar(
                x,
                accuracy[row["run"]],
                xerr=quartiles if measured else None,
                fmt=style["marker"],
                color=style["color"],
                mfc="white" if row["verdict"] == "noisy" else style["color"],
                ms=8,
                capsize=3,
                label=literal(row["run"]),
            )
        here = known[(known["profile"] == setting) & (known["verdict"] != "noisy")]
        front = pareto(here[f"{what}_s"] * 1e3, here["run"].map(accuracy))
        ax.step(*front, where="post", color=DENSE_COLOR, lw=1, ls="--", zorder=0)
        ax.set_title(wrapped(setting, 34), fontsize=9)
        ax.set_xlabel(f"{what} latency of a batch (ms)")
        ax.set_xlim(0, 1.05 * ax.get_xlim()[1])
        plain_axes(ax)
    shown = runs["accuracy"][runs["name"].isin(known["run"])]
    margin = max(0.5, 0.15 * (shown.max() - shown.min()))
    if shown.notna().any():
        axes[0].set_ylim(shown.min() - margin, shown.max() + margin)
    axes[0].set_ylabel("test accuracy (%)")
    legend_below(figure)
    return figure


def pareto(latency: pd.Series, accuracy: pd.Series) -> tuple[list[float], list[float]]:
    """(latencies, accuracies) of the runs that no other run beats in both, by latency."""
    front: tuple[list[float], list[float]] = ([], [])
    pairs = zip(latency, accuracy, strict=True)
    for x, y in sorted(((x, y) for x, y in pairs if np.isfinite(y)), key=lambda p: (p[0], -p[1])):
        if not front[1] or y > front[1][-1]:
            front[0].append(x)
            front[1].append(y)
    return front


def group_labels(structures: pd.DataFrame) -> list[str]:
    """'branch' where branches have one group, else 'branch / group'."""
    several = structures["branch"].duplicated().any()
    pairs = zip(structures["branch"], structures["group"], strict=True)
    return [f"{branch} / {group}" if several and group else branch for branch, group in pairs]
