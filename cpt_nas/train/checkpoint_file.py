"""The file of a checkpoint: timm's layout, checked before anything in it is believed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cpt_nas.pretrained.reading import BROKEN
from cpt_nas.pruning import checksum as checksums
from hwprofiles.files import write_whole

LAST, BEST = "last.pth.tar", "model_best.pth.tar"

VERSION = 2
"""Of the keys below; a checkpoint of another version is refused."""

KEYS: dict[str, tuple[type, ...]] = {
    "checkpoint_version": (int,),
    "arch": (str,),
    "epoch": (int,),
    "step": (int,),
    "metric": (float, type(None)),
    "state_dict": (Mapping,),
    "state_dict_ema": (Mapping, type(None)),
    "optimizer": (Mapping, list),
    "structure": (Mapping,),
    "search": (Mapping, type(None)),
    "data": (Mapping,),
    "rng": (torch.Tensor,),
    "cuda_rng": (torch.Tensor, type(None)),
    "macs_spent": (float,),
    "wall_s": (float,),
    "best": (float,),
    "best_epoch": (int,),
    "history": (list,),
    "recipe": (Mapping,),
    "profile": (str, type(None)),
    "changes": (list,),
    "weights": (Mapping, type(None)),
    "teacher": (str, type(None)),
    "checksum": (str,),
}
"""Key -> what it may hold."""


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all.

    Made in memory first: torch would report a full disk as a fault of its own.

    Raises:
        OSError: it cannot be written; names the file and why.
    """
    content = io.BytesIO()
    torch.save({**state, "checksum": checksum(state)}, content)
    write_whole(path, content.getbuffer())


def copy(source: Path, path: Path) -> None:
    """Copy a checkpoint whole or not at all."""
    write_whole(path, source.read_bytes())


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; tensors and plain data only, no code is run.

    Every part of the file has a checksum (CRC-32), which is compared: torch itself does not, and
    would take a flipped bit for a weight. What is in it has another one: whoever saves it anew with
    other values has made something else of it.

    Raises:
        ValueError: it is missing, damaged, of another version, lacks a key, or was changed; one
            line.
    """
    if not path.is_file():
        raise ValueError(f"resume: {path.parent} has no {path.name}")
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise zipfile.BadZipFile(f"the checksum of {wrong} differs")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"resume: {path} is damaged: {reason}") from None
    _check(path, state)
    if state["checksum"] != checksum(state):
        raise ValueError(f"resume: {path} was changed after it was written: checksum differs")
    return dict(state)


def checksum(state: Mapping[str, Any]) -> str:
    """Of all values, bit for bit, but the checksum's own."""
    return checksums.checksum({key: value for key, value in state.items() if key != "checksum"})


def _check(path: Path, state: Any) -> None:
    """Raises ValueError where it is not a checkpoint of this version with all its keys."""
    if not isinstance(state, Mapping):
        raise ValueError(f"resume: {path} holds {type(state).__name__}, not a checkpoint")
    version = state.get("checkpoint_version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"resume: {path}: checkpoint_version is {version!r}, this cpt-nas reads {VERSION}"
        )
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise ValueError(f"resume: {path} has no {', '.join(missing)}")
    for key, types in KEYS.items():
        if not isinstance(state[key], types):
            found = type(state[key]).__name__
            wanted = " or ".join("nothing" if t is type(None) else t.__name__ for t in types)
            raise ValueError(f"resume: {path}: {key} is {found}, must be {wanted}")
