"""The sections of a profile file as pydantic models: what each field means, its unit and range."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from hwprofiles.fields import (
    Bytes,
    Cores,
    Count,
    Macs,
    Name,
    Names,
    Off,
    Params,
    Ratio,
    Seconds,
    Section,
    Seed,
    Share,
    Text,
    Time,
)
from hwprofiles.layers import Form

SCHEMA_VERSION = "2.0"


class Schema(Section):
    name: Literal["hwprofiles"] = "hwprofiles"
    version: Text = SCHEMA_VERSION

    @field_validator("version")
    @classmethod
    def _same_major(cls, value: str) -> str:
        if value.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(f"this program reads version {SCHEMA_VERSION}")
        return value


class Created(Section):
    """When and how; seconds."""

    utc: Text
    tool_version: Text
    command: Annotated[str, Field(max_length=20_000)]
    seed: Seed
    wall_s: Seconds
    edited: bool = Field(
        default=False, description="changed by hand after it was measured: `hwprofiles seal`"
    )


class Workload(Section):
    """The setting that every latency in the profile belongs to."""

    device: Literal["cpu", "cuda"]
    models: list[Name] = Field(min_length=1)
    input_size: tuple[Count, Count, Count] = Field(strict=False)
    batch_size: Count
    dtype: Literal["float32", "bfloat16"]
    threads: Count
    channels_last: bool
    runtime: Name = Field(description="what networks run in: eager, onnxruntime, openvino, ...")
    tf32: bool = False
    cudnn_benchmark: bool = False
    keeps_freed_memory: bool = Field(
        description="the C library was told not to return freed memory to the kernel"
    )


class Anchor(Section):
    """A fixed piece of work, timed in every round, by which drift is seen and divided out."""

    first_s: Time
    last_s: Time
    spread: Ratio = Field(description="(90 % quantile - 10 % quantile) / median")
    exponent: Share = Field(description="times are divided by the anchor's slowness to this power")
    reference_s: Time | None = Field(
        description="where the anchor counts as not slow, in later sessions as well"
    )


class Protocol(Section):
    """How the times were taken, and whether they can be trusted."""

    timer: Text
    rounds: Count
    warm_up_s: Seconds
    interleaved: Literal[True] = True
    statistic: Text
    cache: Text
    anchor: Anchor | None = Field(description="null: timed by other means, which have none")
    load_average: Cores
    contention: Cores | None = Field(
        description="cores that others wanted, too; null: could not be seen"
    )
    spread: Ratio = Field(description="median over points of the interquartile range / median")
    verdict: Literal["ok", "noisy"]


class Units(Section):
    time: Literal["s"]
    memory: Literal["byte"]
    macs: Literal["1 per multiply-add"]


class Weights(Section):
    """The three numbers of the coarse cost (equations.md): t = c0 layers + cF MACs + cP bytes."""

    kappa: Annotated[float, Field(ge=0, le=1000)] = Field(
        description="layer constant: share_layers / (the other two)"
    )
    alpha: Share = Field(description="compute weight: share_macs / (share_macs + share_params)")
    seconds_per_layer: Seconds
    seconds_per_mac: Seconds
    seconds_per_param_byte: Seconds
    share_layers: Share
    share_macs: Share
    share_params: Share
    fit_error: Ratio = Field(description="mean absolute relative error of this fit")

    @property
    def parameter_weight(self) -> float:
        """1 - alpha."""
        return 1.0 - self.alpha

    @property
    def parameters_are_free(self) -> bool:
        """Whether parameters cost nothing that could be measured, so that alpha is 1."""
        return self.alpha == 1.0


class LatencyCoefficients(Section):
    """Seconds a call at the workload's batch size."""

    const_s: Seconds
    per_in_s: Seconds
    per_out_s: Seconds
    per_in_out_s: Seconds


class Interval(Section):
    """What layers of a signature cost at full width, as other draws of the networks put it."""

    low_s: Seconds
    high_s: Seconds


class Calibration(Section):
    """From layers to whole networks: what each layer adds to a network, seen on whole networks.

    Without cut networks it is ``scale`` times what the layer takes alone.
    """

    scale: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        description="dense networks / the sums of their layers alone; null: none was timed alone"
    )
    n: Count = Field(description="whole networks that were timed for it")
    layers: dict[Text, LatencyCoefficients] = Field(
        default_factory=dict, description="signature -> its cost in networks; empty: scale x alone"
    )
    intervals: dict[Text, Interval] = Field(
        default_factory=dict, description="signature -> 80 % of what halves of the networks give"
    )
    unknowns: Annotated[int, Field(ge=0)] = Field(
        default=0, description="coefficients that were fitted"
    )
    left_out_error: Ratio | None = Field(
        default=None, description="mean error of networks predicted from the others; null: dense"
    )
    left_out_p95: Ratio | None = Field(default=None, description="95 % of them are off by less")
    seed: Seed | None = Field(default=None, description="of the cut networks; null: dense only")
    drift: Off | None = Field(
        default=None, description="dense networks: measured here / with their layers - 1"
    )
    wall_s: Seconds = 0.0
    verdict: Literal["ok", "noisy"] | None = None
    networks: list[Text] = Field(
        default_factory=list, description="hashes of their layers: no validation is on these"
    )


class SweepPoint(Section):
    channels: Count
    median_s: Time


class Sweep(Section):
    """Sum of one layer's times with a narrower input and with a narrower output."""

    layer: Text
    points: list[SweepPoint]


class ChannelDivisor(Section):
    """Widths at multiples of ``value`` are not slower than the widths just below them."""

    value: Count
    sweeps: list[Sweep] = Field(description="what it was found by; empty: no layer to sweep")


class CostModel(Section):
    form: Literal["a + b*Cin + c*Cout + d*Cin*Cout; one-channel layers a + b*C"]
    loss: Literal["relative squared error, coefficients not negative"]
    channel_divisor: ChannelDivisor
    calibration: Calibration


class Latency(Section):
    """Seconds a call."""

    median_s: Time
    q25_s: Time
    q75_s: Time
    n: Count

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.q25_s <= self.median_s <= self.q75_s:
            raise ValueError("quartiles must enclose the median")
        return self

    @property
    def spread(self) -> float:
        """Interquartile range / median."""
        return (self.q75_s - self.q25_s) / self.median_s


class Sample(Latency):
    """One measured point."""

    in_channels: Count
    out_channels: Count


class FitRange(Section):
    """The widths that were measured."""

    in_channels: tuple[Count, Count] = Field(strict=False)
    out_channels: tuple[Count, Count] = Field(strict=False)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (self.in_channels, self.out_channels):
            if low > high:
                raise ValueError(f"{low} .. {high} must not fall")
        return self


class Alone(Section):
    """A layer timed by itself, between the layers before and after it, in eager mode."""

    coefficients: LatencyCoefficients
    fit_error: Ratio = Field(description="mean absolute relative error at the samples")
    dense: Latency
    samples: list[Sample] = Field(min_length=1)


class LayerProfile(Section):
    """One layer signature: what it is and what it costs."""

    signature: Text = Field(min_length=1)
    type: Text
    form: Form
    in_channels: Count
    out_channels: Count
    count: dict[Name, Count] = Field(description="model -> how often it runs")
    macs: Macs = Field(description="per example")
    params: Params
    activation_bytes: Bytes = Field(description="output, per example")
    fit_range: FitRange
    alone: Alone | None = Field(description="null: the device cannot time single layers")


class Memory(Section):
    """Inference at the workload's batch size."""

    parameter_bytes: Bytes
    activation_bytes: Bytes = Field(description="sum of all layers' outputs")
    peak_analytic_bytes: Bytes = Field(
        description="parameters, buffers and the tensors alive at the worst moment"
    )
    peak_measured_bytes: Bytes | None = Field(
        description="in the runtime: of a fresh process, less the libraries, or of the CUDA "
        "allocator; null: could not be measured"
    )


class EndToEnd(Latency):
    """One whole dense network."""

    p90_s: Time | None = Field(description="90 % of single calls are faster; null: not told")
    p99_s: Time | None = Field(description="99 % are; null: not told, or too few calls")
    calls: Count | None = Field(
        default=None, description="single calls that these two are of; null: not told"
    )
    first_call_s: Time | None = Field(
        default=None, description="first call in a fresh process; null: could not be measured"
    )
    load_s: Time | None = Field(
        default=None, description="reading, rewriting, compiling before it; null: as above"
    )
    file_bytes: Count | None = Field(
        default=None, description="of the file or files that the runtime reads; null: reads none"
    )
    fused: list[Names] | None = Field(
        default=None,
        description="what the runtime runs as one, in the file's names; null: it does not say",
    )
    sum_of_layers_s: Time | None = Field(
        description="of the layers alone, in eager mode; null: not timed"
    )
    explained: Ratio | None = Field(
        description="sum_of_layers_s / median_s; null: not timed, or in another runtime"
    )
    calibrated_error: Off = Field(
        description="calibrated prediction / median_s - 1, with the drift since"
    )
    macs: Macs = Field(description="per example")
    params: Params
    memory: Memory
    unattributed_ops: list[Text] = Field(description="executed, but no layer: views")
