"""A finished network as a timm local-dir folder: config.json and model.safetensors, no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save
from torch import Tensor, nn

from cpt_nas.pruning import surgery
from cpt_nas.pruning.checksum import checksum
from cpt_nas.pruning.probe import outputs, same
from cpt_nas.pruning.structure import Structure, cut_to
from hwprofiles.output import write_folder

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FILES = (CONFIG, WEIGHTS)


PREPROCESSING = (
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "pool_size"),
    *("interpolation", "crop_pct", "test_crop_pct", "crop_mode", "mean", "std"),
    *("first_conv", "classifier", "label_names", "label_descriptions"),
)
"""All that an exported folder says beside what the network is; timm's names."""


def build(structure: Structure, **overrides: Any) -> nn.Module:
    """The plain timm model of a structure, with random weights.

    Args:
        overrides: further arguments for timm.create_model, such as num_classes.

    Raises:
        ValueError: the structure is of a network that timm does not make.
    """
    structure.require_rebuildable()
    model: nn.Module = timm.create_model(
        structure.architecture, **(structure.model_kwargs | overrides)
    )
    return cut_to(model, structure)


def export(
    structure: Structure,
    state: Mapping[str, Tensor],
    directory: str | Path,
    **preprocessing: Any,
) -> Path:
    """Write a folder that ``timm.create_model('local-dir:DIR', pretrained=True)`` reads.

    Needs ``import cpt_nas`` before, which puts ``cpt_pruned`` into timm's registry; the class
    that comes back is timm's own.

    Args:
        structure: what is left of which architecture.
        state: the cut network's weights under plain names.
        directory: made if missing; only the two files in it are replaced.
        preprocessing: entries of timm's pretrained_cfg such as input_size, mean, std and
            label_names.

    Raises:
        ValueError: a structure of a network that timm does not make, weights that do not fit it
            or are not finite, or an entry that says anything else; the message lists them.
        OSError: the folder cannot be written; names it, and why.
    """
    unknown = [key for key in preprocessing if key not in PREPROCESSING]
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown; allowed are {', '.join(PREPROCESSING)}")
    model = build(structure)
    surgery.load_state_dict(model, state)
    refuse_not_finite(state)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    config = _config(model, structure, preprocessing)
    config["model_args"]["checksum"] = checksum_of(structure, weights)
    content = {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: save(weights)}
    with _naming(Path(directory)):
        write_folder(Path(directory), content, CONFIG, lambda _: ())
    return Path(directory)


def checksum_of(structure: Structure, weights: Mapping[str, Tensor]) -> str:
    """Of a structure and its weights together: which unit a weight belongs to is part of it."""
    said = json.dumps(structure.model_dump(), sort_keys=True)
    return checksum({"structure": said, **{name: weights[name] for name in sorted(weights)}})


def _config(
    model: nn.Module, structure: Structure, preprocessing: Mapping[str, Any]
) -> dict[str, Any]:
    """What timm reads of a folder."""
    own = getattr(model, "pretrained_cfg", None) or {}
    said = {key: own[key] for key in PREPROCESSING if own.get(key) is not None}
    said |= preprocessing
    channels = structure.model_kwargs.get("in_chans", own.get("input_size", (3,))[0])
    size = preprocessing.get("input_size", own.get("input_size", (3, 224, 224)))
    side = structure.model_kwargs.get("img_size", size[1:])
    said["input_size"] = [channels, *([side, side] if isinstance(side, int) else side)]
    for key in ("mean", "std"):  # timm's are of three channels
        if key not in preprocessing and key in said and len(said[key]) != channels:
            said[key] = [sum(said[key]) / len(said[key])] * channels
    labels: dict[str, Any] = {
        k: said.pop(k) for k in ("label_names", "label_descriptions") if k in said
    }
    classes = getattr(model, "num_classes", own.get("num_classes"))
    return {
        "architecture": "cpt_pruned",
        "num_classes": classes,
        "num_features": getattr(model, "num_features", None),
        **labels,
        "model_args": {"base": structure.architecture, "structure": structure.model_dump()},
        "pretrained_cfg": {**said, "num_classes": classes},
    }


def refuse_not_finite(state: Mapping[str, Tensor]) -> None:
    """Raise where a weight is NaN or infinite.

    Raises:
        ValueError: names the tensor.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"weights: {name} holds values that are not finite")


def check_export(directory: str | Path, trained: nn.Module, x: Tensor) -> None:
    """Load a folder as timm does, and compare it with the network that was trained.

    Args:
        directory: the folder.
        trained: in whatever mode; it runs in eval mode, and is left as it was.
        x: inputs on its device.

    Raises:
        ValueError: another function comes back.
    """
    back = timm.create_model(f"local-dir:{directory}", pretrained=True).eval().to(x.device)
    training = trained.training
    wanted = outputs(trained.eval(), x)
    trained.train(training)
    if not same(outputs(back, x), wanted):
        raise ValueError(f"export: what {directory} loads is not the network that was trained")


@contextmanager
def _naming(directory: Path) -> Iterator[None]:
    """A full disk and the like, told with the folder's name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from None


def is_copy(folder: Path) -> bool:
    """Whether a folder is a copy of an export, and not the one of a run, which belongs there."""
    if (folder.resolve().parent / "result.json").exists():
        return False
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("architecture") == "cpt_pruned"
