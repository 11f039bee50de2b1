"""A runtime that reads a model from a file: first PyTorch's model becomes one, then it is loaded.

The two steps stand apart, since a file can also be kept, and run on another machine. Some formats
fix the batch in the file; on request it is left open.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from hwprofiles.runtimes.base import Runner, Runtime, RuntimeBuildError, Setting, not_taken

Files = Mapping[str, bytes]
"""A model as a runtime reads it: a file's ending, such as '.onnx' -> its content."""


class FileRuntime(Runtime):
    """One runtime that reads files."""

    @abstractmethod
    def convert(self, model: nn.Module, example: Tensor, dynamic_batch: bool = False) -> Files:
        """The model in eval mode, in float32.

        Args:
            model: not changed.
            example: [batch, channels, height, width]. The file takes such inputs.
            dynamic_batch: the file takes other batches than the example's, too. Where a runtime
                plans its memory, the example's is the largest.

        Raises:
            RuntimeBuildError: the model cannot be taken; says which layer and what is not known.
        """

    @abstractmethod
    def load(self, files: Files, setting: Setting) -> Runner:
        """A runner of what ``convert`` has made.

        Raises:
            RuntimeBuildError: the runtime does not read it.
        """

    def fused(self, files: Files, setting: Setting) -> list[str] | None:
        """What the runtime runs as one, as 'conv + add + relu' in the names of its file.

        None where it does not say. For reading only: it is asked in a session of its own.
        """
        return None

    def build(self, model: nn.Module, example: Tensor, setting: Setting) -> Runner:
        return self.load(self.convert(model, example), setting)


def converted(
    who: str, model: nn.Module, example: Tensor, convert: Callable[[nn.Module, Tensor], bytes]
) -> bytes:
    """``convert`` of a copy of the model in eval mode, on the CPU and in float32.

    Args:
        who: converts, as told to the user.
        model: not changed.
        example: an input.
        convert: raises whatever its library raises.

    Raises:
        RuntimeBuildError: it does not take the model; names the layer that it does not take, where
            one is not taken by itself.
    """
    network = copy.deepcopy(model).cpu().float().eval()
    x = example.detach().cpu().float().contiguous()
    try:
        with torch.no_grad():
            return convert(network, x)
    except RuntimeBuildError:
        raise
    except Exception as error:  # the converter's own, of many kinds
        raise not_taken(who, model, error, failing_layer(network, x, convert)) from error


@torch.no_grad()
def failing_layer(
    model: nn.Module, example: Tensor, convert: Callable[[nn.Module, Tensor], object]
) -> str | None:
    """The innermost module that is not taken by itself, as 'blocks.0.attn (Attention)'.

    Tried is what is called with one tensor and nothing else, on the input that it has in the model.

    Args:
        model: in eval mode.
        example: an input of it.
        convert: raises where it does not take a module.
    """
    inputs: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if len(given) == 1 and isinstance(given[0], Tensor) and not named:
                inputs.setdefault(name, given[0].clone())

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            handle = module.register_forward_pre_hook(note(name), with_kwargs=True)
            stack.callback(handle.remove)
        try:
            model(example)
        except Exception:  # then the model itself is at fault
            return None
    return next(_failing("", model, inputs, convert), None)


def _failing(
    name: str,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    convert: Callable[[nn.Module, Tensor], object],
) -> Iterator[str]:
    for child, inner in module.named_children():
        path = f"{name}.{child}" if name else child
        if path in inputs:
            try:
                convert(inner, inputs[path])
                continue
            except Exception:
                yield from _failing(path, inner, inputs, convert)
                yield f"{path} ({type(inner).__name__})"
        else:
            yield from _failing(path, inner, inputs, convert)
