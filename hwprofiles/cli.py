"""The command line: hwprofiles measure | show | compare | check | seal | schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwprofiles._version import __version__
from hwprofiles.cost_profile import describe_setting
from hwprofiles.options import (
    TIME_LIMIT_S,
    BatchSize,
    ChannelsLast,
    DeviceType,
    Dtype,
    InputSize,
    Limit,
    ModelKwargs,
    Models,
    Modules,
    Name,
    NumRounds,
    Output,
    Runtime,
    Seconds,
    Seed,
    Threads,
    check_output,
    create_models_at,
    limited,
)
from hwprofiles.processor import usable_cores
from hwprofiles.profile_file import json_schema, load, save, seal
from hwprofiles.runtimes import RUNTIMES
from hwprofiles.show import show_comparison, show_fused, show_layers, show_summary
from hwprofiles.target import Target, setting_differences
from hwprofiles.terminal import EXIT_DIFFERENT, console, new_app, progress_bar, run_app

app = new_app("hwprofiles", "What does each layer of a model cost on this device?", __version__)


@app.command()
def measure(
    models: Models,
    output: Output,
    input_size: InputSize = None,
    batch_size: BatchSize = 1,
    device: DeviceType = "cpu",
    threads: Threads = None,
    dtype: Dtype = "float32",
    channels_last: ChannelsLast = False,
    runtime: Runtime = "eager",
    modules: Modules = None,
    model_kwargs: ModelKwargs = None,
    name: Name = None,
    rounds: NumRounds = 15,
    seconds: Seconds = 8.0,
    time_limit: Limit = TIME_LIMIT_S,
    seed: Seed = 0,
) -> None:
    """Measure every layer of some models, and the models, on this device.

    Example: hwprofiles measure resnet18 --batch-size 1 --threads 1 -o resnet18.yaml

    Example: hwprofiles measure resnet18 resnet50 --input-size 3 160 160 -o resnets.yaml
    """
    from hwprofiles.measure import measure as measure_models

    check_output(output)
    built, size = create_models_at(models, modules or [], input_size, model_kwargs or [])
    with progress_bar() as report:
        profile = measure_models(
            built,
            size,
            batch_size=batch_size,
            device=device,
            threads=threads or usable_cores(),
            dtype=dtype,
            channels_last=channels_last,
            runtime=runtime,
            name=name,
            rounds=rounds,
            min_s=seconds,
            seed=seed,
            progress=limited(report, time_limit, seconds),
        )
    save(profile, output)
    show_summary(profile)
    console.print(f"wrote {output}")


@app.command()
def show(
    file: Annotated[str, typer.Argument(help="A profile, or the name of one that is shipped.")],
    fused: Annotated[
        bool, typer.Option("--fused", help="Also which layers the runtime runs as one.")
    ] = False,
) -> None:
    """Print a profile as tables. Example: hwprofiles show resnet18.yaml"""
    profile = load(file)
    show_summary(profile)
    show_layers(profile)
    if fused:
        show_fused(profile)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A profile.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
) -> None:
    """Print two profiles side by side. Example: hwprofiles compare laptop.yaml server.yaml"""
    show_comparison(load(a), load(b))


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="A profile, or the name of one that is shipped.")],
    device: Annotated[str | None, typer.Option(help="Of the target: cpu or cuda.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of the target.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the target.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the target.")] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last/--contiguous", help="Of the target.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Of the target, such as eager or onnxruntime.")
    ] = None,
) -> None:
    """Does a profile hold on this machine, in this setting? If not, exit code 1 and what differs.

    Run it where the network is going to run. A setting that is not given is not compared. Says,
    too, where the profile itself is doubtful, such as noisy; that alone is no difference.

    Example: hwprofiles check resnet18.yaml --batch-size 1 --threads 1
    """
    profile = load(file)
    of_kits = {profile.workload.runtime} - {*RUNTIMES}  # theirs is what the table names
    for field, value, allowed in (
        ("device", device, ("cpu", "cuda")),
        ("dtype", dtype, ("float32", "bfloat16")),
        ("runtime", runtime, (*of_kits, *RUNTIMES)),
    ):
        if value is not None and value not in allowed:
            raise ValueError(
                f"{field}: {value!r}, allowed are {', '.join(allowed[:-1])} and {allowed[-1]}"
            )
    target = Target.model_validate(
        {
            "device": device,
            "batch_size": batch_size,
            "dtype": dtype,
            "threads": threads,
            "channels_last": channels_last,
            "runtime": runtime,
        }
    )
    found = setting_differences(profile, target) + profile.check()
    for line in [*found, *(f"doubtful: {doubt}" for doubt in profile.doubts())]:
        print(line)
    if found:
        raise typer.Exit(EXIT_DIFFERENT)
    print(
        f"{profile.name}: this machine and software ({profile.fingerprint_id}); "
        f"{describe_setting(profile)}"
    )


@app.command("seal")
def seal_(file: Annotated[Path, typer.Argument(help="A profile that was edited.")]) -> None:
    """Make a profile that was edited by hand usable again; it says from then on that it was.

    Example: hwprofiles seal resnet18.yaml
    """
    profile = seal(file)
    edited = "edited by hand" if profile.created.edited else "as it was measured"
    print(f"{file}: {profile.name}, {edited}")


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="A page to read instead.")] = False,
) -> None:
    """Print the file format as JSON schema. Example: hwprofiles schema > profile.schema.json"""
    if markdown:
        from hwprofiles.schema_doc import schema_page

        print(schema_page())
    else:
        print(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Console entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
