"""A finished network as a timm local-dir folder: config.json and model.safetensors, no pickle."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from timm.models import save_for_hf
from torch import Tensor, nn

from cpt_nas.pruning import surgery
from cpt_nas.pruning.structure import Structure, cut_to
from hwprofiles.output import refuse_foreign_folder, write_folder

CONFIG = "config.json"
FILES = (CONFIG, "model.safetensors")


def build(structure: Structure, **overrides: Any) -> nn.Module:
    """The plain timm model of a structure, with random weights.

    Args:
        overrides: further arguments for timm.create_model, such as num_classes.
    """
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
        preprocessing: entries of timm's pretrained_cfg: input_size, mean, std, label_names.

    Raises:
        ValueError: weights that do not fit the structure.
        OSError: the folder cannot be written; names it, and why.
    """
    model = build(structure)
    surgery.load_plain_state_dict(model, state)
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    kwargs = structure.model_kwargs
    config.update(
        architecture="cpt_pruned",
        num_classes=getattr(model, "num_classes", config.get("num_classes")),
        **preprocessing,
    )
    # Where the weights once came from says nothing about these.
    for key in ("url", "hf_hub_id", "file", "source", "tag", "state_dict"):
        config.pop(key, None)
    model.pretrained_cfg = config  # type: ignore[assignment]
    arguments = {
        "base": structure.architecture,
        "structure": structure.model_dump(),
        **{k: v for k, v in kwargs.items() if k != "num_classes"},
    }
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        with _naming(directory):
            save_for_hf(model, temporary, model_args=arguments, safe_serialization=True)
        directory.mkdir(exist_ok=True)
        for name in FILES:
            os.replace(Path(temporary) / name, directory / name)
    return directory


@contextmanager
def _naming(directory: Path) -> Iterator[None]:
    """A full disk and the like, told with the folder's name; safetensors has it in words only."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from None
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(directory)) from None


def copy_export(run: str | Path, directory: str | Path) -> Path:
    """Copy a run's exported model to another folder.

    Args:
        directory: new, empty, or one that holds a copy of an export.

    Raises:
        ValueError: the run has not finished, so that nothing is exported; or the other folder
            holds something else.
    """
    source, directory = Path(run) / "export", Path(directory)
    for name in FILES:
        if not (source / name).is_file():
            raise ValueError(f"run: {run} has no export/{name}; has it finished training?")
    refuse_foreign_folder(directory, "an exported network", CONFIG, _is_copy)
    content = {name: (source / name).read_bytes() for name in FILES}
    write_folder(directory, content, CONFIG, lambda _: ())
    return directory


def _is_copy(folder: Path) -> bool:
    """Whether a folder is a copy of an export, and not the one of a run, which belongs there."""
    if (folder.resolve().parent / "result.json").exists():
        return False
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("architecture") == "cpt_pruned"
