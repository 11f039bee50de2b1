"""Putting a profile together from what was traced and timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwprofiles.cost_profile import Profile
from hwprofiles.device import RuntimeFingerprint, fingerprint
from hwprofiles.facts import Facts
from hwprofiles.fit import LayerFit, Point, WeightsFit, fit_layer, fit_scale, fit_weights
from hwprofiles.layers import Coefficients, LayerSpec
from hwprofiles.plan import Widths
from hwprofiles.schema import (
    Alone,
    Calibration,
    ChannelDivisor,
    CostModel,
    Created,
    EndToEnd,
    FitRange,
    Latency,
    LatencyCoefficients,
    LayerProfile,
    Protocol,
    Sample,
    Units,
    Weights,
    Workload,
)
from hwprofiles.timing import Measurement, Rounds
from hwprofiles.tracing import Traced

UNITS = Units(time="s", memory="byte", macs="1 per multiply-add")
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Timed:
    """Sizes by signature with their times, and the networks'."""

    layers: dict[str, dict[Widths, Measurement]]
    networks: dict[str, Measurement]
    rounds: Rounds


def assemble(
    name: str,
    workload: Workload,
    runtime: RuntimeFingerprint,
    traced: Mapping[str, Traced],
    unique: Mapping[str, LayerSpec],
    divisor: ChannelDivisor,
    timed: Timed,
    facts: Mapping[str, Facts],
    protocol: Protocol,
    created: Created,
) -> Profile:
    """Fit every layer, the scale and the weights, and gather all of it in a profile.

    Raises:
        ProfileError: the layers' sum is far from the networks' times.
    """
    fits: dict[str, LayerFit] = {}
    for signature, spec in unique.items():
        points = [Point(i, o, m.median_s) for (i, o), m in timed.layers[signature].items()]
        fits[signature] = fit_layer(points, spec.form, (spec.in_channels, spec.out_channels))
    costs = {signature: fit.coefficients for signature, fit in fits.items()}
    sums = {
        label: sum(costs[s.signature].at(s.in_channels, s.out_channels) for s in t.layers)
        for label, t in traced.items()
    }
    scale = fit_scale(
        [timed.networks[label].median_s for label in sums], [sums[label] for label in sums]
    )
    calibration = Calibration(scale=scale, n=len(sums))
    weights = fit_weights([t.layers for t in traced.values()], costs, BYTES[workload.dtype])
    counts = {label: Counter(s.signature for s in t.layers) for label, t in traced.items()}
    return Profile(
        name=name,
        created=created,
        fingerprint=fingerprint(workload.device, runtime),
        workload=workload,
        protocol=protocol,
        units=UNITS,
        weights=weights_section(weights),
        cost_model=cost_model(divisor, calibration),
        layers=[
            _layer(
                spec,
                fits[signature],
                timed.layers[signature],
                {label: c[signature] for label, c in counts.items() if c[signature]},
            )
            for signature, spec in unique.items()
        ],
        dense={
            label: _end_to_end(
                timed.networks[label],
                sums[label],
                scale,
                workload.runtime == "eager",
                t,
                facts[label],
            )
            for label, t in traced.items()
        },
    ).require_possible()


def _layer(
    spec: LayerSpec,
    fit: LayerFit,
    times: Mapping[Widths, Measurement],
    count: dict[str, int],
) -> LayerProfile:
    ins, outs = [i for i, _ in times], [o for _, o in times]
    return LayerProfile(
        signature=spec.signature,
        type=spec.type,
        form=spec.form,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        count=count,
        macs=spec.macs,
        params=spec.params,
        activation_bytes=spec.activation_bytes,
        fit_range=FitRange(in_channels=(min(ins), max(ins)), out_channels=(min(outs), max(outs))),
        alone=Alone(
            coefficients=coefficients_section(fit.coefficients),
            fit_error=fit.error,
            dense=Latency(**_quartiles(times[spec.in_channels, spec.out_channels])),
            samples=[
                Sample(in_channels=i, out_channels=o, **_quartiles(m))
                for (i, o), m in times.items()
            ],
        ),
    )


def coefficients_section(c: Coefficients) -> LatencyCoefficients:
    """Coefficients in seconds as a profile holds them."""
    return LatencyCoefficients(
        const_s=c.const, per_in_s=c.per_in, per_out_s=c.per_out, per_in_out_s=c.per_in_out
    )


def _end_to_end(
    measured: Measurement,
    total: float,
    scale: float,
    eager: bool,
    traced: Traced,
    facts: Facts,
) -> EndToEnd:
    return EndToEnd(
        **_quartiles(measured),
        p90_s=facts.tail.p90_s,
        p99_s=facts.tail.p99_s,
        calls=facts.tail.calls,
        first_call_s=facts.fresh.first_call_s,
        load_s=facts.fresh.load_s,
        file_bytes=facts.file_bytes,
        fused=facts.fused,
        sum_of_layers_s=total,
        explained=total / measured.median_s if eager else None,
        calibrated_error=scale * total / measured.median_s - 1,
        macs=sum(s.macs for s in traced.layers),
        params=sum(s.params for s in traced.layers),
        memory=facts.memory,
        unattributed_ops=traced.views,
    )


def timed_again(whole: EndToEnd, measured: Measurement) -> EndToEnd:
    """The same network with another session's times."""
    explained = whole.explained
    return whole.model_copy(
        update={
            **_quartiles(measured),
            "p90_s": measured.quantile(0.9),
            "p99_s": measured.quantile(0.99),
            "explained": explained and explained * whole.median_s / measured.median_s,
        }
    )


def cost_model(divisor: ChannelDivisor, calibration: Calibration) -> CostModel:
    """The cost model as a profile holds it."""
    return CostModel(
        form="a + b*Cin + c*Cout + d*Cin*Cout; one-channel layers a + b*C",
        loss="relative squared error, coefficients not negative",
        channel_divisor=divisor,
        calibration=calibration,
    )


def weights_section(fit: WeightsFit) -> Weights:
    """The weights as a profile holds them."""
    return Weights(
        kappa=fit.kappa,
        alpha=fit.alpha,
        seconds_per_layer=fit.seconds_per_layer,
        seconds_per_mac=fit.seconds_per_mac,
        seconds_per_param_byte=fit.seconds_per_param_byte,
        share_layers=fit.shares[0],
        share_macs=fit.shares[1],
        share_params=fit.shares[2],
        fit_error=fit.error,
    )


def _quartiles(m: Measurement) -> dict[str, Any]:
    return {"median_s": m.median_s, "q25_s": m.q25_s, "q75_s": m.q75_s, "n": m.n}
