"""Figures: what is drawn, and that nothing overlaps."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from cpt_nas.report import figures, tables
from cpt_nas.train.run_folder import load_runs
from tests.support.run_folders import LAYER_COLUMNS, LAYERS, allocations, history, latency_of, trace


def test_removed_layers_are_shaded(runs):
    _, run = load_runs(runs)
    figure = figures.layers_figure(run.layers, "searched")
    macs, params = figure.axes
    for ax, what in ((macs, "macs"), (params, "params")):
        spans = [p for p in ax.patches if isinstance(p, Rectangle)]
        assert [p.get_x() + 0.5 for p in spans] == [1, 2]  # layer1.0's convs
        assert ax.get_yscale() == "log"
        before, after = (line.get_ydata() for line in ax.get_lines())
        weights = [row for row in LAYERS if row[1] in ("conv2d", "linear")]
        column = LAYER_COLUMNS.index(what)
        assert list(before) == [row[column - 2] for row in weights]
        shown = [np.nan if row[column] == 0 else row[column] for row in weights]
        np.testing.assert_array_equal(after, shown)
    assert [t.get_text() for t in params.get_xticklabels()] == [row[0] for row in weights]


def test_units_and_structures_figures(runs):
    structures = tables.structures_table(load_runs(runs))
    figure = figures.units_figure(structures, ["dense", "searched"])
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == [4, 8, 8, 0, 3, 8]  # totals, then what is left
    figure = figures.structures_figure(structures, ["dense", "searched"])
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts == ["4/4", "removed", "8/8", "3/8", "8/8", "8/8"]


def test_the_fastest_of_each_setting_is_framed():
    nan = float("nan")
    table = latency_of({"x": {"a": 3e-3, "b": 2e-3, "c": nan}, "y": {"a": 0.1, "b": 0.5, "c": nan}})
    figure = figures.cross_figure(table, ["a", "b", "c"], measured=True)
    frames = [(round(p.get_x() + 0.48), round(p.get_y() + 0.46)) for p in figure.axes[0].patches]
    assert frames == [(0, 1), (1, 0)]
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[0] == "3.00 ms\npredicted 1.00 ms"
    assert texts[3] == "500 ms\npredicted 1.00 ms"
    assert texts[4].startswith("not known")


def test_noisy_cells_are_never_framed_and_not_on_the_front():
    times = {"x": {"a": 3e-3, "b": 2e-3}, "y": {"a": 0.1, "b": 0.5}}
    table = latency_of(times, noisy=[("x", "b"), ("y", "b")])
    figure = figures.cross_figure(table, ["a", "b"], measured=True)
    frames = [(round(p.get_x() + 0.48), round(p.get_y() + 0.46)) for p in figure.axes[0].patches]
    assert frames == [(1, 0)]
    texts = [t.get_text().splitlines()[0] for t in figure.axes[0].texts]
    assert texts == ["3.00 ms", "100 ms", "2.00 ms, noisy", "500 ms, noisy"]
    predicted = figures.cross_figure(table, ["a", "b"], measured=False)
    assert "noisy" not in "".join(t.get_text() for t in predicted.axes[0].texts)
    accuracies = pd.DataFrame({"name": ["a", "b"], "accuracy": [80.0, 90.0]})
    ax = figures.accuracy_figure(accuracies, table, measured=True).axes[0]
    hollow = [container.lines[0].get_markerfacecolor() == "white" for container in ax.containers]
    assert hollow == [False, True]
    assert ax.get_lines()[-1].get_xydata().tolist() == [[3.0, 80.0]]  # not the noisy, faster b


def test_accuracy_against_latency_shows_only_what_is_known():
    table = latency_of({"x": {"a": 3e-3, "b": float("nan")}})
    accuracies = pd.DataFrame({"name": ["a", "b"], "accuracy": [90.0, 80.0]})
    figure = figures.accuracy_figure(accuracies, table, measured=True)
    (ax,) = figure.axes
    assert [c.get_label() for c in ax.containers] == ["a"]
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[3.0, 90.0]]
    assert "(ms)" in ax.get_xlabel()
    low, high = ax.get_ylim()
    assert low < 90 < high


NAMES = [f"a-rather-long-run-name-of-number-{i}" for i in range(20)]


@pytest.mark.filterwarnings("error")  # matplotlib warns where it gives up the layout
def test_many_layers_and_long_names_keep_apart():
    table = latency_of({"one-thread-batch-1": dict.fromkeys(NAMES, 1e-3), "y": {}})
    cross = figures.cross_figure(table, NAMES, measured=True)
    layers = pd.DataFrame(
        [(f"layer{i}.conv1", "conv2d", "", False, 9, 9, 9, 9) for i in range(156)],
        columns=LAYER_COLUMNS,
    )
    many = figures.layers_figure(layers, "deep")
    for figure, labels in (
        (cross, cross.axes[0].get_yticklabels()),
        (many, many.axes[1].get_xticklabels()),
    ):
        figure.savefig(io.BytesIO(), format="png")  # lays it out
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) > 5
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


@pytest.mark.filterwarnings("error")
def test_a_long_legend_leaves_the_axes_their_room():
    histories = {name: history(3, True) for name in NAMES}
    accuracies = pd.DataFrame({"name": NAMES, "accuracy": 90.0})
    times = latency_of({"x": dict.fromkeys(NAMES, 1e-3)})
    for figure in (
        figures.progress_figure(histories),
        figures.training_load_figure(histories),
        figures.accuracy_figure(accuracies, times, measured=True),
    ):
        figure.savefig(io.BytesIO(), format="png")
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == NAMES
        inside = figure.bbox.padded(2)  # pixels, for rounding
        assert inside.containsx(legend.get_window_extent().x0)
        assert inside.containsx(legend.get_window_extent().x1)
        for ax in figure.axes:
            height, width = ax.get_window_extent().size[::-1] / figure.dpi
            assert height > 1.5  # inches
            assert width > 5
            assert not ax.get_tightbbox().overlaps(legend.get_window_extent())


def test_importance_is_drawn_where_there_was_a_threshold() -> None:
    figure = figures.importance_figure(allocations(), "x")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "a / g", "b", "b / g"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["50", "75"]
    assert len(ax.lines) == 1  # the branch that was to close


def test_the_pareto_front_is_what_nothing_beats() -> None:
    times, accuracies = pd.Series([3.0, 1.0, 2.0, 2.5]), pd.Series([90.0, 70.0, 85.0, 80.0])
    assert figures.pareto(times, accuracies) == ([1.0, 2.0, 3.0], [70.0, 85.0, 90.0])
    assert figures.pareto(pd.Series(dtype=float), pd.Series(dtype=float)) == ([], [])


def test_a_search_of_one_row_is_drawn() -> None:
    figure = figures.search_figure(trace().head(1), "x")
    assert len(figure.axes) >= 3
