"""A file of trained weights: which tensors it holds under which names. No code in it is run."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

BROKEN = (
    *(RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(NotImplementedError, MemoryError, pickle.UnpicklingError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What torch, its unpickler and the zip reader raise for bytes that are not a checkpoint's."""

AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "params")
"""Entries that checkpoints keep weights in; averaged ones first, since those were evaluated."""
NOT_WEIGHTS = ("n_averaged",)
"""What averaging leaves beside them."""
MOST_NESTED = 4


@dataclass(frozen=True)
class StoredWeights:
    """What a file holds.

    Attributes:
        file: where it is.
        sha256: of its bytes.
        entry: the entry of the checkpoint that the weights are from; '' where it holds nothing
            else.
        tensors: name -> tensor, in the file's order.
    """

    file: Path
    sha256: str
    entry: str
    tensors: dict[str, Tensor]


def read_weights(file: str | Path, *, field: str = "checkpoint") -> StoredWeights:
    """Read a safetensors file, or one that ``torch.save`` wrote, tensors and plain data only.

    Args:
        file: .safetensors, .pth, .tar, .th and the like; what is in it decides.
        field: of the setting that names it, for errors.

    Raises:
        ValueError: it is missing, damaged, wants code to be run, or holds no weights; one line.
    """
    file = Path(file)
    where = f"{field}: {file}"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}") from None
    # A safetensors file begins with the length of its header, which is JSON.
    held = _safetensors(content, where) if content[8:9] == b"{" else _torch(file, where)
    entry, tensors = _weights_of(held, where)
    return StoredWeights(file, hashlib.sha256(content).hexdigest(), entry, tensors)


def _safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    try:
        return load_safetensors(content)
    except SafetensorError as error:
        raise ValueError(f"{where} is damaged: {_short(error)}") from None


def _torch(file: Path, where: str) -> Any:
    try:
        if zipfile.is_zipfile(file):  # torch itself does not compare the checksums
            with zipfile.ZipFile(file) as archive:
                if (wrong := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"the checksum of {wrong} differs")
        # timm's training script keeps its arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (*BROKEN, OSError) as error:
        said = str(error)
        wanted = re.search(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)", said)
        if wanted or "TorchScript" in said:
            what = wanted[1] if wanted else "a TorchScript program"
            raise ValueError(
                f"{where} holds {what}, and loading that may run code; save the model's"
                " state_dict() alone"
            ) from None
        raise ValueError(
            f"{where} is damaged, or neither safetensors nor a checkpoint of PyTorch:"
            f" {_short(error)}"
        ) from None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    # Torch repeats a page of advice before what was wrong.
    text = text.partition("WeightsUnpickler error: ")[2] or text
    return text.partition(" Check the documentation")[0][:100] or type(error).__name__


def _weights_of(held: Any, where: str) -> tuple[str, dict[str, Tensor]]:
    """The entry that holds the weights, and the weights."""
    path: list[str] = []
    while isinstance(held, Mapping) and len(path) < MOST_NESTED:
        inside = next((k for k in (*AVERAGED, *PLAIN) if _holds_tensors(held.get(k))), None)
        if inside is None:
            break
        path.append(inside)
        held = held[inside]
    if not isinstance(held, Mapping) or not _holds_tensors(held):
        kind = f"a {type(held).__name__}"
        if isinstance(held, Mapping):
            kind = f"the entries {', '.join(map(str, list(held)[:4])) or 'of nothing'}"
        raise ValueError(f"{where} holds {kind}, and no weights under {', '.join(PLAIN[:3])}")
    tensors: dict[str, Tensor] = {}
    for key, value in held.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{where}: {key!r} is a {type(value).__name__} among weights")
        if key not in NOT_WEIGHTS:
            tensors[key] = value
    return ".".join(path), tensors


def _holds_tensors(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(v, Tensor) or _holds_tensors(v) for v in value.values())
