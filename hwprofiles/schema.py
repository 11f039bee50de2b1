"""The sections of a profile file as pydantic models: what each field means, its unit and range."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hwprofiles.layers import Form

SCHEMA_VERSION = "1.2"

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a profile: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)


class Schema(Section):
    name: Literal["hwprofiles"] = "hwprofiles"
    version: str = SCHEMA_VERSION

    @field_validator("version")
    @classmethod
    def _same_major(cls, value: str) -> str:
        if value.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(f"this program reads version {SCHEMA_VERSION}")
        return value


class Created(Section):
    """When and how; seconds."""

    utc: str
    tool_version: str
    command: str
    seed: int
    wall_s: NonNegative


class Workload(Section):
    """The setting that every latency in the profile belongs to."""

    device: Literal["cpu", "cuda"]
    models: list[str] = Field(min_length=1)
    input_size: tuple[Count, Count, Count] = Field(strict=False)
    batch_size: Count
    dtype: Literal["float32", "bfloat16"]
    threads: Count
    channels_last: bool
    mode: Literal["eager"] = "eager"
    tf32: bool = False
    cudnn_benchmark: bool = False
    keeps_freed_memory: bool = Field(
        description="the C library was told not to return freed memory to the kernel"
    )


class Anchor(Section):
    """A fixed piece of work, timed in every round, by which drift is seen and divided out."""

    first_s: Positive
    last_s: Positive
    spread: NonNegative = Field(description="(90 % quantile - 10 % quantile) / median")
    exponent: Share = Field(description="times are divided by the anchor's slowness to this power")
    reference_s: Positive | None = Field(
        description="where the anchor counts as not slow, in later sessions as well"
    )


class Protocol(Section):
    """How the times were taken, and whether they can be trusted."""

    timer: str
    rounds: Count
    warm_up_s: NonNegative
    interleaved: Literal[True] = True
    statistic: str
    cache: str
    anchor: Anchor
    load_average: NonNegative
    contention: NonNegative | None = Field(
        description="cores that others wanted, too; null: could not be seen"
    )
    spread: NonNegative = Field(
        description="median over points of the interquartile range / median"
    )
    verdict: Literal["ok", "noisy"]


class Units(Section):
    time: Literal["s"]
    memory: Literal["byte"]
    macs: Literal["1 per multiply-add"]


class Weights(Section):
    """The three numbers of the coarse cost (equations.md): t = c0 layers + cF MACs + cP bytes."""

    kappa: NonNegative = Field(description="layer constant: share_layers / (the other two)")
    alpha: Share = Field(description="compute weight: share_macs / (share_macs + share_params)")
    seconds_per_layer: NonNegative
    seconds_per_mac: NonNegative
    seconds_per_param_byte: NonNegative
    share_layers: Share
    share_macs: Share
    share_params: Share
    fit_error: NonNegative = Field(description="mean absolute relative error of this fit")

    @property
    def parameter_weight(self) -> float:
        """1 - alpha."""
        return 1.0 - self.alpha


class Calibration(Section):
    """Network = sum over layers (scale * by_form * layer + per_layer_s) + offset_s."""

    scale: Positive
    offset_s: float
    n: Count = Field(description="whole networks that it was fitted to")
    by_form: dict[Form, NonNegative] = Field(
        default_factory=dict, description="factor of a form's layers on top of scale; default 1"
    )
    per_layer_s: NonNegative = Field(default=0.0, description="added to every executed layer")
    left_out_error: NonNegative | None = Field(
        default=None, description="mean error of a network predicted from the others; null: dense"
    )
    seed: int | None = Field(default=None, description="of the cut networks; null: dense only")
    drift: float | None = Field(
        default=None, description="dense networks: measured here / with their layers - 1"
    )
    wall_s: NonNegative = 0.0
    verdict: Literal["ok", "noisy"] | None = None
    networks: list[str] = Field(
        default_factory=list, description="hashes of their layers: no validation is on these"
    )

    def network_s(self, layers_s: float) -> float:
        """Seconds of a network whose layers' costs, as ``Profile.cost`` gives them, sum to this."""
        return self.scale * layers_s + self.offset_s


class SweepPoint(Section):
    channels: Count
    median_s: Positive


class Sweep(Section):
    """Sum of one layer's times with a narrower input and with a narrower output."""

    layer: str
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

    median_s: Positive
    q25_s: Positive
    q75_s: Positive
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


class LatencyCoefficients(Section):
    """Seconds a call at the workload's batch size."""

    const_s: NonNegative
    per_in_s: NonNegative
    per_out_s: NonNegative
    per_in_out_s: NonNegative


class FitRange(Section):
    """The widths that were measured."""

    in_channels: tuple[Count, Count] = Field(strict=False)
    out_channels: tuple[Count, Count] = Field(strict=False)


class LayerProfile(Section):
    """One layer signature: what it is and what it costs."""

    signature: str = Field(min_length=1)
    type: str
    form: Form
    in_channels: Count
    out_channels: Count
    count: dict[str, Count] = Field(description="model -> how often it runs")
    macs: NonNegative = Field(description="per example")
    params: Annotated[int, Field(ge=0)]
    activation_bytes: Annotated[int, Field(ge=0)] = Field(description="output, per example")
    coefficients: LatencyCoefficients
    fit_range: FitRange
    fit_error: NonNegative = Field(description="mean absolute relative error at the samples")
    dense: Latency
    samples: list[Sample] = Field(min_length=1)


class Memory(Section):
    """Inference at the workload's batch size."""

    parameter_bytes: Annotated[int, Field(ge=0)]
    activation_bytes: Annotated[int, Field(ge=0)] = Field(description="sum of all layers' outputs")
    peak_analytic_bytes: Annotated[int, Field(ge=0)] = Field(
        description="parameters, buffers and the tensors alive at the worst moment"
    )
    peak_measured_bytes: Annotated[int, Field(ge=0)] | None = Field(
        description="of a fresh process, or of the CUDA allocator; null: could not be measured"
    )


class EndToEnd(Latency):
    """One whole dense network."""

    p90_s: Positive
    p99_s: Positive
    sum_of_layers_s: Positive = Field(description="by the coefficients, not calibrated")
    explained: NonNegative = Field(description="sum_of_layers_s / median_s")
    calibrated_error: float = Field(
        description="calibrated prediction / median_s - 1, with the drift since"
    )
    macs: NonNegative = Field(description="per example")
    params: Annotated[int, Field(ge=0)]
    memory: Memory
    unattributed_ops: list[str] = Field(description="executed, but no layer: views")


class Scores(Section):
    """How far predictions are from measurements; relative errors."""

    n: Count
    mape: NonNegative
    within5: Share
    within10: Share
    max: NonNegative
    kendall_tau: Annotated[float, Field(ge=-1, le=1)]


class ValidatedNetwork(Section):
    """One network that was cut, measured and predicted."""

    label: str
    aligned: bool = Field(description="all its widths are multiples of the channel divisor")
    layers: Count
    macs: NonNegative
    params: NonNegative
    predicted_s: Positive
    measured_s: Positive
    spread: NonNegative = Field(description="interquartile range / median")
    again_s: Positive | None = Field(description="measured a second time; null: not")


class Validation(Section):
    """Predictions for networks that were not measured before, written by a later command."""

    model: str
    utc: str
    seed: int
    verdict: Literal["ok", "noisy"]
    contention: NonNegative | None
    aligned: Scores = Field(description="networks at the channel divisor")
    unaligned: Scores | None = Field(description="null: none, as with a channel divisor of 1")
    macs_alone: Scores = Field(
        description="networks at the divisor by scale * MACs + offset, both fitted to these very "
        "networks, which favours them"
    )
    params_alone: Scores = Field(description="the same by parameters")
    speed_up_error: NonNegative = Field(
        description="mean relative error of cut / dense, at the divisor"
    )
    dense_error: float = Field(description="the uncut network: predicted / measured - 1")
    noise_floor: NonNegative = Field(
        description="mean relative difference of networks that were measured twice"
    )
    networks: list[ValidatedNetwork] = Field(min_length=1)
