"""The command cpt-nas export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cpt_nas.cli import options
from cpt_nas.cli.options import Output
from hwprofiles.terminal import progress_bar

if TYPE_CHECKING:
    from cpt_nas.deploy.deploy import Deployed
    from cpt_nas.deploy.latency import Latency


def export(
    run: Annotated[
        Path, typer.Argument(help="A finished run folder, or a folder exported for timm.")
    ],
    output: Output,
    format_: Annotated[
        str, typer.Option("--format", help="timm, onnx, openvino, executorch or torchscript.")
    ] = "timm",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Examples a call; default is the profile's, else 1."),
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="The file takes any batch.")
    ] = False,
    img_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width; default is as trained.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Pictures to compare outputs on; default is the run's test pictures."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Whose promise is shown; default is the run's own profile.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, to run it on.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default is the profile's, else 1.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16, that the runtime computes in.")
    ] = None,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Measure latency, dense and cut.")
    ] = True,
) -> None:
    """Write a run's network in the format that it is deployed in.

    Outputs are compared with the plain model's, and refused where they differ; the latency of the
    dense and of the cut network is measured in the format's runtime and printed beside the promise.

    Examples:

      cpt-nas export runs/cpu -o model, then in Python: import cpt_nas;
      timm.create_model('local-dir:model', pretrained=True)

      cpt-nas export runs/cpu --format onnx --dynamic-batch -o deployed
    """
    from cpt_nas.deploy.deploy import Wanted, deploy

    wanted = Wanted(
        format=format_,
        batch_size=batch_size,
        dynamic_batch=dynamic_batch,
        img_size=img_size,
        device=device,
        threads=threads,
        dtype=dtype,
        data=data,
        profile=profile,
        timing=timing,
    )
    with progress_bar() as report:
        done = deploy(run, output, wanted, report)
    show(done, format_)


def show(done: Deployed, format_: str) -> None:
    """What was written, and what is known of it, on the console."""
    listed = ", ".join(f"{name} ({size / 1e6:.3g} MB)" for name, size in done.sizes.items())
    _say(f"{done.folder}: {format_}: {listed}")
    if done.inputs.why is not None:
        _say(f"no pictures: {done.inputs.why}")
    compared = done.comparison
    _say(
        f"outputs on {done.inputs.words}: the largest difference from the plain model's is "
        f"{compared.difference:.2g} of the largest one (allowed is {done.allowed:g}), the same "
        f"class for {compared.same_class} of {compared.n}"
    )
    if done.latency is not None:
        show_latency(done.latency)
    if format_ == "timm":
        _say(f"timm.create_model('local-dir:{done.folder}', pretrained=True)")


def show_latency(latency: Latency) -> None:
    """Measured beside promised, in milliseconds a call."""
    promise = latency.promise
    known = promise.seconds if promise is not None else {}
    table = Table("latency", "measured ms", "quartiles", "promised ms")
    seconds = {label: m.median_s for label, m in latency.measured.items()}
    for label, m in latency.measured.items():
        said = f"{1e3 * known[label]:.3f}" if label in known else ""
        quartiles = f"{1e3 * m.q25_s:.3f}-{1e3 * m.q75_s:.3f}"
        noisy = " (noisy)" if m.verdict != "ok" else ""
        table.add_row(label, f"{1e3 * m.median_s:.3f}{noisy}", quartiles, said)
    if len(seconds) > 1:
        ratio = f"{known['cut'] / known['dense']:.3f}" if known else ""
        table.add_row("cut / dense", f"{seconds['cut'] / seconds['dense']:.3f}", "", ratio)
    options.out.print(table)
    _say(f"measured in {latency.setting}")
    if promise is None:
        _say("no promise: there is no profile; --profile names one")
        return
    _say(f"promised by {promise.name}: {promise.setting}")
    for note in promise.notes:
        _say(note)


def _say(line: str) -> None:
    options.out.print(line, markup=False, highlight=False, soft_wrap=True)
