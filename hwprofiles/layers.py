"""A layer: what it is, how much work it is at any width, and how to run it alone.

A layer's signature holds all that decides its cost at its dense widths; the batch size, dtype,
memory format and threads belong to a profile's workload. Two layers with one signature cost the
same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from hwprofiles.operations import NewTensor, Operation, build_operation

Form = Literal["dense", "channel"]
Number = TypeVar("Number", float, Tensor)


def layer_cost(
    const: Number,
    per_in: Number,
    per_out: Number,
    per_in_out: Number,
    in_channels: Number,
    out_channels: Number,
) -> Number:
    """What a layer costs at these widths; the one place that says so. Numbers, or tensors alike.

    Linear in each of the widths, so that a network's cost is multilinear in its gates (eqs. 9-11
    of arXiv 2411.09127).
    """
    return (
        const
        + per_in * in_channels
        + per_out * out_channels
        + per_in_out * in_channels * out_channels
    )


@dataclass(frozen=True)
class Coefficients:
    """``const + per_in * Cin + per_out * Cout + per_in_out * Cin * Cout``."""

    const: float = 0.0
    per_in: float = 0.0
    per_out: float = 0.0
    per_in_out: float = 0.0

    def at(self, in_channels: float, out_channels: float) -> float:
        """The value at these widths."""
        return layer_cost(
            self.const, self.per_in, self.per_out, self.per_in_out, in_channels, out_channels
        )


@dataclass(frozen=True)
class LayerSpec:
    """One executed layer.

    Attributes:
        name: the module's path; of a function '<path of the calling module>:<function>'. A second
            call of the same gets the suffix '#1', a third '#2'.
        type: for example 'conv2d', 'linear', 'batch_norm2d', 'relu', 'add'.
        signature: all that decides the cost at the dense widths.
        in_channels: channels of the input.
        out_channels: channels of the output.
        groups: of a convolution, else 1.
        form: 'dense' costs a + b Cin + c Cout + d Cin Cout; 'channel' costs a + b Cin.
        macs: multiply-adds with one example, as fvcore counts, and attention.
        params: number of parameters; 0 where an earlier layer has counted the same ones.
        activation_bytes: of the outputs, with one example.
        bias: the dense form has a bias, so the parameters have a term in Cout.
        scalable: the layer can be run at other widths; if not, its cost is a constant.
        channel_multiple: widths must be multiples of this (a group of a grouped convolution).
        operation: how to run it.
    """

    name: str
    type: str
    signature: str
    in_channels: int
    out_channels: int
    groups: int
    form: Form
    macs: float
    params: int
    activation_bytes: int
    bias: bool = False
    scalable: bool = True
    channel_multiple: int = 1
    operation: Operation | None = field(default=None, repr=False, compare=False)

    @property
    def macs_coefficients(self) -> Coefficients:
        """Multiply-adds per example as a function of the widths, exact at every width."""
        return self._proportional(self.macs)

    @property
    def params_coefficients(self) -> Coefficients:
        """Parameters as a function of the widths, exact at every width."""
        if self.form == "channel" and self.params % self.in_channels:
            return Coefficients(const=self.params)  # a scale that all channels share
        if not self.bias or not self.params:
            return self._proportional(self.params)
        weights = self._proportional(self.params - self.out_channels)
        return replace(weights, per_out=1.0)

    def _proportional(self, total: float) -> Coefficients:
        if self.form == "dense":
            return Coefficients(per_in_out=total / (self.in_channels * self.out_channels))
        if not self.scalable:
            return Coefficients(const=total)
        return Coefficients(per_in=total / self.in_channels)

    def out_channels_at(self, in_channels: int) -> int:
        """Output channels of a 'channel' layer that is run with ``in_channels``."""
        return in_channels * self.out_channels // self.in_channels


def build(
    spec: LayerSpec,
    in_channels: int,
    out_channels: int,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    new_tensor: NewTensor | None = None,
) -> tuple[Callable[[Tensor], Any], Tensor]:
    """A stand-alone runnable of a layer at given widths, and its input.

    Args:
        spec: the layer, from ``trace``.
        in_channels: channels of the input, a multiple of ``spec.channel_multiple``.
        out_channels: channels of the output; ignored by the 'channel' form.
        batch_size: examples in the input.
        dtype: of parameters and floating-point inputs.
        device: where.
        channels_last: memory format of four-dimensional tensors and weights.
        new_tensor: (shape, whether of zeros) -> input tensor; default is uniform in [0, 1), or
            zeros for what is overwritten.

    Raises:
        ValueError: the widths are not ones that the layer can have.
    """
    if spec.operation is None:
        raise ValueError(f"{spec.name}: holds no operation to run; take it from trace()")
    if spec.form == "channel":
        out_channels = spec.out_channels_at(in_channels)
    if in_channels < 1 or out_channels < 1 or in_channels % spec.channel_multiple:
        raise ValueError(
            f"{spec.name}: {in_channels} -> {out_channels} channels, allowed are multiples of "
            f"{spec.channel_multiple}"
        )
    return build_operation(
        spec.operation,
        in_channels,
        out_channels,
        batch_size,
        dtype,
        torch.device(device),
        channels_last,
        new_tensor,
    )
