"""The processes of one training: all have read the same images, or none goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks; all of them have to call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """The result of some work that every process does; where it fails in one, it fails in all.

    Raises:
        ValueError: of this process, or else the first one of another with its rank.
    """
    result: T | None = None
    error: ValueError | None = None
    try:
        result = work()
    except ValueError as own:
        error = own
    failures = gather(None if error is None else str(error))
    if error is not None:
        raise error
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise ValueError(f"{failure} (in process {rank})")
    return result  # type: ignore[return-value]


def difference(mine: dict[str, Any], other: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first thing in which two mappings of plain values differ; None where they are equal.

    Returns:
        What it is, and its value here and there; of two lists the first place that differs.
    """
    for key in mine | other:
        a, b = mine.get(key), other.get(key)
        if a == b:
            continue
        if isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return f"number of {key}", len(a), len(b)
            place = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
            return f"{key}[{place}]", a[place], b[place]
        return key, a, b
    return None


def check_agreement(mine: dict[str, Any]) -> None:
    """Raises ValueError where processes differ in plain values; all of them have to call it."""
    first, *others = gather(mine)
    for rank, other in enumerate(others, 1):
        if differs := difference(first, other):
            what, here, there = differs
            raise ValueError(
                f"data: the processes read different images: {what} is {here!r} in process 0,"
                f" {there!r} in process {rank}"
            )
