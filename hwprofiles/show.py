"""Profiles as tables in a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from hwprofiles.cost_profile import Profile, describe_setting
from hwprofiles.schema import Calibration, EndToEnd
from hwprofiles.terminal import console

HEADLINES: dict[str, Callable[[Profile], float]] = {
    "layer constant kappa": lambda p: p.kappa,
    "compute weight alpha": lambda p: p.alpha,
    "seconds a layer": lambda p: p.weights.seconds_per_layer,
    "seconds a MAC": lambda p: p.weights.seconds_per_mac,
    "seconds a parameter byte": lambda p: p.weights.seconds_per_param_byte,
    "channel divisor": lambda p: p.channel_divisor,
}


def show_summary(profile: Profile) -> None:
    """Print what a profile says at a glance."""
    w, p, f = profile.workload, profile.protocol, profile.fingerprint
    layout = "channels last" if w.channels_last else "contiguous"
    size = "x".join(map(str, w.input_size))
    table = Table(title=f"profile {profile.name}", show_header=False)
    table.add_row("device", f"{f.device.name}, {f.device.cores} cores, fingerprint {f.id}")
    r = f.runtime
    table.add_row("runtime", f"{r.name} {r.version}, {r.provider}, {r.precision}")
    table.add_row("software", f"torch {f.software.torch}, timm {f.software.timm}")
    table.add_row(
        "workload",
        f"{', '.join(w.models)} at {size} in {w.runtime}, batch {w.batch_size}, "
        f"{w.threads} thread(s), {w.dtype}, {layout}"
        f"{', freed memory kept' if w.keeps_freed_memory else ''}",
    )
    anchor = None if p.anchor is None else p.anchor.spread
    table.add_row(
        "verdict",
        f"{p.verdict}: spread {_percent(p.spread)}, anchor {_share(anchor)}, "
        f"{_contention(p.contention)}, "
        f"{p.rounds} rounds, {profile.created.wall_s:.0f} s",
    )
    for doubt in profile.doubts():
        table.add_row("doubtful", doubt)
    table.add_row("layer constant kappa", f"{profile.kappa:.3f}")
    table.add_row("compute weight alpha", f"{profile.alpha:.3f}")
    free = "; parameters cost nothing measurable" if profile.weights.parameters_are_free else ""
    weight = f"{profile.weights.parameter_weight:.3f}{free}"
    table.add_row("parameter weight 1 - alpha", weight)
    table.add_row("channel divisor", str(profile.channel_divisor))
    table.add_row("calibration", _calibration(profile.calibration))
    for model, dense in profile.dense.items():
        table.add_row(
            model,
            f"{_time(dense.median_s)}{_explained(dense.explained)}; "
            f"{dense.macs / 1e6:.1f} M MACs, {dense.params:,} parameters",
        )
        table.add_row("", _facts(dense))
    for v in profile.validation:
        table.add_row(
            f"validation, {v.model}",
            f"{v.verdict}: {v.aligned.n} unseen networks: MAPE {_percent(v.aligned.mape)}, within "
            f"10 % {_percent(v.aligned.within10)}, Kendall tau {v.aligned.kendall_tau:.2f} (MACs "
            f"alone {v.macs_alone.kendall_tau:.2f}); noise floor {_share(v.noise_floor)}",
        )
    console.print(table)


def _facts(d: EndToEnd) -> str:
    """What its users ask for beside the median; what is not known is left out."""
    peak = d.memory.peak_measured_bytes
    facts = {
        "p90": _optional(_time, d.p90_s),
        "p99": _optional(_time, d.p99_s),
        "first call": _optional(_time, d.first_call_s),
        "made ready in": _optional(_time, d.load_s),
        "file": _optional(_mebibytes, d.file_bytes),
        "peak memory": _optional(_mebibytes, peak) or "not measured",
        "analytic": _mebibytes(d.memory.peak_analytic_bytes),
        "fused": None if d.fused is None else f"{len(d.fused)} groups of layers",
    }
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def show_layers(profile: Profile) -> None:
    """Print a row a layer: what it takes alone, and what it adds to a network, with its interval.

    A layer's cost in a network is known no better than the interval says: what always goes
    together, as a convolution and its norm, shares the cost.
    """
    table = Table("layer", "runs", "MACs", "params", "out bytes", "alone", "in a network", "80 %")
    intervals = profile.calibration.intervals
    for layer in profile.layers:
        cost = profile.cost(layer.signature).at(layer.in_channels, layer.out_channels)
        known = intervals.get(layer.signature)
        table.add_row(
            layer.signature,
            str(sum(layer.count.values())),
            f"{layer.macs / 1e6:.2f} M",
            f"{layer.params:,}",
            f"{layer.activation_bytes:,}",
            "-" if layer.alone is None else _time(layer.alone.dense.median_s),
            _time(cost),
            "-" if known is None else f"{_time(known.low_s)} .. {_time(known.high_s)}",
        )
    console.print(table)


def show_fused(profile: Profile) -> None:
    """Print what the runtime runs as one, a line a group, in the names of its file."""
    for model, dense in profile.dense.items():
        if dense.fused is not None:
            console.print(f"{model}: {len(dense.fused)} groups of layers run as one", markup=False)
            for group in dense.fused:
                console.print(f"  {group}", markup=False, highlight=False, soft_wrap=True)


def show_comparison(first: Profile, second: Profile) -> None:
    """Print two profiles side by side: the weights, the networks and the layers in both."""
    table = Table("", first.name, second.name, "ratio")
    table.add_row("setting", describe_setting(first), describe_setting(second), "")
    for label, of in HEADLINES.items():
        x, y = of(first), of(second)
        table.add_row(label, f"{x:.4g}", f"{y:.4g}", _ratio(x, y))
    for model in sorted(set(first.dense) & set(second.dense)):
        x, y = first.dense[model].median_s, second.dense[model].median_s
        table.add_row(f"{model}, whole", _time(x), _time(y), _ratio(x, y))
    others = {layer.signature for layer in second.layers}
    for layer in first.layers:
        if layer.signature in others:
            widths = layer.in_channels, layer.out_channels
            x, y = (p.cost(layer.signature).at(*widths) for p in (first, second))
            table.add_row(layer.signature, _time(x), _time(y), _ratio(x, y))
    console.print(table)
    own = len(first.layers) + len(second.layers)
    shared = len({layer.signature for layer in first.layers} & others)
    console.print(f"{shared} layers in both, {own - 2 * shared} in one only")


def _explained(share: float | None) -> str:
    return "" if share is None else f", layers sum to {_percent(share)} of it"


def _contention(cores: float | None) -> str:
    return "contention not seen" if cores is None else f"contention {cores:.2f} cores"


def _calibration(c: Calibration) -> str:
    if c.left_out_error is None:
        return f"scale {c.scale:.3f}, from the dense network(s) only"
    drift = "" if c.drift is None else f", drift {_percent(c.drift)}"
    return (
        f"{c.verdict}: {c.unknowns} coefficients from {c.n} networks, error of one predicted from "
        f"the others {_percent(c.left_out_error)}{drift}"
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def _optional(show: Callable[[float], str], value: float | None) -> str | None:
    return None if value is None else show(value)


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def _share(share: float | None) -> str:
    return "not measured" if share is None else _percent(share)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(x: float, y: float) -> str:
    return f"{y / x:.2f}" if x else "-"
