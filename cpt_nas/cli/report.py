"""The commands cpt-nas report and cpt-nas demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cpt_nas.cli import options
from cpt_nas.cli.options import Output, Runs
from hwprofiles.options import TIME_LIMIT_S, Limit


def report(
    runs: Runs,
    output: Output,
    profile: Annotated[
        list[str] | None, typer.Option(help="Predict latency under this profile; repeatable.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure every model in every profile's setting.")
    ] = False,
    time_limit: Limit = TIME_LIMIT_S,
) -> None:
    """Compare runs: tables (CSV) and one HTML page.

    Example: cpt-nas report runs/dense runs/cpu --profile cpu.yaml --measure -o report
    """
    from cpt_nas.report.report import report as make

    make(runs, output, profile or (), measure=measure, time_limit=time_limit)
    options.out.print(f"{output / 'report.html'}", soft_wrap=True)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("demo"),
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of each training.")] = 20,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="To profile and search for; repeatable. Default is eager and, where it is "
            "installed, onnxruntime or openvino.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """The main job on scikit-learn's digits: measure, train, cut, export, compare.

    Profiles this machine in two runtimes (one thread, batch 1; where eager mode is the only one,
    also with all threads and batch 256), trains a dense network and one search per profile, and
    measures every model in every setting.
    """
    from cpt_nas.cli.demo import run

    run(output, epochs, options.out, runtime)
