"""Recipe <-> YAML, checked at load: every fault of a file is reported at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)
from timm.optim import list_optimizers

from cpt_nas.data.config import DataConfig
from cpt_nas.pruning.arguments import fits_json, without_loading
from cpt_nas.search.settings import MOST, SearchConfig
from cpt_nas.sections import ConfigError, Section
from cpt_nas.train.trained_input import with_trained_input
from hwprofiles.yaml_file import YamlError, dump_yaml, parse_yaml, read_yaml, shortened

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
MOST_THREADS = 1024


class ModelConfig(Section):
    """The dense model.

    Attributes:
        name: in timm's registry.
        kwargs: keyword arguments of timm.create_model; num_classes and in_chans come from the data.
        pretrained: start from timm's weights of that name, such as resnet18.a1_in1k.
        checkpoint: start from the weights in a file: safetensors, or what torch.save wrote.
        structure: a structure.json to cut it to before training (``cpt-nas retrain``).
    """

    name: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    structure: str | None = None

    @field_validator("kwargs")
    @classmethod
    def _kwargs(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in without_loading(value)[1]:
            raise ValueError(
                f"{key} says where weights come from; that is model.pretrained or model.checkpoint"
            )
        for key in {"features_only", "out_indices", "feature_cls"} & value.keys():
            raise ValueError(f"{key} makes a feature extractor, what is trained is a classifier")
        for key, entry in value.items():
            if not fits_json(entry):
                raise ValueError(f"{key}: must be numbers, strings, lists and mappings of them")
        return value

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("checkpoint: there is pretrained, too; give one of the two")
        return self


class DistillConfig(Section):
    """A teacher beside the labels.

    Attributes:
        teacher: an exported folder, or timm's name of a network with weights of the same classes;
            start: the network with the trained weights it starts from.
        weight: share of the teacher's outputs in the loss, 0 to 1; the labels have the rest.
        temperature: that outputs are divided by before they are compared, above 0.
        features: weight of the distance from the teacher's features, where stages are as wide.
    """

    teacher: str = "start"
    weight: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0, le=1000)
    features: float = Field(default=0.0, ge=0, le=MOST)

    @model_validator(mode="after")
    def _teaches(self) -> Self:
        if self.weight == 0 and self.features == 0:
            raise ValueError("weight: 0, must be above 0 where features is 0")
        return self


class TrainConfig(Section):
    """The weights' training, under timm's names.

    Attributes:
        epochs: passes over the training images, above 0.
        batch_size: examples a process and step, above 0.
        seed: of the first weights, the order, the augmentation and the masks; 0 to 2**32 - 1.
        device: cpu, cuda or cuda:N.
        threads: CPU threads; none: PyTorch's default.
        channels_last: memory format of the model and the batches.
        amp: bfloat16 autocast.
        opt: timm's name of an optimizer; those that need a second backward pass are refused.
        lr: learning rate, above 0.
        momentum: 0 to below 1.
        weight_decay: at least 0; the papers' lambda over the number of examples.
        nesterov: Nesterov momentum.
        sched: timm's name of a schedule.
        decay_milestones: with 'multistep', the epochs at which the rate falls, increasing and
            before the end.
        decay_rate: what 'multistep' and 'step' (every 90 epochs) multiply the rate by, at most 1;
            the power of 'poly'; none: timm's 0.1.
        cycle_limit: with 'cosine', 'tanh' and 'poly', cycles from lr to min_lr, all equally long,
            a divisor of epochs: each but the first is a warm restart.
        cycle_decay: what the highest rate is multiplied by at a restart, at most 1.
        min_lr: the schedule's lowest rate, at most lr.
        warmup_epochs: epochs in which the rate rises from a hundredth of lr, at most all of them.
        smoothing: label smoothing, 0 to below 1.
        clip_grad: largest norm of the gradient; none: not clipped.
        model_ema: evaluate and export an exponential moving average of the weights.
        model_ema_decay: of that average, between 0 and 1.
        checkpoint_hist: checkpoints of epochs that are kept beside the last and the best.
        distill: a teacher to learn from beside the labels; none: the labels alone.
    """

    epochs: int = Field(default=10, gt=0, le=MOST)
    batch_size: int = Field(default=128, gt=0, le=MOST)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "cpu"
    threads: int | None = Field(default=None, gt=0, le=MOST_THREADS)
    channels_last: bool = False
    amp: bool = False
    opt: str = "sgd"
    lr: float = Field(default=0.1, gt=0, le=MOST)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=6e-4, ge=0, le=MOST)
    nesterov: bool = True
    sched: Literal["cosine", "tanh", "poly", "step", "multistep"] = "cosine"
    decay_milestones: tuple[int, ...] | None = None
    decay_rate: float | None = Field(default=None, gt=0, le=10)
    cycle_limit: int = Field(default=1, gt=0, le=MOST)
    cycle_decay: float = Field(default=1.0, gt=0, le=1)
    min_lr: float = Field(default=0.0, ge=0)
    warmup_epochs: float = Field(default=0, ge=0)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip_grad: float | None = Field(default=None, gt=0)
    model_ema: bool = False
    model_ema_decay: float = Field(default=0.999, gt=0, lt=1)
    checkpoint_hist: int = Field(default=1, ge=0, le=MOST)
    distill: DistillConfig | None = None

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", value):
            raise ValueError("must be cpu, cuda or cuda:N")
        return value

    @field_validator("opt")
    @classmethod
    def _known_optimizer(cls, value: str) -> str:
        known = list_optimizers()
        if value.lower().removeprefix("lookahead_") not in known:
            close = difflib.get_close_matches(value, known) or ["sgd", "adamw", "lion"]
            raise ValueError(f"is none of timm's optimizers, such as {', '.join(close)}")
        return value

    @model_validator(mode="after")
    def _in_the_training(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr}, must be at most lr, {self.lr}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs: {self.warmup_epochs}, must be at most epochs, {self.epochs}"
            )
        return self

    @model_validator(mode="after")
    def _of_the_schedule(self) -> Self:
        """What a schedule does not read is a mistake, not a setting."""
        stepped = self.sched in ("step", "multistep")
        milestones = self.decay_milestones
        if (milestones is not None) != (self.sched == "multistep"):
            raise ValueError(
                f"decay_milestones: {milestones}, must be given with sched 'multistep' and with no "
                f"other; sched is {self.sched!r}"
            )
        if milestones is not None and (
            list(milestones) != sorted(set(milestones))
            or not milestones
            or not 0 < milestones[0] <= milestones[-1] < self.epochs
        ):
            raise ValueError(
                f"decay_milestones: {list(milestones)}, must be increasing epochs between 0 and "
                f"epochs, {self.epochs}"
            )
        if self.decay_rate is not None and not stepped and self.sched != "poly":
            raise ValueError(
                f"decay_rate: {self.decay_rate}, must be null with sched {self.sched!r}, which "
                "does not read it"
            )
        if self.decay_rate is not None and stepped and self.decay_rate > 1:
            raise ValueError(f"decay_rate: {self.decay_rate}, must be at most 1")
        if (self.cycle_limit > 1 and stepped) or self.epochs % self.cycle_limit:
            raise ValueError(
                f"cycle_limit: {self.cycle_limit}, must be a divisor of epochs, {self.epochs}, and "
                f"1 with sched 'step' and 'multistep'; sched is {self.sched!r}"
            )
        if self.cycle_decay != 1 and self.cycle_limit == 1:
            raise ValueError(
                f"cycle_decay: {self.cycle_decay}, must be 1 without a restart (cycle_limit is 1)"
            )
        return self


class Recipe(Section):
    """One run: model, data, training, and the search (none: the model is trained as it is)."""

    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    search: SearchConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _input_of_the_weights(cls, values: Any) -> Any:
        return with_trained_input(values)

    @model_validator(mode="after")
    def _taught_by_something(self) -> Self:
        trained = self.model.pretrained or self.model.checkpoint is not None
        if self.train.distill is not None and self.train.distill.teacher == "start" and not trained:
            raise ValueError(
                "train.distill.teacher: start is the network with trained weights; give"
                " model.checkpoint or model.pretrained, or an exported folder as teacher"
            )
        return self

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
        return dump_yaml(self.model_dump(mode="json"))

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


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package: 'digits', 'smoke/vit', ..."""
    found = sorted(RECIPES.rglob("*.yaml"))
    return [path.relative_to(RECIPES).with_suffix("").as_posix() for path in found]


def find_recipe(name: str | Path) -> Path:
    """A recipe's file: as given, or the one of that name that comes with the package.

    Raises:
        ConfigError: neither is there; lists the packaged names.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = recipe_names()
    if path.as_posix().removesuffix(".yaml") in packaged:
        return RECIPES / path.with_suffix(".yaml")
    raise ConfigError(
        f"recipe: no such file: {path}; those that come with cpt_nas are {', '.join(packaged)}"
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``key=value`` overrides (values are YAML), and check it.

    Args:
        path: a file, or the name of a recipe that comes with the package.
        overrides: such as 'train.epochs=20'.

    Raises:
        ConfigError: no such file, not YAML, or faults in it; names each field.
    """
    path = find_recipe(path)
    try:
        values = read_yaml(path)
    except YamlError as error:
        raise ConfigError(f"recipe: {path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe: {path} must hold a mapping with model, data, train, search")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--set: {shortened(override)} must be key=value, such as train.epochs=20"
            )
        try:
            value = parse_yaml(text)
        except YamlError as error:
            raise ConfigError(f"--set: {shortened(override)}: the value {error}") from None
        _assign(values, key.split("."), value, override)
    return Recipe.from_mapping(values)


def _assign(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        inner = values.get(part)
        if inner is None:
            inner = values[part] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set: {shortened(override)}: {part} is not a section")
        values = inner
    values[path[-1]] = value
