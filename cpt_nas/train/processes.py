"""The processes of one training: torchrun starts them, and they end together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """Be one of torchrun's processes, where there are several; yields (rank, world size).

    Raises:
        ConnectionError: another of them has ended; one line in place of the backend's own words.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    try:
        ours = not dist.is_initialized()
        if ours:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        yield int(os.environ.get("RANK", "0")), world
        if ours:
            dist.destroy_process_group()
    except RuntimeError as error:
        if not _is_connections(error):
            raise
        raise ConnectionError(
            "train: another process of this training has ended, and this one with it; "
            "the other's own message says why"
        ) from None


def _is_connections(error: RuntimeError) -> bool:
    """Whether it comes from the connection to the other processes; gloo has no type of its own."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "by peer" in text
