"""The report's page: one HTML file with its tables and figures inside, light or dark as the reader.

Nothing is loaded from elsewhere, so the file can be mailed or archived as it is.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from cpt_nas.report import figures as draw
from cpt_nas.report.latency import Latency
from cpt_nas.report.tables import cross_table, noisy_cells, three_digits
from cpt_nas.search.budgets import format_amount
from cpt_nas.train.run_folder import Run

STYLE = """
:root { color-scheme: light dark; --line: #d0d4d9; --soft: #f3f5f7; --text: #1c2024; --dim: #5b6570;
  --page: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4149; --soft: #22272d; --text: #e4e7ea;
  --dim: #a0a8b1; --page: #16191d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid var(--line); }
p, figcaption { color: var(--dim); max-width: 75ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { background: var(--soft); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
"""
MISSING = "–"
FILES = "cpt-nas-report-files"  # the page's list of what is written beside it
PROMISE = 0.05  # by which a measured latency may differ from the predicted one


@dataclass
class Section:
    """A heading, what to look for, and what is below: tables by caption, figures by file name."""

    title: str
    text: str
    notes: Sequence[str] = ()
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


def sections(
    runs: Sequence[Run], tables: Mapping[str, pd.DataFrame], latency: Latency
) -> list[Section]:
    """The page's content.

    Args:
        runs: as loaded.
        tables: runs.csv, structures.csv and budgets.csv, from :mod:`cpt_nas.report.tables`.
        latency: from :mod:`cpt_nas.report.latency`; without settings its section is left out.
    """
    table, structures = tables["runs.csv"], tables["structures.csv"]
    return [
        _runs(runs, table, latency),
        *([_budgets(tables["budgets.csv"])] if len(tables["budgets.csv"]) else []),
        *([_latency(table, latency)] if latency.settings else []),
        *_searches(runs),
        _structures(runs, structures),
        _layers(runs),
        _units(runs, structures),
        *_history(runs),
    ]


def render(content: Sequence[Section], images: dict[str, bytes], files: Sequence[str]) -> str:
    """The page.

    Args:
        content: the sections.
        images: PNG files by the names the sections use.
        files: that are written beside it.
    """
    listed = html.escape(json.dumps(list(files)), quote=True)
    body = "\n".join(_section(section, images) for section in content)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="{FILES}" content="{listed}">\n'
        f"<title>cpt-nas report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>cpt-nas report</h1>\n{body}\n</body>\n</html>\n"
    )


def listed_files(page: str) -> list[str]:
    """The files that a page says are written beside it; none where it is not one of ours."""
    match = re.search(rf'<meta name="{FILES}" content="([^"]*)">', page)
    if match is None:
        return []
    try:
        listed = json.loads(html.unescape(match[1]))
    except json.JSONDecodeError:
        return []
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def _section(section: Section, images: dict[str, bytes]) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>", f"<p>{html.escape(section.text)}</p>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in section.notes]
    for caption, table in section.tables.items():
        rows = table.to_html(index=False, border=0, escape=True, na_rep=MISSING)
        shown = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        parts.append(f'<figure class="wide">{shown}{rows}</figure>')
    for name, figure in section.figures.items():
        encoded = base64.b64encode(images[name]).decode()
        alt = html.escape(f"{section.title}: {name}", quote=True)
        width = round(96 * figure.get_figwidth())  # a browser's pixels an inch
        parts.append(
            f'<figure><img alt="{alt}" width="{width}" src="data:image/png;base64,{encoded}">'
            "</figure>"
        )
    return "<section>\n" + "\n".join(parts) + "\n</section>"


# ---- sections ---------------------------------------------------------------------------------


def _runs(runs: Sequence[Run], table: pd.DataFrame, latency: Latency) -> Section:
    shown = pd.DataFrame(
        {
            "run": [
                name if status == "finished" else f"{name} (running, {done}/{epochs} epochs)"
                for name, status, done, epochs in table[
                    ["name", "status", "epochs_done", "epochs"]
                ].itertuples(index=False)
            ],
            "model": table["model"],
            **{name: table[name].map(_text) for name in ("cost", "profile", "runtime")},
            "accuracy %": table["accuracy"].map(_decimals(2)),
            "MACs M": (table["macs"] / 1e6).map(_decimals(2)),
            "fPR %": table["fPR"].map(_decimals(1)),
            "params k": (table["params"] / 1e3).map(_decimals(1)),
            "pPR %": table["pPR"].map(_decimals(1)),
            "layers left": _of(table["layers_left"], table["layers"]),
            "branches left": _of(table["branches_left"], table["branches"]),
            "units left": _of(table["units_left"], table["units"]),
            "training load": table["train_load"].map(_decimals(2)),
            "wall clock": table["wall_s"].map(_duration),
        }
    )
    unfinished = [run.name for run in runs if not run.finished]
    notes = []
    if unfinished:
        notes.append(f"Still running: {', '.join(unfinished)}; shown as of the last epoch.")
    notes += [f"{run.name}: {doubt}." for run in runs for doubt in run.doubts]
    if not latency.settings:
        notes.append("No profile was given, so there are no latencies.")
    return Section(
        "Runs",
        "fPR and pPR are the percentages of the dense network's MACs and parameters that are"
        " gone. Layers counts convolutions and linear layers, but for those on skip connections."
        " Training load is what training cost in MACs, over what the dense network would have"
        " cost.",
        notes,
        {"": shown},
    )


def _budgets(budgets: pd.DataFrame) -> Section:
    amounts = {
        what: [format_amount(m, v) for m, v in zip(budgets["measure"], budgets[what])]
        for what in ("dense", "budget", "reached")
    }
    measured = budgets["measured_s"].map(
        lambda s: MISSING if pd.isna(s) else format_amount("latency", s)
    )
    shown = pd.DataFrame(
        {
            "run": budgets["run"],
            "budget of": budgets["measure"],
            **amounts,
            "share of the budget %": (100 * budgets["reached"] / budgets["budget"]).map(
                _decimals(1)
            ),
            "binding": budgets["binding"].map({True: "yes", False: "no"}),
            "undecided at the freeze %": (100 * budgets["undecided_at_freeze"]).map(_decimals(1)),
            "gates decided by force": budgets["forced"],
            "measured": measured,
            "off %": (100 * budgets["off"]).map(_decimals(1)),
        }
    )
    notes = []
    noisy = budgets[budgets["verdict"] == "noisy"]
    for run in noisy["run"]:
        notes.append(f"{run}: measured on a noisy machine, which says nothing of the promise.")
    known = budgets[budgets["off"].notna() & (budgets["verdict"] != "noisy")]
    for _, row in known[known["off"].abs() > PROMISE].iterrows():
        notes.append(
            f"{row['run']}: measured {format_amount('latency', row['measured_s'])}, which is not"
            f" within {PROMISE:.0%} of the {format_amount('latency', row['reached'])} that the"
            " profile promised."
        )
    if len(known) and not notes:
        notes.append(f"Every measured latency is within {PROMISE:.0%} of what was promised.")
    return Section(
        "Budgets",
        "What was asked for, and what the found network costs by the profile. Gates decided by"
        " force: those that the budget, not theta, decided when the structure was frozen.",
        notes,
        {"": shown},
    )


def _searches(runs: Sequence[Run]) -> list[Section]:
    figures = {
        f"search_{run.name}": draw.search_figure(run.trace, run.name)
        for run in runs
        if run.trace is not None and len(run.trace)
    }
    if not figures:
        return []
    settled = Section(
        "How the searches settled",
        "From the first step to the freeze: the pruning level, the expected cost and the"
        " target that it follows, and how many gates have which theta (the scale is"
        " logarithmic; gates that have been cut are not counted).",
        figures=figures,
    )
    importance = {
        f"importance_{run.name}": draw.importance_figure(run.allocations, run.name)
        for run in runs
        if run.allocations is not None
        and (run.allocations["threshold_importance_per_cost"] > 0).any()
    }
    if not importance:
        return [settled]
    why = Section(
        "Why it closed",
        "At every allocation: the importance of each branch, and of a unit of each group, over its"
        " marginal cost, compared with the last that had to close for the budget. A dot is a"
        " branch that is not to stay. What is red goes, unless something goes in its place that"
        " could not be told apart from it and has fewer parameters for its cost. Groups also shrink"
        " where they are blue, because a unit is more important the fewer there are.",
        figures=importance,
    )
    return [settled, why]


def _latency(table: pd.DataFrame, latency: Latency) -> Section:
    measured = bool(latency.table["measured_s"].notna().any())
    known = measured or bool(latency.table["predicted_s"].notna().any())
    names = list(table["name"])
    described = [f"{name}: {words}." for name, words in latency.settings.items()]
    figures = {}
    if known:
        figures["latency"] = draw.cross_figure(latency.table, names, measured)
        figures["accuracy_latency"] = draw.accuracy_figure(table, latency.table, measured)
    tables = {"Predicted from the profile": _with_speedups(table, latency, "predicted")}
    if measured:
        tables["Measured here"] = _with_speedups(table, latency, "measured")
    return Section(
        "Latency: every model in every setting",
        "Milliseconds for a forward pass of one batch; in brackets the speed-up over the dense run."
        " The fastest model of each setting is framed, unless its measurement is noisy.",
        [" ".join(described), *latency.notes],
        tables,
        figures,
    )


def _with_speedups(table: pd.DataFrame, latency: Latency, what: str) -> pd.DataFrame:
    """A row a run and a column a setting: milliseconds and the speed-up over the dense run."""
    ms = cross_table(latency.table, list(table["name"]), what)
    noisy = noisy_cells(latency.table, list(table["name"]), what)
    shown = pd.DataFrame({"run": table["name"]})
    for setting in ms.columns:
        cells = zip(ms[setting], table[f"{what}_speedup:{setting}"], noisy[setting], strict=True)
        shown[f"{setting} (ms)"] = [
            MISSING
            if pd.isna(t)
            else three_digits(t) + ("" if pd.isna(s) else f" ({s:.2f}×)") + (", noisy" if n else "")
            for t, s, n in cells
        ]
    return shown


def _structures(runs: Sequence[Run], structures: pd.DataFrame) -> Section:
    figures = {
        f"structures_{model}": draw.structures_figure(rows, names)
        for model, names, rows in _by_model(runs, structures)
    }
    return Section(
        "Structures side by side",
        "Units left in every group of every run, from the network's input at the top to its output"
        if figures
        else "No run has a structure yet.",
        figures=figures,
    )


def _layers(runs: Sequence[Run]) -> Section:
    figures = {}
    for run in runs:
        if run.layers is None or run.kind != "search":
            continue
        figures[f"layers_{run.name}"] = draw.layers_figure(run.layers, run.name)
    return Section(
        "Layers before and after",
        "MACs and parameters of every convolution and linear layer, log scale; layers that were"
        " removed are shaded."
        if figures
        else "No search has finished yet; a dense network's layers stay as they were.",
        figures=figures,
    )


def _units(runs: Sequence[Run], structures: pd.DataFrame) -> Section:
    figures = {
        f"units_{model}": draw.units_figure(rows, names)
        for model, names, rows in _by_model(runs, structures)
    }
    return Section(
        "Units left in every group",
        "Grey: the dense network. A group without blue is gone with its branch."
        if figures
        else "No run has a structure yet.",
        figures=figures,
    )


def _by_model(
    runs: Sequence[Run], structures: pd.DataFrame
) -> list[tuple[str, list[str], pd.DataFrame]]:
    """(model, names of its runs, its rows) for every model some run has a structure of."""
    split = []
    for model in dict.fromkeys(run.model for run in runs if run.structure is not None):
        names = [r.name for r in runs if r.model == model and r.structure is not None]
        rows = structures[structures["model"] == model].reset_index(drop=True)
        if len(rows):
            split.append((model, names, rows))
    return split


def _history(runs: Sequence[Run]) -> list[Section]:
    histories = {run.name: run.history for run in runs if len(run.history)}
    load, progress = {}, {}
    if histories:
        load["training_load"] = draw.training_load_figure(histories)
        progress["progress"] = draw.progress_figure(histories)
    nothing = "No run has ended an epoch yet."
    return [
        Section(
            "Training load",
            "MACs spent in training up to each epoch, over what the dense network would have"
            " spent by then: below 1, because the network is cut while it trains."
            if load
            else nothing,
            figures=load,
        ),
        Section(
            "Accuracy and expected cost",
            "Test accuracy, and the expected cost that the search lowers, after each epoch."
            if progress
            else nothing,
            figures=progress,
        ),
    ]


# ---- cells ------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return value if isinstance(value, str) and value != "none" else MISSING


def _decimals(n: int) -> Callable[[float], str]:
    return lambda value: MISSING if pd.isna(value) else f"{value:.{n}f}"


def _of(left: pd.Series, total: pd.Series) -> list[str]:
    return [
        MISSING if pd.isna(a) or pd.isna(b) else f"{a:.0f}/{b:.0f}"
        for a, b in zip(left, total, strict=True)
    ]


def _duration(seconds: float) -> str:
    if pd.isna(seconds):
        return MISSING
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
