"""Does a deployed file compute what the plain model computes? Tried on pictures, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn

from cpt_nas.data.sample import images_below, test_images
from cpt_nas.deploy.source import Source
from hwprofiles.messages import one_line
from hwprofiles.runtimes.base import Runner, Setting, difference

PICTURES = 64


@dataclass(frozen=True)
class Inputs:
    """What is put in.

    Attributes:
        x: [n, C, H, W], normalised.
        words: what they are, such as "64 of the run's test pictures".
        why: no pictures were taken; None where some were.
    """

    x: Tensor
    words: str
    why: str | None = None


@dataclass(frozen=True)
class Comparison:
    """How far outputs are apart.

    Attributes:
        n: inputs.
        difference: the largest, over the plain model's largest output.
        same_class: inputs whose largest output is the same one.
    """

    n: int
    difference: float
    same_class: int


def inputs_for(source: Source, data: Path | None, n: int = PICTURES) -> Inputs:
    """Pictures for a network: those that are named, or the run's own test pictures; else noise.

    Args:
        source: of the network.
        data: a folder or archive of pictures.
        n: how many at most.

    Raises:
        ValueError: ``data`` holds none that can be read.
    """
    size = source.input_size
    if data is not None:
        pixels = images_below(data, size, n)
        return Inputs(_normalised(source, pixels), f"{len(pixels)} pictures of {data}")
    why = "an exported folder does not say where its pictures are; --data names some"
    if source.run is not None:
        try:
            pixels = test_images(source.run.recipe.data, size, n)
            words = f"{len(pixels)} of the run's test pictures"
            return Inputs(_normalised(source, pixels), words)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            why = f"the run's test pictures are not at hand ({one_line(error, 120)})"
    generator = torch.Generator().manual_seed(0)
    return Inputs(torch.randn(n, *size, generator=generator), f"{n} random inputs", why)


def _normalised(source: Source, pixels: Tensor) -> Tensor:
    """[N, C, H, W] uint8 -> float32, as in training."""
    mean, std = (
        torch.tensor(source.config[key], dtype=torch.float32).view(1, -1, 1, 1)
        for key in ("mean", "std")
    )
    return (pixels.float() / 255 - mean) / std


def batches_of(x: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """All inputs in batches of these sizes in turn; after the last input comes the first again."""
    start, turns = 0, 0
    for size in cycle(sizes):
        if start >= len(x) and turns >= len(sizes):
            return
        yield x[torch.arange(start, start + size) % len(x)]
        start, turns = start + size, turns + 1


@torch.inference_mode()
def compare(
    runner: Runner, model: nn.Module, x: Tensor, sizes: Sequence[int], setting: Setting
) -> Comparison:
    """Compare a runner's outputs with the plain model's in float32.

    Args:
        runner: of the file.
        model: plain.
        x: [n, C, H, W] float32.
        sizes: of the batches that it is called with.
        setting: the runner's.

    Raises:
        ValueError: it does not run at one of these sizes, or the model does not put out one tensor.
    """
    plain = copy.deepcopy(model).to(device=setting.device, dtype=torch.float32).eval()
    got, wanted = [], []
    for batch in batches_of(x, sizes):
        given = batch.to(setting.device, setting.dtype)
        if setting.channels_last:
            given = given.contiguous(memory_format=torch.channels_last)
        expected = plain(given.float())
        if not isinstance(expected, Tensor):
            raise ValueError(f"model: puts out {type(expected).__name__}, allowed is one tensor")
        try:
            answer = runner(given)
        except Exception as error:  # the runtime's own, of many kinds
            raise ValueError(
                f"batch-size: what was made does not run at a batch of {len(batch)}: "
                f"{one_line(error, 150)}"
            ) from error
        got.append(answer.detach().cpu().float().clone())
        wanted.append(expected.cpu())
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return Comparison(len(x), float("inf"), 0)
    a, b = torch.cat(got), torch.cat(wanted)
    same = int((a.flatten(1).argmax(1) == b.flatten(1).argmax(1))[: len(x)].sum())
    return Comparison(len(x), difference(a, b), same)
