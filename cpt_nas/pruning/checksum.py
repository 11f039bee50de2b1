"""What tells saved tensors and plain data from all that differ in a bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def checksum(state: Mapping[str, Any]) -> str:
    """Of all keys and values, bit for bit, in their order: a SHA-256 in hexadecimal digits."""
    sha = hashlib.sha256()
    _feed(sha, state)
    return sha.hexdigest()


def _feed(sha: hashlib._Hash, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
        flat = torch.empty(value.numel(), dtype=value.dtype)  # dense, whatever the value's strides
        flat.copy_(value.detach().reshape(-1))
        sha.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        sha.update(f"mapping {len(value)}".encode())
        for key, inner in value.items():
            _feed(sha, key)
            _feed(sha, inner)
    elif isinstance(value, list | tuple):
        sha.update(f"sequence {len(value)}".encode())
        for inner in value:
            _feed(sha, inner)
    else:
        sha.update(f"{type(value).__name__} {value!r}".encode())
