"""Trying a copy of a model: what does it compute, with weights that hide nothing?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference over the largest output. Sums in another order stay far below."""


def shaken(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in eval mode whose weights and norm statistics are disturbed.

    A fresh model hides differences: scales of 1, 0 or 1e-6, means of 0.

    Raises:
        ValueError: it cannot be copied.
    """
    try:
        twin = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
    except RuntimeError as error:  # tensors that are computed, as weights under masks are
        raise ValueError(f"model: it cannot be copied: {str(error)[:90]}...") from error
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    for parameter in twin.parameters():
        if parameter.is_floating_point():
            spread = float(parameter.std(correction=0))
            parameter.add_(noise(parameter), alpha=0.3 * spread if spread > 1e-3 else 0.3)
    for module in twin.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.add_(noise(module.running_mean), alpha=0.3)
            assert module.running_var is not None
            module.running_var.mul_(torch.exp(0.3 * noise(module.running_var)))
    return twin


def probe_input(example: Tensor, dtype: torch.dtype) -> Tensor:
    """Noise of the example's shape."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(example.shape, generator=generator).to(example.device, dtype)


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All the floating-point tensors that a model puts out."""
    with torch.random.fork_rng(devices=[]):
        return [t for t in _tensors(model(x)) if t.is_floating_point()]


def outputs_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The same of a model that may not take such an input.

    Raises:
        ValueError: it does not, named as the caller's example_input.
    """
    try:
        found = outputs(model, x)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:  # the model's own
        said = " ".join(str(error).split())[:150]
        shape = tuple(x.shape)
        raise ValueError(f"example_input: {shape} does not fit the model: {said}") from error
    if not found:
        raise ValueError(f"model: {type(model).__name__} puts out no tensors to be compared")
    return found


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        yield from _tensors(vars(value))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of outputs are equal but for rounding."""
    if [t.shape for t in a] != [t.shape for t in b]:
        return False
    for x, y in zip(a, b):
        bound = TOLERANCE.get(x.dtype, 1e-2) * float(y.abs().nan_to_num(0.0).max())
        if not torch.allclose(x, y, rtol=0.0, atol=bound, equal_nan=True):
            return False
    return True
