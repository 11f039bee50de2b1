"""Recipe <-> YAML, checked at load: every fault of a file is reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cpt_nas.budget import LISTEN, MEASURES, Amount, Falling, parse_amount
from cpt_nas.gates import ESTIMATORS
from hwprofiles import Target

THETA_LR, MOST_THETA_LR = 0.02, 0.1
CROSSINGS = 5  # of theta's range that the search leaves time for
CLOSED_AFTER = 2 / 3  # of theta's range between two looks, under a budget
LOG_GAMMA = 0.02
GONE = ("settle", "unit_rate")  # settings of searches with a budget, in earlier versions


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or out of range; one line a fault."""


def _faults(error: ValidationError, prefix: str) -> str:
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        known = {"extra_forbidden": "unknown key", "missing": "is missing"}
        text = known.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        hidden = fault["type"] in known or isinstance(fault["input"], Mapping)
        shown = "" if hidden else f" (got {fault['input']!r})"
        lines.append(f"{prefix}{name}: {text}{shown}" if name else f"{prefix}{text}")
    return "; ".join(lines)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], prefix: str = "") -> Self:
        """Validate, raising :class:`ConfigError` with every fault in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_faults(error, prefix)) from None


class _Search(_Section):
    """What a search in steps and one in shares of a training have in common.

    Attributes:
        latency_budget: '12ms', or a share of the dense network's such as 0.5; by the profile.
        params_budget: '150k', or a share.
        macs_budget: '20M', or a share. Of several budgets all hold.
        log_gamma: pruning level, the price of the whole network a branch (eq. 13); where there is
            a budget, it follows from that.
        alpha: computation (1) against parameters (0); default: the profile's, else 0.5.
        kappa: layers against units; default: the profile's, else 0.
        cost: what is charged: 'latency' (the profile's seconds a layer) or 'complexity' (eqs.
            9-13); default: the budgets' own measures, else latency where a profile is given.
        gate: 'both', 'layers' (concurrent layer pruning) or 'units' (unit pruning only).
        estimator: gradient of theta, see :mod:`cpt_nas.gates`.
        theta_init: every gate's first theta.
        theta_lr: Adam's rate for theta; default: so that a gate could cross its range 5 times
            before the freeze, and at least 0.02. With a budget, what theta moves in a step while
            the target falls; default: two thirds of its range between two looks.
        threshold: a gate at or below is removed for good.
        polarize: weight of a term theta (1 - theta), scaled by each gate's own charge; it is zero
            at 0 and 1, so it favours no structure, and pushes hanging gates to a side. With a
            budget nothing hangs, and there is no such term.
        cut_interval: steps between looks at what can be cut.
        listen: with a budget, the share of the ramp in which the gates are only listened to; then
            the cost falls.
        rewind: at the freeze the weights go back to where they began, and the optimizer forgets;
            what the search has learned then is the structure alone.
        channel_step: widths are rounded up to a multiple; default: the profile's, else 1.
        fold: gates folded into weights; False: activations multiplied (the slow reference).
        include, exclude: patterns of branch names.
    """

    latency_budget: str | float | None = None
    params_budget: str | float | None = None
    macs_budget: str | float | None = None
    log_gamma: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    alpha: float | None = Field(default=None, ge=0, le=1)
    kappa: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    cost: Literal["latency", "complexity"] | None = None
    gate: Literal["both", "layers", "units"] = "both"
    estimator: str = "endpoint"
    theta_init: float = Field(default=1.0, gt=0, le=1)
    theta_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    threshold: float = Field(default=0.1, ge=0, lt=0.5)
    polarize: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    cut_interval: int = Field(default=25, gt=0)
    listen: float = Field(default=LISTEN, ge=0, lt=1)
    rewind: bool = False
    channel_step: int | None = Field(default=None, gt=0)
    fold: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @field_validator("latency_budget", "params_budget", "macs_budget")
    @classmethod
    def _amount(cls, value: str | float | None, info: ValidationInfo) -> str | float | None:
        if value is not None:
            parse_amount(str(info.field_name).removesuffix("_budget"), value)
        return value

    @field_validator("estimator")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ESTIMATORS:
            raise ValueError(f"must be one of {', '.join(ESTIMATORS)}")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.log_gamma is not None and self.amounts():
            raise ValueError("log_gamma: follows from the budget; give one of the two")
        return self

    def amounts(self) -> dict[str, Amount]:
        """Measure -> budget, of those that are given."""
        stated = {m: getattr(self, f"{m}_budget") for m in MEASURES}
        return {m: parse_amount(m, v) for m, v in stated.items() if v is not None}


class SearchSettings(_Search):
    """What :func:`cpt_nas.attach` takes, times in optimizer steps.

    Attributes:
        log_gamma: 0.02 where neither it nor a budget is given.
        warmup_steps: nothing is charged.
        ramp_steps: then the price rises, or with a budget the cost falls.
        freeze_step: the step at which every gate is decided; None: at finish().
        seed: of the masks.
    """

    warmup_steps: int = Field(default=0, ge=0)
    ramp_steps: int = Field(default=0, ge=0)
    freeze_step: int | None = Field(default=None, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _ramped(self) -> Self:
        if self.amounts() and self.ramp_steps == 0:
            raise ValueError(
                "ramp_steps: 0, must be above 0 with a budget: the steps in which the cost falls; "
                "or give total_steps"
            )
        if self.rewind and self.freeze_step is None:
            raise ValueError("rewind: needs a freeze_step, and training after it")
        return self

    def falling(self, budget: float) -> Falling:
        """The target of a budget, a share of the dense network's cost."""
        return Falling(budget, self.warmup_steps, self.ramp_steps, self.listen)

    def rate(self) -> float:
        """theta_lr, or what stands for it where none is given."""
        if self.theta_lr is not None:
            return self.theta_lr
        if self.amounts():
            return CLOSED_AFTER / self.falling(0.0).interval
        if self.freeze_step is None:
            return THETA_LR
        rate = CROSSINGS / max(1, self.freeze_step - self.warmup_steps)
        return min(MOST_THETA_LR, max(THETA_LR, rate))


class ModelConfig(_Section):
    """The dense model: a name in timm's registry and its keyword arguments.

    ``structure`` is a structure.json to cut it to before training (``cpt-nas retrain``).
    """

    name: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    structure: str | None = None


class DataConfig(_Section):
    """Pictures; see :mod:`cpt_nas.data`."""

    name: str = "digits"
    root: str | None = None
    input_size: tuple[int, int, int] = (3, 32, 32)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    in_memory: bool = True
    augment: Literal["none", "crop", "crop+flip"] = "crop+flip"
    download: bool = False
    train_limit: int | None = Field(default=None, gt=0)
    workers: int = Field(default=4, ge=0)


class TrainConfig(_Section):
    """The weights' training, under timm's names."""

    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=128, gt=0)
    seed: int = 0
    device: str = "cpu"
    threads: int | None = Field(default=None, gt=0)
    channels_last: bool = False
    amp: bool = False
    opt: str = "sgd"
    lr: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=6e-4, ge=0, allow_inf_nan=False)
    nesterov: bool = True
    sched: str = "cosine"
    min_lr: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=0, ge=0)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_grad: float | None = Field(default=None, gt=0)
    model_ema: bool = False
    model_ema_decay: float = Field(default=0.999, gt=0, lt=1)
    checkpoint_hist: int = Field(default=1, ge=0)

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if value != "cpu" and not value.startswith("cuda"):
            raise ValueError("must be cpu, cuda or cuda:N")
        return value


class SearchConfig(_Search):
    """The search in a recipe: times are shares of the training instead of steps.

    Attributes:
        profile: a cost profile's file, or a shipped one's name.
        target: the setting that the network is to run in; see docs/profiles.md.
        allow_foreign: it is to run on the profile's machine, not on this one.
        warmup: nothing is charged.
        ramp: then the price rises, or with a budget the cost falls.
        freeze: when every gate is decided; None: at the end.
    """

    profile: str | None = None
    target: Target | None = None
    allow_foreign: bool = False
    warmup: float = Field(default=0.02, ge=0, le=1)
    ramp: float = Field(default=0.13, ge=0, le=1)
    freeze: float | None = Field(default=0.2, gt=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.freeze is not None and self.freeze <= self.warmup + self.ramp:
            raise ValueError(
                f"freeze ({self.freeze}) must come after warmup + ramp "
                f"({self.warmup} + {self.ramp}), as shares of the training"
            )
        if self.rewind and (self.freeze is None or self.freeze == 1):
            raise ValueError(f"rewind: needs a freeze before the end (freeze is {self.freeze})")
        return self

    def settings(self, total_steps: int, seed: int) -> SearchSettings:
        """The same for :func:`cpt_nas.attach`, in steps."""
        same = {name: getattr(self, name) for name in _Search.model_fields}
        freeze = None if self.freeze is None else max(1, round(self.freeze * total_steps))
        return SearchSettings.from_mapping(
            same
            | {
                "warmup_steps": round(self.warmup * total_steps),
                "ramp_steps": max(1, round(self.ramp * total_steps)),
                "freeze_step": freeze,
                "seed": seed,
            },
            "search.",
        )


class Recipe(_Section):
    """One run: model, data, training, and the search (none: the model is trained as it is)."""

    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    search: SearchConfig | None = None

    @model_validator(mode="after")
    def _searched_once(self) -> Self:
        if self.search is not None and self.model.structure is not None:
            raise ValueError("model.structure: a cut network is not searched again; drop search")
        return self

    @property
    def kind(self) -> str:
        """'search', 'retrain' (a found structure from scratch) or 'dense'."""
        if self.search is not None:
            return "search"
        return "dense" if self.model.structure is None else "retrain"

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text

    def flat(self) -> dict[str, Any]:
        """Dotted key -> value, for timm's args.yaml."""
        return dict(_flatten(self.model_dump(mode="json")))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, saved: bool = False) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides (values are YAML), and check it.

    Args:
        saved: it is a run's own, to be resumed: settings that an earlier version had and nothing
            stands for now are passed over.

    Raises:
        ConfigError: no such file, not YAML, or faults in it; names each field.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"recipe: no such file: {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe: {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe: {path} must hold a mapping with model, data, train, search")
    if saved and isinstance(values.get("search"), dict):
        values["search"] = {k: v for k, v in values["search"].items() if k not in GONE}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set: {override!r} must be key=value, such as train.epochs=20")
        try:
            _assign(values, key.split("."), yaml.safe_load(text), override)
        except yaml.YAMLError:
            raise ConfigError(f"--set: {override!r}: the value is not YAML") from None
    return Recipe.from_mapping(values)


def _assign(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        inner = values.get(part)
        if inner is None:
            inner = values[part] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set: {override!r}: {part} is not a section")
        values = inner
    values[path[-1]] = value
