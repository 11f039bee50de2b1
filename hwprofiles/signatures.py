"""Signatures: all that decides a layer's cost at its dense widths, as text.

For example ``conv2d(16->32, 16x32x32, kernel_size=3x3, stride=2x2, ...)``: the channels, the
tensors that the layer takes, and what else decides. A shape is without the batch where that is the
first dimension; elsewhere it is written as ``b``: ``64bx49x96`` is 64 windows an example, and
``49xbx96`` a sequence with the batch second. ``fixed`` marks a tensor that does not follow the
batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hwprofiles.operations import COPIES, Operation, PerExample, TensorArgument

_TOLD_BY_SHAPES = (*COPIES, "pad")
"""Functions whose other arguments add nothing to the shapes before and after."""


def signature(
    operation: Operation, in_channels: int, out_channels: int, output: TensorArgument
) -> str:
    """Of a layer with these dense widths; ``output`` is the first tensor that it returns."""
    channels = f"{in_channels}"
    if operation.is_dense or out_channels != in_channels:
        channels += f"->{out_channels}"
    shapes = ", ".join(map(_shape, operation.tensors()))
    if not operation.is_module:
        main = operation.main()
        like_main = list(main.shape)
        if main.axis is not None and len(output.shape) == len(main.shape):
            like_main[main.axis] = out_channels
        if tuple(like_main) != output.shape:
            shapes += f" -> {_shape(output)}"
        if operation.type not in _TOLD_BY_SHAPES:
            arguments = (operation.arguments, dict(operation.keywords))
            shapes += "".join(f", {word}" for word in _words(*arguments))
    options = "".join(f", {key}={_option(value)}" for key, value in operation.options)
    return f"{operation.type}({channels}, {shapes}{options})"


def _shape(tensor: TensorArgument) -> str:
    sizes = tensor.shape
    if not tensor.follows_batch:
        return f"fixed {_by_x(sizes)}"
    return _by_x(sizes[1:] if sizes[0] == PerExample(1) else sizes)


def _words(positional: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[str]:
    """Arguments that are whole numbers, texts or types, not tensors; factors decide no cost."""
    for value in positional:
        if (word := _word(value)) is not None:
            yield word
    for key, value in named.items():
        if not key.startswith("_") and key != "inplace" and (word := _word(value)) is not None:
            yield f"{key}={word}"


def _word(value: Any) -> str | None:
    if isinstance(value, (tuple, list)):
        words = [_word(item) for item in value]
        return None if None in words or not words else "x".join(map(str, words))
    simple = isinstance(value, (int, str, PerExample, torch.dtype))
    return str(value) if simple else None


def _option(value: object) -> str:
    if isinstance(value, type):
        return value.__name__
    return _by_x(value) if isinstance(value, (tuple, list)) else str(value)


def _by_x(values: Any) -> str:
    return "x".join(str(value) for value in values)
