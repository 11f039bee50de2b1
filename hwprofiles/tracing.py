"""Tracing: run a model and list the layers that it executes.

It runs at two batch sizes, which show how each layer's sizes follow the batch (``batching.py``), so
nothing in the list depends on the batch that is given. Multiply-adds are fvcore's count of each
layer by itself, and attention (``counting.py``); their sum is fvcore's count of the model and its
attention. Not listed, because they cost next to nothing: views (flatten, permute, slices),
identities, and dropout in eval mode.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hwprofiles.batching import BATCHES
from hwprofiles.counting import count_macs
from hwprofiles.layers import LayerSpec, build
from hwprofiles.messages import naming
from hwprofiles.operations import at_batch, main_argument, tensor_arguments
from hwprofiles.recording import Call, Recording, merge, record, tensors
from hwprofiles.signatures import signature


@dataclass(frozen=True)
class Traced:
    """What one forward pass executed.

    Attributes:
        layers: in the order of execution.
        views: the calls that are no layers, by name.
        bare: name -> size of the parameters that no layer counts: ones that only views or
            untimed calls read (a class token that is expanded and joined), or nothing at all.
    """

    layers: list[LayerSpec]
    views: list[str]
    bare: dict[str, int]


def trace(model: nn.Module, example_input: Tensor) -> list[LayerSpec]:
    """The layers of ``model`` in the order of execution: ``trace_all`` without the views."""
    return trace_all(model, example_input).layers


def trace_all(model: nn.Module, example_input: Tensor) -> Traced:
    """Run ``model`` in eval mode and list its layers in the order of execution.

    Modes, hooks, caches and random state are left as they were.

    Args:
        model: any module that takes one tensor, its examples along the first dimension.
        example_input: [B, ...]. The first example is taken; results are per example.

    Raises:
        ValueError: the model does not run on two and on three examples, nothing that it executes
            is a layer, or a layer's cost cannot be told per example.

    Warns:
        UserWarning: layers whose multiply-adds are not fvcore's, or not counted at all.
    """
    if not isinstance(example_input, Tensor) or not example_input.dim() or not len(example_input):
        raise ValueError(
            f"example_input: {type(example_input).__name__} of shape "
            f"{tuple(getattr(example_input, 'shape', ()))}, allowed is a tensor of examples, "
            "[B, ...] with B at least 1"
        )
    scripted = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        raise ValueError(
            f"model: {scripted[0] or type(model).__name__} is compiled by torch.jit, in which no "
            "layers can be seen; give the model that it was made from"
        )
    devices = [example_input.device] if example_input.is_cuda else []
    with _left_as_it_was(model), torch.no_grad(), torch.random.fork_rng(devices):
        model.eval()
        first, second = (_record(model, example_input, size) for size in BATCHES)
        if first.names != second.names:  # the first pass has filled a cache
            first = _record(model, example_input, BATCHES[0])
        calls = merge(first, second)
        layers = _specs(calls)
    if not layers:
        raise ValueError(f"{type(model).__name__}: no layer was executed")
    counted = {p for call in calls for p in call.parameters}
    bare = {n: p.numel() for n, p in model.named_parameters() if p not in counted}
    return Traced(layers, sorted(second.views), bare)


def _record(model: nn.Module, example_input: Tensor, batch_size: int) -> Recording:
    with naming(f"model, on {batch_size} examples of shape {tuple(example_input.shape[1:])}"):
        return record(model, torch.cat([example_input[:1]] * batch_size))


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Restore what modules hold besides tensors: modes, and caches that fill up in eval mode."""
    held = [(vars(module), dict(vars(module))) for module in model.modules()]
    mappings = [
        (value, dict(value))
        for _, attributes in held
        for value in attributes.values()
        if isinstance(value, dict)
    ]
    try:
        yield
    finally:
        for now, before in (*held, *mappings):
            now.clear()
            now.update(before)


def _specs(calls: list[Call]) -> list[LayerSpec]:
    """The layers, counted: multiply-adds once a signature, parameters once a tensor."""
    by_signature: dict[str, LayerSpec] = {}
    used: Counter[str] = Counter()
    counted: set[nn.Parameter] = set()
    remarks: dict[str, list[str]] = {}
    specs = []
    for call in calls:
        name = call.name if not used[call.name] else f"{call.name}#{used[call.name]}"
        used[call.name] += 1
        uncounted = _uncounted(call)
        if uncounted.signature not in by_signature:
            macs, remark = _count(uncounted)
            spec = replace(uncounted, macs=macs, scalable=_scales(uncounted))
            by_signature[spec.signature] = spec
            if remark:
                remarks.setdefault(remark, []).append(f"{name} ({spec.type})")
        spec = by_signature[uncounted.signature]
        fresh = set(call.parameters) - counted
        counted |= fresh
        plain = call.is_parametrized and fresh
        params = _plain_params(spec) if plain else sum(p.numel() for p in fresh)
        specs.append(
            replace(spec, name=name, params=params, activation_bytes=call.activation_bytes())
        )
    for remark, names in remarks.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(f"multiply-adds of {', '.join(names[:3])}{more}: {remark}", stacklevel=4)
    return specs


def _count(spec: LayerSpec) -> tuple[float, str]:
    with naming(f"model: layer {spec.name} does not run alone, so its cost cannot be told"):
        return count_macs(*build(spec, spec.in_channels, spec.out_channels))


def _uncounted(call: Call) -> LayerSpec:
    operation = call.operation()
    main = operation.main()
    # Along an axis that follows the batch nothing can be narrower, but it has a size.
    seen = main_argument(tensor_arguments((call.args, call.kwargs)))
    axis = seen.axis if main.axis is None else main.axis
    assert axis is not None
    out = call.outputs[0].shape
    in_channels = at_batch(main.shape[axis], 1)
    out_channels = at_batch(out[axis], 1) if len(out) == len(main.shape) else in_channels
    options = dict(operation.options)
    groups = int(str(options.get("groups", 1)))
    dense = operation.is_dense and groups == 1
    multiple = int(str(options.get("num_groups", 1)))
    if groups > 1:
        multiple = in_channels // groups
    return LayerSpec(
        name=call.name,
        type=operation.type,
        signature=signature(operation, in_channels, out_channels, call.outputs[0]),
        in_channels=in_channels,
        out_channels=out_channels,
        groups=groups,
        form="dense" if dense else "channel",
        macs=0.0,
        params=0,
        activation_bytes=0,
        bias=dense and bool(options.get("bias")),
        channel_multiple=multiple,
        operation=operation,
    )


def _scales(spec: LayerSpec) -> bool:
    """Try a function at half its width: does its output halve, too?"""
    assert spec.operation is not None
    main = spec.operation.main()
    if main.axis is None:
        return False
    if spec.operation.is_module:
        return True
    half = spec.in_channels // 2
    if not half or spec.in_channels != spec.out_channels:
        return False
    try:
        function, x = build(spec, half, half)
        y = next(tensors(function(x)))
    except Exception:  # whatever a function raises, it does not run at half its width
        return False
    return y.dim() != x.dim() or y.shape[main.axis] == half


def _plain_params(spec: LayerSpec) -> int:
    """Parameters of a plain layer like this one, without what its parametrization added."""
    assert spec.operation is not None
    with torch.device("meta"):
        made = spec.operation.make(spec.in_channels, spec.out_channels)
    assert isinstance(made, nn.Module)
    return sum(p.numel() for p in made.parameters())
