"""Run folders compared: tables as CSV, figures, and one HTML page that holds them all."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cpt_nas.report import tables
from cpt_nas.report.latency import latency, load_profiles
from cpt_nas.train.run_folder import load_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
FIGURES = "figures"
DPI = 130  # sharp on most screens, and a page of a megabyte


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    profiles: Sequence[str | Path] = (),
    measure: bool = False,
    console: Console | None = None,
) -> Path:
    """Compare runs: tables as CSV, and report.html.

    Tables: runs, budgets, layers, history, search, structures, latency and the pivot cross.

    The page's figures are written as PNG files as well.

    Args:
        runs: run folders; unfinished ones are shown as they stand.
        out: the folder to write; made if missing, the files of an older report are replaced.
        profiles: files, or names of shipped ones; none: those the runs were searched under.
        measure: also measure every finished network here, in each profile's setting.
        console: where progress goes; None: stderr.

    Returns:
        The page.

    Raises:
        ValueError: a run folder or profile that is missing or broken, or a setting that cannot be
            measured here; names it. Nothing has been written then.
        FileNotFoundError: no such profile.
    """
    from cpt_nas.report import page

    loaded = load_runs(runs)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"output: {out} is a file, must be a folder")
    chosen = load_profiles(profiles, loaded)
    if measure and not chosen:
        raise ValueError("--measure: needs a profile for its setting, and the runs have none")
    times = latency(loaded, chosen, measure, console or Console(stderr=True))
    contents = {
        "runs.csv": tables.runs_table(loaded, times.table),
        "layers.csv": tables.layers_table(loaded),
        "history.csv": tables.history_table(loaded),
        "structures.csv": tables.structures_table(loaded),
        "latency.csv": times.table,
        "budgets.csv": tables.budgets_table(loaded, times.table),
        "search.csv": tables.traces_table(loaded),
        "allocations.csv": tables.allocations_table(loaded),
        "cross.csv": tables.both_cross_tables(times.table, [run.name for run in loaded]),
    }
    content = page.sections(loaded, contents, times)
    images = {n: _png(f) for section in content for n, f in section.figures.items()}

    files = {name: table.to_csv(index=False).encode() for name, table in contents.items()}
    files |= {f"{FIGURES}/{_file_name(n)}.png": data for n, data in images.items()}
    files[PAGE] = page.render(content, images).encode()
    _write(out, files)
    return out / PAGE


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _write(out: Path, files: dict[str, bytes]) -> None:
    """All files or, where one cannot be written, none."""
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".") as temporary:
        for name, data in files.items():
            path = Path(temporary) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        for name in files:
            os.replace(Path(temporary) / name, out / name)
