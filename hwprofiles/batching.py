"""How a layer's sizes follow the batch: what two batch sizes show.

Windows, patches and attention on sequences put the batch elsewhere than first, or fold it together
with other dimensions. A size that is the same at two batch sizes belongs to the layer, one that is
in proportion to them follows the batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwprofiles.operations import PerExample, TensorArgument, map_leaves

BATCHES = (2, 3)
"""Not 1: with one example, many a copy is only a view."""


def follow_batch(first: Any, second: Any) -> Any:
    """What a call was given at the two ``BATCHES``, as one that holds at every batch size.

    Args:
        first: nested arguments, tensors as ``TensorArgument``.
        second: those of the same call with the other batch.

    Raises:
        ValueError: a size that is neither fixed nor in proportion to the batch.
    """
    return map_leaves(_follow, first, second)


def _follow(first: Any, second: Any) -> Any:
    if isinstance(first, TensorArgument) and isinstance(second, TensorArgument):
        return replace(first, shape=map_leaves(_follow, first.shape, second.shape))
    if type(first) is int and type(second) is int and first != second:
        each = second // BATCHES[1]
        if (each * BATCHES[0], each * BATCHES[1]) != (first, second):
            raise ValueError(f"sizes {first} and {second}")
        return PerExample(each)
    return first
