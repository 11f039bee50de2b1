"""What every source of batches gives, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cpt_nas.data.processes import difference

AUGMENTS = ("none", "crop", "crop+flip")
LEAST_STD = 1e-4  # what rounding to 4 digits leaves

Batch = tuple[Tensor, Tensor]


class Batches(ABC):
    """Batches of one process.

    Attributes:
        classes: names, in the order of the labels.
        batch_size: images a training step of this process.
        steps: training steps an epoch; the images left over wait for another epoch's order.
        mean, std: what images in [0, 1] are normalised with, a value a channel.
        interpolation: of test images that have to be scaled, by timm's name.
        crop_pct: share of a scaled test image's side that is cut out, about its centre.
    """

    classes: tuple[str, ...]
    batch_size: int
    steps: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """[N] int64, of all training images."""

    @property
    @abstractmethod
    def test_images(self) -> int:
        """How many test images there are."""

    @abstractmethod
    def train(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """``steps`` shuffled, augmented batches: [B, C, H, W] float32 normalised, [B] int64."""

    @abstractmethod
    def test(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Every test image once, in order; the last batch may be smaller."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the batches, in plain values; the same in every process of a run."""

    def state_dict(self) -> dict[str, Any]:
        return self.identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that these are the batches the state was saved with; there is nothing to restore.

        Raises:
            ValueError: they are not; names what differs.
        """
        if differs := difference(self.identity(), state):
            what, now, then = differs
            raise ValueError(f"data: {what} is {now!r}, was {then!r} when the run was saved")


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The random numbers of one epoch; the multiplier keeps seeds' epochs from coinciding."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, of [N, C, H, W] uint8 taken as [0, 1]; 4 digits.

    A constant channel gets a deviation of 1, which leaves it at 0.
    """
    mean, std = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).double()
        share, values = counts / counts.sum(), torch.arange(256).double() / 255
        average = (share * values).sum()
        mean.append(round(average.item(), 4))
        std.append(round((share * (values - average) ** 2).sum().sqrt().item(), 4) or 1.0)
    return tuple(mean), tuple(std)


def per_channel(
    field: str, values: Sequence[float] | None, channels: int
) -> tuple[float, ...] | None:
    """Check mean or std.

    Raises:
        ValueError: not one value a channel, or out of range.
    """
    if values is None:
        return None
    if len(values) != channels:
        raise ValueError(f"data.{field}: {list(values)}, must be {channels} numbers, one a channel")
    # Numbers above 1 are those of images in [0, 255].
    if field == "mean" and not all(0 <= value <= 1 for value in values):
        raise ValueError(f"data.mean: {list(values)}, must be from 0 to 1, as images are")
    if field == "std" and not all(LEAST_STD <= value <= 1 for value in values):
        raise ValueError(
            f"data.std: {list(values)}, must be above 0 (at least {LEAST_STD}) and at most 1"
        )
    return tuple(float(v) for v in values)


def steps_per_epoch(images: int, batch_size: int, world: int) -> int:
    """Full steps an epoch.

    Raises:
        ValueError: not even one.
    """
    steps = images // (batch_size * world)
    if steps == 0:
        shared = f" x {world} processes" if world > 1 else ""
        raise ValueError(
            f"train.batch_size: {batch_size}{shared} is more than the {images} training images"
        )
    return steps


def choose(labels: Tensor, classes: Sequence[str], n: int, seed: int) -> Tensor:
    """The n training images of data.train_limit, :func:`stratified`.

    Raises:
        ValueError: n out of range, or so small that a class has none.
    """
    chosen = stratified(labels, n, seed)
    left = set(labels[chosen].tolist())
    without = [name for label, name in enumerate(classes) if label not in left]
    if without:
        raise ValueError(
            f"data.train_limit: {n} leaves {len(without)} of {len(classes)} classes without an"
            f" image, such as {without[0]!r}; must be larger"
        )
    return chosen


def stratified(labels: Tensor, n: int, seed: int) -> Tensor:
    """n indices with the classes' shares kept, as the beginning of one seeded order.

    A smaller n with the same seed gives a subset of a larger one.

    Args:
        labels: [N] int64.
        n: how many, 1 to N.

    Returns:
        [n] int64, ascending.

    Raises:
        ValueError: n out of range.
    """
    if not 1 <= n <= len(labels):
        raise ValueError(f"data.train_limit: {n}, must be from 1 to {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        # The k-th of a class of m stands at (k + 1/2)/m of the order.
        position[shuffled] = (torch.arange(len(members)).double() + 0.5) / len(members)
    return position.argsort(stable=True)[:n].sort().values
