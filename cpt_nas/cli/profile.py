"""The commands cpt-nas profile and cpt-nas validate-profile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

import hwprofiles
from cpt_nas.cli.options import EXTRAS
from hwprofiles.cost_profile import describe_setting, setting_of
from hwprofiles.options import (
    TIME_LIMIT_S,
    BatchSize,
    ChannelsLast,
    DeviceType,
    Dtype,
    InputSize,
    Limit,
    ModelKwargs,
    Modules,
    Name,
    NumRounds,
    Output,
    Runtime,
    Seconds,
    Seed,
    Threads,
    check_output,
    create_models,
    create_models_at,
    limited,
)
from hwprofiles.output import refuse_foreign_file
from hwprofiles.runtimes import find_runtime
from hwprofiles.show import show_summary
from hwprofiles.terminal import Report, missing_extra, progress_bar
from hwprofiles.terminal import console as out

Structures = Annotated[
    int, typer.Option(min=0, help="Sub-networks to validate on, of every model; 0: none.")
]


def profile(
    output: Output,
    models: Annotated[
        list[str] | None, typer.Argument(help="timm model names.", metavar="MODEL...")
    ] = None,
    times: Annotated[
        Path | None,
        typer.Option("--from", help="Of a kit's table instead (cpt-nas kit): times.csv."),
    ] = None,
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
    structures: Structures = 30,
    seed: Seed = 0,
) -> None:
    """Measure a cost profile, calibrate it on random cut networks, validate it on others.

    Writes the YAML file and, beside it, an image a model: predicted against measured.

    Example: cpt-nas profile cpt_resnet20 --threads 1 --runtime onnxruntime -o r20.yaml

    Example: cpt-nas profile --from kit/times.csv -o phone.yaml
    """
    from cpt_nas.calibration.profiling import LEAST_STRUCTURES, calibrate, calibrate_and_validate

    if times is not None:
        _profile_from(times, models or [], output, name)
        return
    if not models:
        raise ValueError("model: none given; name one, or a kit's table with --from")
    if 0 < structures < LEAST_STRUCTURES:
        raise ValueError(f"structures: {structures}, allowed are 0, {LEAST_STRUCTURES} or more")
    built, size = create_models_at(models, modules or [], input_size, model_kwargs or [])
    _need_branches(built)
    check_output(output)
    _check_images(output, list(built) if structures else [])
    with progress_bar() as shown:
        report = limited(shown, time_limit, seconds)
        made = hwprofiles.measure(
            built,
            size,
            batch_size=batch_size,
            device=device,
            threads=threads or hwprofiles.usable_cores(),
            dtype=dtype,
            channels_last=channels_last,
            runtime=runtime,
            name=name,
            rounds=rounds,
            min_s=seconds,
            seed=seed,
            progress=report,
        )
        options: dict[str, Any] = {"min_s": seconds, "seed": seed}
        if structures:
            named = _named("cut networks, ", report)
            made = calibrate_and_validate(made, built, structures, progress=named, **options)
        else:
            made = calibrate(made, built, progress=_named("cut networks, ", report), **options)
        hwprofiles.save(made, output)
    show_summary(made)
    out.print(f"wrote {output}")
    _draw(made, output, list(built) if structures else [])


def _profile_from(times: Path, models: list[str], output: Path, name: str | None) -> None:
    """The profile of the device that filled in a kit's table."""
    from cpt_nas.calibration.from_times import profile_from_times

    if models:
        raise ValueError(f"model: {', '.join(models)} given beside --from; the kit names its model")
    check_output(output)
    made = profile_from_times(times, name)
    _check_images(output, [v.model for v in made.validation])
    hwprofiles.save(made, output)
    show_summary(made)
    out.print(f"wrote {output}")
    _draw(made, output, [v.model for v in made.validation])


def validate_profile(
    file: Annotated[Path, typer.Argument(help="A profile.")],
    model: Annotated[str, typer.Argument(help="A timm model that it was measured on.")],
    structures: Annotated[int, typer.Option(min=6, help="Sub-networks to cut and measure.")] = 30,
    seed: Seed = 1,
    modules: Modules = None,
    model_kwargs: ModelKwargs = None,
    rounds: NumRounds = 10,
    seconds: Seconds = 8.0,
    time_limit: Limit = TIME_LIMIT_S,
    allow_foreign: Annotated[
        bool, typer.Option("--allow-foreign", help="The profile may be of another machine.")
    ] = False,
) -> None:
    """Check a profile on random cut networks that it has not seen: predict, cut, measure.

    Writes the result into the file, and an image beside it: predicted against measured.

    Example: cpt-nas validate-profile r20.yaml cpt_resnet20 --structures 30 --seed 7
    """
    from cpt_nas.calibration.profiling import validate

    if not file.is_file():
        raise ValueError(f"profile: no such file: {file}; a shipped profile has to be copied first")
    known = hwprofiles.load(file)
    find_runtime(known.workload.runtime).check(setting_of(known.workload))
    hwprofiles.require_target(known, allow_foreign=allow_foreign)
    defaults = {"in_chans": known.workload.input_size[0]}
    built = create_models([model], modules or [], defaults, model_kwargs or [])
    _need_branches(built)
    check_output(file)
    _check_images(file, [model])
    with progress_bar() as shown:
        report = limited(shown, time_limit, seconds)
        result = validate(
            known, model, built[model], structures, rounds, seconds, seed, progress=report
        )
    known = hwprofiles.with_validation(known, {model: result})
    hwprofiles.save(known, file)
    show_summary(known)
    out.print(f"wrote {file}")
    _draw(known, file, [model])


def _need_branches(models: dict[str, nn.Module]) -> None:
    from cpt_nas.pruning.search_space import find_branches

    for name, model in models.items():
        if not find_branches(model).branches:
            raise ValueError(
                f"model: nothing can be gated in {name}; hwprofiles measure profiles it without "
                "cut networks"
            )


def _image(file: Path, model: str) -> Path:
    """Of a model, beside a profile's file."""
    return file.with_name(f"{file.stem}-{model}.png")


def _check_images(file: Path, models: Iterable[str]) -> None:
    """Check, before any work, that the images beside a profile may be written.

    Raises:
        ValueError: one is there and is not a profile's.
    """
    try:
        from cpt_nas.report.profile_figure import is_figure
    except ModuleNotFoundError as error:
        missing_extra(error, EXTRAS)
        return  # none will be drawn
    for model in models:
        refuse_foreign_file(_image(file, model), "a profile's image", is_figure)


def _draw(profile: hwprofiles.Profile, file: Path, models: list[str]) -> None:
    try:
        from cpt_nas.report.profile_figure import save_figure, validation_figure
    except ModuleNotFoundError as error:
        out.print(f"no image: {missing_extra(error, EXTRAS)}", markup=False)
        return
    for validation in profile.validation:
        if validation.model in models:
            path = _image(file, validation.model)
            save_figure(validation_figure(validation, describe_setting(profile)), path)
            out.print(f"wrote {path}")


def _named(prefix: str, report: Report) -> Report:
    return lambda stage, done, total: report(prefix + stage, done, total)
