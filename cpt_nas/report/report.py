"""Run folders compared: tables as CSV, figures, and one HTML page that holds them all."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cpt_nas.report import tables
from cpt_nas.report.latency import latency, load_profiles
from cpt_nas.train.run_folder import RECIPE, Run, load_runs
from hwprofiles.messages import one_line
from hwprofiles.output import refuse_foreign_folder, write_folder
from hwprofiles.streams import PlainConsole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
FIGURES = "figures"
DPI = 130  # sharp on most screens, and a page of a megabyte
LONGEST_NAME = 60  # characters of a file's name: four bytes each still fit a file system


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    profiles: Sequence[str | Path] = (),
    measure: bool = False,
    console: Console | None = None,
    time_limit: float = math.inf,
) -> Path:
    """Compare runs: tables as CSV, and report.html.

    Tables: runs, budgets, layers, history, search, structures, latency and the pivot cross.

    The page's figures are written as PNG files as well.

    Args:
        runs: run folders; unfinished ones are shown as they stand.
        out: the folder to write; made if missing. The files of an older report are replaced, what
            else lies beside them stays, and the page comes last: where it is, the report is whole.
        profiles: files, or names of shipped ones; none: those the runs were searched under.
        measure: also measure every finished network here, in each profile's setting.
        console: where progress goes; None: stderr.
        time_limit: seconds that measuring may take, of all profiles together.

    Returns:
        The page.

    Raises:
        ValueError: an output folder that holds something else, a run folder or profile that is
            missing or broken, or a setting that cannot be measured here; names it. Nothing has been
            written then.
        FileNotFoundError: no such profile.
        TimeoutError: measuring took too long.
    """
    from cpt_nas.report import page

    out = Path(out)
    refuse_foreign_folder(out, "a report", PAGE, is_report)
    loaded = named_apart(load_runs(runs))
    chosen = load_profiles(profiles, loaded)
    if measure and not chosen:
        raise ValueError("--measure: needs a profile for its setting, and the runs have none")
    times = latency(loaded, chosen, measure, console or PlainConsole(stderr=True), time_limit)
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
    pictures = file_names(images)
    files |= {f"{FIGURES}/{pictures[name]}.png": data for name, data in images.items()}
    files[PAGE] = page.render(content, images, list(files)).encode()
    write_folder(out, files, PAGE, own_files)
    return out / PAGE


def named_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs under names that can be printed, and that are no other column of a table."""
    taken = set(tables.STRUCTURES_INDEX)
    named = []
    for run in runs:
        plain = one_line(run.name)
        choices = (plain, f"{one_line(run.folder.resolve().parent.name)}/{plain}")
        numbered = (f"{plain} ({n})" for n in itertools.count(2))
        name = next(name for name in itertools.chain(choices, numbered) if name not in taken)
        taken.add(name)
        named.append(dataclasses.replace(run, name=name))
    return named


def is_report(folder: Path) -> bool:
    """Whether a folder holds a report, and is not a run's."""
    file = folder / PAGE
    if (folder / RECIPE).exists() or not file.is_file():
        return False
    return bool(own_files(file.read_text(encoding="utf-8", errors="replace")))


def own_files(text: str) -> list[str]:
    """The files that a page says it came with."""
    from cpt_nas.report import page

    ours = re.compile(rf"\w+\.csv|{FIGURES}/[^/]+\.png|{re.escape(PAGE)}")
    return [name for name in page.listed_files(text) if ours.fullmatch(name)]


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Figure -> a file's name without its suffix; no two are alike, whatever the names hold."""
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name)[:LONGEST_NAME]
        several = itertools.count(2)
        choice = plain
        while choice.lower() in taken:  # some file systems do not tell capitals apart
            choice = f"{plain}-{next(several)}"
        taken.add(choice.lower())
        chosen[name] = choice
    return chosen
