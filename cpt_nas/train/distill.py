"""Learning from a teacher beside the labels: its outputs, and its features where they are as wide.

Hinton et al. (2015), arXiv 1503.02531, section 2: ``(1 - weight) * cross-entropy + weight * T**2 *
KL(teacher at T, network at T)``. Features are those that timm names in ``feature_info``, the ends
of stages; cutting never changes the width of what runs between blocks.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import hwprofiles
from cpt_nas.data.batches import Batches
from cpt_nas.pruning.export import CONFIG, FILES, export
from cpt_nas.pruning.search_space import find_branches
from cpt_nas.pruning.structure import dense_structure
from hwprofiles.files import write_whole
from hwprofiles.messages import naming
from hwprofiles.yaml_file import shortened

if TYPE_CHECKING:
    from cpt_nas.train.recipe import DistillConfig, Recipe

TEACHER = "teacher"
"""The teacher's folder in a run: the run's own, whatever becomes of where it was from."""
FORWARD = 1 / 3
"""What a forward pass costs of a training step, whose backward pass is two of it."""


class Distillation:
    """A teacher, and what the network is to learn from it.

    Attributes:
        teacher: in eval mode; it is never trained.
        macs: what a forward pass of it costs of a training step, in multiply-adds an example.
    """

    def __init__(
        self,
        teacher: nn.Module,
        source: Path | tuple[str, dict[str, Any]] | None,
        wanted: Mapping[str, Any],
        recipe: Recipe,
        data: Batches,
        device: torch.device,
    ) -> None:
        """
        Args:
            teacher: whose classes are the network's.
            source: the folder that it is from; or timm's name and arguments; or None where it is
                the network that the training starts from.
            wanted: mean and std that its images were normalised with; default: the network's.
            recipe: of the training.
            data: the training's images.
            device: where both run.
        """
        settings = recipe.train.distill
        assert settings is not None
        self.settings: DistillConfig = settings
        self.teacher = teacher.eval().requires_grad_(False).to(device)
        self.source = source
        mean = tuple(wanted.get("mean", data.mean))
        std = tuple(wanted.get("std", data.std))
        self._input: dict[str, Any] = {
            "input_size": list(recipe.data.input_size),
            "mean": list(mean),
            "std": list(std),
            "label_names": list(data.classes),
        }
        example = torch.zeros(1, *recipe.data.input_size, device=device)
        layers = hwprofiles.trace(self.teacher, example)
        self.macs = FORWARD * sum(layer.macs for layer in layers)

        def channels(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=device).view(1, -1, 1, 1)

        # From the network's normalisation to the teacher's.
        self._scale = channels(data.std) / channels(std)
        self._shift = (channels(data.mean) - channels(mean)) / channels(std)
        self._same_input = mean == tuple(data.mean) and std == tuple(data.std)

    def tried(self, data: Batches, device: torch.device, amp: Any) -> float:
        """The teacher's accuracy on the test images, in percent."""
        right, n = 0, 0
        for x, y in data.test(device):
            with torch.no_grad(), amp:
                right += int((self.teacher(self.teacher_input(x)).argmax(1) == y).sum())
            n += len(y)
        return 100 * right / n

    def teacher_input(self, x: Tensor) -> Tensor:
        """[B, C, H, W], normalised as the teacher's training images were."""
        return x if self._same_input else x * self._scale + self._shift

    def loss(self, hard: Tensor, logits: Tensor, x: Tensor, features: dict[str, Tensor]) -> Tensor:
        """What the network is trained by, a scalar.

        Args:
            hard: its loss by the labels.
            logits: [B, classes], its outputs.
            x: [B, C, H, W], its inputs.
            features: its own, by :meth:`watching`.
        """
        with torch.no_grad(), self.watching(self.teacher) as theirs:
            wanted = self.teacher(self.teacher_input(x))
        t = self.settings.temperature
        soft = functional.kl_div(
            functional.log_softmax(logits.float() / t, 1),
            functional.log_softmax(wanted.float() / t, 1),
            reduction="batchmean",
            log_target=True,
        )
        total = (1 - self.settings.weight) * hard + self.settings.weight * t**2 * soft
        if self.settings.features:
            total = total + self.settings.features * _apart(features, theirs)
        return total

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Collect a model's features while it runs; empty where they are not learnt from."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                found[name] = output

            return hook

        names = _taps(model) if self.settings.features else []
        # Anew in every step: a cut may have put another module in a block's place.
        handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in names]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def identity(self, output: Path) -> str:
        """What tells the run's own teacher from every other."""
        content = [(output / TEACHER / name).read_bytes() for name in FILES]
        return hashlib.sha256(b"".join(content)).hexdigest()

    def write(self, output: Path, recipe: Recipe, kwargs: dict[str, Any]) -> None:
        """Put the teacher into the run's folder, as an exported network.

        Args:
            output: the run's.
            kwargs: what the network that the training starts from was made with.
        """
        folder = output / TEACHER
        if isinstance(self.source, Path):
            folder.mkdir(exist_ok=True)
            for name in FILES:
                write_whole(folder / name, (self.source / name).read_bytes())
            return
        name, made_with = self.source or (recipe.model.name, kwargs)
        structure = dense_structure(find_branches(self.teacher), name, made_with)
        export(structure, self.teacher.state_dict(), folder, **self._input)


def build_distillation(
    recipe: Recipe,
    model: nn.Module,
    new_head: bool,
    data: Batches,
    device: torch.device,
    own: Path | None,
) -> Distillation | None:
    """The teacher of a recipe; None where it names none.

    Args:
        model: with the weights that the training starts from, uncut, without gates.
        new_head: of these weights, the head is as it was made.
        own: the run's own teacher, of a run that goes on.

    Raises:
        ValueError: no such teacher, or one of other classes, or that does not take the images.
    """
    settings = recipe.train.distill
    if settings is None:
        return None
    field = f"train.distill.teacher: {shortened(settings.teacher)}"
    folder = own if own is not None else Path(settings.teacher)
    source: Path | tuple[str, dict[str, Any]] | None = None
    wanted: Mapping[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        if own is None and settings.teacher == "start":
            if new_head and settings.weight:
                raise ValueError(
                    f"{field}: its head is new and has nothing to teach; train it first, and give"
                    " that run's export"
                )
            teacher = copy.deepcopy(model)
        elif all((folder / name).is_file() for name in FILES):
            with naming(field):
                teacher = timm.create_model(f"local-dir:{folder}", pretrained=True)
            source, config = folder, _config(folder)
            wanted, labels = config.get("pretrained_cfg", {}), config.get("label_names")
            if labels is not None and list(labels) != list(data.classes):
                raise ValueError(
                    f"{field}: its classes are {shortened(list(labels))},"
                    f" not {shortened(list(data.classes))}"
                )
        else:
            teacher, made_with, wanted = _by_timm(settings.teacher, field, data, recipe)
            source = (settings.teacher, made_with)
    with naming(f"{field} does not take data.input_size {list(recipe.data.input_size)}"):
        found = Distillation(teacher, source, wanted, recipe, data, device)
        x = torch.zeros(2, *recipe.data.input_size, device=device)
        with torch.no_grad(), found.watching(found.teacher) as theirs:
            classes = found.teacher(x).shape[1]
        training = model.training
        with torch.no_grad(), found.watching(model.eval()) as mine:
            outputs = model(x).shape[1]
        model.train(training)
    if classes != outputs:
        raise ValueError(f"{field}: it has {classes} classes, the network {outputs}")
    if settings.features and not _shared(mine, theirs):
        raise ValueError(
            f"train.distill.features: {settings.features}, but no stage of the teacher is as wide"
            " as the network's; must be 0"
        )
    return found


def _by_timm(
    name: str, field: str, data: Batches, recipe: Recipe
) -> tuple[nn.Module, dict[str, Any], Mapping[str, Any]]:
    """timm's trained network of a name, what it is made with, and how its images are normalised."""
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"{field}: must be start, an exported folder, or a name in timm's registry"
        )
    with naming(field):
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise ValueError("timm has no weights of it")
        channels = recipe.data.input_size[0]
        made_with = {"num_classes": config.num_classes, "in_chans": channels}
        teacher: nn.Module = timm.create_model(name, pretrained=True, **made_with)
    wanted = {"mean": config.mean, "std": config.std} if len(config.mean) == channels else {}
    return teacher, made_with, wanted


def _taps(model: nn.Module) -> list[str]:
    """The ends of a model's stages that are there."""
    there = dict(model.named_modules())
    info = getattr(model, "feature_info", None) or []
    return [entry["module"] for entry in info if entry.get("module") in there]


def _shared(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [
        (tensor, theirs[name])
        for name, tensor in mine.items()
        if name in theirs and theirs[name].shape == tensor.shape
    ]


def _apart(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    """Mean over stages of the squared distance over the squared length of the teacher's."""
    terms = [
        (a.float() - b.float()).square().sum() / b.float().square().sum().clamp_min(1e-12)
        for a, b in _shared(mine, theirs)
    ]
    return torch.stack(terms).mean()


def _config(folder: Path) -> dict[str, Any]:
    with naming(f"train.distill.teacher: {folder / CONFIG}"):
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
