"""Profiles as tables in a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from hwprofiles.profile_file import Profile
from hwprofiles.schema import Calibration
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
    for doubt in profile.doubts():
        table.add_row("doubtful", doubt)
    table.add_row("layer constant kappa", f"{profile.kappa:.3f}")
    table.add_row("compute weight alpha", f"{profile.alpha:.3f}")
    table.add_row("parameter weight 1 - alpha", f"{profile.weights.parameter_weight:.3f}")
    table.add_row("channel divisor", str(profile.channel_divisor))
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
            f"{v.verdict}: {v.aligned.n} unseen networks: MAPE {_percent(v.aligned.mape)}, within "
            f"10 % {_percent(v.aligned.within10)}, Kendall tau {v.aligned.kendall_tau:.2f} (MACs "
            f"alone {v.macs_alone.kendall_tau:.2f}); noise floor {_percent(v.noise_floor)}",
        )
    console.print(table)


def show_layers(profile: Profile) -> None:
    """Print a row a layer."""
    table = Table("layer", "runs", "MACs", "params", "out bytes", "dense", "spread", "fit error")
    for layer in profile.layers:
        table.add_row(
            layer.signature,
            str(sum(layer.count.values())),
            f"{layer.macs / 1e6:.2f} M",
            f"{layer.params:,}",
            f"{layer.activation_bytes:,}",
            _time(layer.dense.median_s),
            _percent(layer.dense.spread),
            _percent(layer.fit_error),
        )
    console.print(table)


def show_comparison(first: Profile, second: Profile) -> None:
    """Print two profiles side by side: the weights, the networks and the layers in both."""
    table = Table("", first.name, second.name, "ratio")
    for label, of in HEADLINES.items():
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


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(x: float, y: float) -> str:
    return f"{y / x:.2f}" if x else "-"
