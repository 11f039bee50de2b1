"""The command line: hwprofiles measure | show | compare | check | schema."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hwprofiles.device import usable_cores
from hwprofiles.profile import Profile, json_schema, load, save
from hwprofiles.schema import Calibration
from hwprofiles.target import Target, setting_differences

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="What does each layer of a model cost on this device?",
)
# Written to a file, a table may be as wide as it needs to be.
console = Console(width=None if sys.stdout.isatty() else 200)

EXIT_DIFFERENT = 1
EXIT_USER_ERROR = 2
EXIT_ABORTED = 130
EXTRAS = ("matplotlib", "sklearn")
"""What only training, its data and its pictures need; a device that measures goes without."""
# The base of typer's own errors; the module that holds it has moved between typer's versions.
_UsageError: type[Exception] = next(
    c
    for c in typer.BadParameter.__mro__
    if issubclass(c, Exception) and c.__name__ == "ClickException"
)


def run_app(application: typer.Typer, args: Sequence[str] | None = None) -> NoReturn:
    """Run a typer application and exit; a user's mistake is one line on stderr and exit code 2.

    Args:
        application: whose commands raise ValueError or OSError for mistakes.
        args: default is the command line; none at all shows the help.
    """
    given = list(sys.argv[1:] if args is None else args)
    try:
        code = application(args=given or ["--help"], standalone_mode=False)
    except (ValueError, OSError, _UsageError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    except ModuleNotFoundError as error:
        print(f"error: {missing_extra(error)}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    except typer.Abort:
        raise SystemExit(EXIT_ABORTED) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def missing_extra(error: ModuleNotFoundError) -> str:
    """What to install, in words.

    Raises:
        ModuleNotFoundError: the same, where it is not one of EXTRAS that is missing.
    """
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        raise error
    return f"{library} is not installed; pip install -e '.[train]' brings it"


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    # typer's own errors name the option in format_message only.
    message = getattr(error, "format_message", error.__str__)()
    return " ".join(message.split()) or type(error).__name__


@contextmanager
def progress_bar() -> Iterator[Any]:
    """Yields the ``progress`` callback (stage, done, total) that draws one bar a stage."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bars = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            bars.start()
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


Models = Annotated[list[str], typer.Argument(help="timm model names.", metavar="MODEL...")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The YAML file to write.")]
InputSize = Annotated[
    tuple[int, int, int] | None,
    typer.Option(
        help="Channels, height, width of one example; default is the model's.", show_default=False
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples a call.")]
DeviceType = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default is all.", show_default=False)
]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Memory format.")]
Modules = Annotated[
    list[str] | None,
    typer.Option("--import", help="Python module that registers models; repeatable."),
]
ModelKwargs = Annotated[
    list[str] | None, typer.Option(help="key=value for the model's constructor; repeatable.")
]
Name = Annotated[str | None, typer.Option(help="Of the profile; default like cpu-t1-b1.")]
NumRounds = Annotated[int, typer.Option(min=10, help="Readings of every point, at least.")]
Seconds = Annotated[float, typer.Option(min=0, help="Measure for at least so long.")]


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
    modules: Modules = None,
    model_kwargs: ModelKwargs = None,
    name: Name = None,
    rounds: NumRounds = 15,
    seconds: Seconds = 8.0,
    seed: Annotated[int, typer.Option(help="Of the order of measuring.")] = 0,
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
            name=name,
            rounds=rounds,
            min_s=seconds,
            seed=seed,
            progress=report,
        )
    save(profile, output)
    show_summary(profile)
    console.print(f"wrote {output}")


@app.command()
def show(
    file: Annotated[str, typer.Argument(help="A profile, or the name of one that is shipped.")],
) -> None:
    """Print a profile as tables. Example: hwprofiles show resnet18.yaml"""
    profile = load(file)
    show_summary(profile)
    table = Table("layer", "runs", "MACs", "params", "out bytes", "dense", "spread", "fit error")
    for layer in profile.layers:
        dense = layer.dense
        table.add_row(
            layer.signature,
            str(sum(layer.count.values())),
            f"{layer.macs / 1e6:.2f} M",
            f"{layer.params:,}",
            f"{layer.activation_bytes:,}",
            _time(dense.median_s),
            _percent((dense.q75_s - dense.q25_s) / dense.median_s),
            _percent(layer.fit_error),
        )
    console.print(table)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A profile.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
) -> None:
    """Print two profiles side by side. Example: hwprofiles compare laptop.yaml server.yaml"""
    first, second = load(a), load(b)
    table = Table("", first.name, second.name, "ratio")
    for label, of in _HEADLINES.items():
        x, y = of(first), of(second)
        table.add_row(label, f"{x:.4g}", f"{y:.4g}", _ratio(x, y))
    for model in sorted(set(first.dense) & set(second.dense)):
        x, y = first.dense[model].median_s, second.dense[model].median_s
        table.add_row(f"{model}, whole", _time(x), _time(y), _ratio(x, y))
    others = {layer.signature: layer.dense.median_s for layer in second.layers}
    for layer in first.layers:
        if layer.signature in others:
            x, y = layer.dense.median_s, others[layer.signature]
            table.add_row(layer.signature, _time(x), _time(y), _ratio(x, y))
    console.print(table)
    own = len(first.layers) + len(second.layers)
    shared = len({layer.signature for layer in first.layers} & set(others))
    console.print(f"{shared} layers in both, {own - 2 * shared} in one only")


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
) -> None:
    """Does a profile hold on this machine, in this setting? If not, exit code 1 and what differs.

    Run it where the network is going to run. A setting that is not given is not compared.

    Example: hwprofiles check resnet18.yaml --batch-size 1 --threads 1
    """
    for field, value, allowed in (
        ("device", device, ("cpu", "cuda")),
        ("dtype", dtype, ("float32", "bfloat16")),
    ):
        if value is not None and value not in allowed:
            raise ValueError(f"{field}: {value!r}, allowed are {' and '.join(allowed)}")
    profile = load(file)
    target = Target.model_validate(
        {
            "device": device,
            "batch_size": batch_size,
            "dtype": dtype,
            "threads": threads,
            "channels_last": channels_last,
        }
    )
    found = setting_differences(profile, target) + profile.check()
    for difference in found:
        print(difference)
    if found:
        raise typer.Exit(EXIT_DIFFERENT)
    print(f"{profile.name}: this machine and software ({profile.fingerprint_id})")


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


def create_models(
    names: Sequence[str], modules: Sequence[str], defaults: dict[str, Any], pairs: Sequence[str]
) -> dict[str, Any]:
    """Models from timm's registry, after importing ``modules`` that add to it.

    Args:
        names: of the models.
        modules: imported first.
        defaults: keyword arguments of every model.
        pairs: 'key=value' that override them; the value is read as YAML.

    Raises:
        ValueError: an unknown model, a module that cannot be imported, a malformed pair, or a
            keyword that a model does not take.
    """
    import timm

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"import: {module!r} cannot be imported: {error}") from None
    kwargs = defaults | dict(_key_value(pair) for pair in pairs)
    built = {}
    for name in names:
        if not timm.is_model(name):
            raise ValueError(f"model: {name!r} is not in timm's registry; --import can add to it")
        try:
            built[name] = timm.create_model(name, **kwargs)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"model: {name} with {kwargs}: {error}") from None
    return built


def create_models_at(
    names: Sequence[str],
    modules: Sequence[str],
    input_size: tuple[int, int, int] | None,
    pairs: Sequence[str],
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """``create_models``, and the size of one example: as given, or what timm says of the models.

    Raises:
        ValueError: as ``create_models``, or none was given and the models' own differ.
    """
    if input_size is not None:
        return create_models(names, modules, {"in_chans": input_size[0]}, pairs), input_size
    built = create_models(names, modules, {}, pairs)
    sizes = {name: tuple(model.pretrained_cfg["input_size"]) for name, model in built.items()}
    if len(set(sizes.values())) > 1:
        own = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in sizes.items())
        raise ValueError(f"input-size: not given, and the models' own differ ({own})")
    given = dict(_key_value(pair) for pair in pairs)
    channels, height, width = next(iter(sizes.values()))
    return built, (given.get("in_chans", channels), height, width)


def _key_value(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise ValueError(f"model-kwargs: {pair!r}, allowed is key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"model-kwargs: {value!r} of {key} cannot be read") from None


def check_output(path: Path) -> None:
    """Make the folder of a file to be written.

    Raises:
        ValueError: the file is a folder.
    """
    if path.is_dir():
        raise ValueError(f"output: {path} is a folder, give the file to write")
    path.parent.mkdir(parents=True, exist_ok=True)


def show_summary(profile: Profile) -> None:
    """Print what a profile says at a glance."""
    w, p, f = profile.workload, profile.protocol, profile.fingerprint
    layout = "channels last" if w.channels_last else "contiguous"
    size = "x".join(map(str, w.input_size))
    table = Table(title=f"profile {profile.name}", show_header=False)
    table.add_row("device", f"{f.device.name}, {f.device.cores} cores, fingerprint {f.id}")
    table.add_row("software", f"torch {f.software.torch}, timm {f.software.timm}")
    table.add_row(
        "workload",
        f"{', '.join(w.models)} at {size}, batch {w.batch_size}, {w.threads} thread(s), "
        f"{w.dtype}, {layout}{', freed memory kept' if w.keeps_freed_memory else ''}",
    )
    table.add_row(
        "verdict",
        f"{p.verdict}: spread {_percent(p.spread)}, anchor {_percent(p.anchor.spread)}, "
        f"{_contention(p.contention)}, "
        f"{p.rounds} rounds, {profile.created.wall_s:.0f} s",
    )
    table.add_row("layer constant kappa", f"{profile.kappa:.3f}")
    table.add_row("compute weight alpha", f"{profile.alpha:.3f}")
    table.add_row("parameter weight 1 - alpha", f"{profile.weights.parameter_weight:.3f}")
    table.add_row("channel step", str(profile.channel_step))
    table.add_row("calibration", _calibration(profile.calibration))
    for model, dense in profile.dense.items():
        measured = dense.memory.peak_measured_bytes
        peak = "not measured" if measured is None else f"{measured / 2**20:.1f} MiB"
        table.add_row(
            model,
            f"{_time(dense.median_s)}, layers sum to {_percent(dense.explained)} of it; "
            f"{dense.macs / 1e6:.1f} M MACs, {dense.params:,} parameters; peak memory {peak}, "
            f"analytic {dense.memory.peak_analytic_bytes / 2**20:.1f} MiB",
        )
    for v in profile.validation:
        table.add_row(
            f"validation, {v.model}",
            f"{v.verdict}: {v.at_step.n} unseen networks: MAPE {_percent(v.at_step.mape)}, within "
            f"10 % {_percent(v.at_step.within10)}, Kendall tau {v.at_step.kendall_tau:.2f} (MACs "
            f"alone {v.macs_alone.kendall_tau:.2f}); noise floor {_percent(v.noise_floor)}",
        )
    console.print(table)


def _contention(cores: float | None) -> str:
    return "contention not seen" if cores is None else f"contention {cores:.2f} cores"


def _calibration(c: Calibration) -> str:
    words = [f"scale {c.scale:.3f}", *(f"{form} x {f:.3f}" for form, f in c.by_form.items())]
    words += [f"{_time(c.per_layer_s)} a layer"] if c.per_layer_s else []
    if c.left_out_error is None:
        return f"{words[0]}, from the dense network(s) only"
    drift = "" if c.drift is None else f", drift {_percent(c.drift)}"
    return (
        f"{c.verdict}: {', '.join(words)}; from {c.n} networks, error of one predicted from the "
        f"others {_percent(c.left_out_error)}{drift}"
    )


_HEADLINES = {
    "layer constant kappa": lambda p: p.kappa,
    "compute weight alpha": lambda p: p.alpha,
    "seconds a layer": lambda p: p.weights.seconds_per_layer,
    "seconds a MAC": lambda p: p.weights.seconds_per_mac,
    "seconds a parameter byte": lambda p: p.weights.seconds_per_param_byte,
    "channel step": lambda p: p.channel_step,
}


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(x: float, y: float) -> str:
    return f"{y / x:.2f}" if x else "-"


def main() -> None:
    """Console entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
