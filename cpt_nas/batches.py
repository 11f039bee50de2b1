"""Pictures in memory as batches on the device, cropped and flipped a whole batch at a time.

An epoch's batches are a function of (seed, epoch) alone: a resumed run sees the same pictures
without carrying anything along, and every process of a distributed run draws the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_nas.pictures import Pictures

AUGMENTS = ("none", "crop", "crop+flip")

Batch = tuple[Tensor, Tensor]


class Batches(ABC):
    """Batches of one process.

    Attributes:
        classes: names, in the order of the labels.
        batch_size: pictures a training step of this process.
        steps: training steps an epoch; the pictures left over wait for another epoch's order.
        mean, std: what pictures in [0, 1] are normalised with, a value a channel.
    """

    classes: tuple[str, ...]
    batch_size: int
    steps: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @abstractmethod
    def train(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """``steps`` shuffled, augmented batches: [B, C, H, W] float32 normalised, [B] int64."""

    @abstractmethod
    def test(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Every test picture once, in order; the last batch may be smaller."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the batches, in plain values."""

    def state_dict(self) -> dict[str, Any]:
        return self.identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that these are the batches the state was saved with; there is nothing to restore.

        Raises:
            ValueError: they are not; names what differs.
        """
        mine = self.identity()
        for key in mine | state:
            if mine.get(key) != state.get(key):
                raise ValueError(
                    f"data: {key} is {mine.get(key)}, was {state.get(key)} when the run was saved"
                )


class MemoryBatches(Batches):
    """Batches from pictures held in memory.

    Args:
        training, testing: the two sets, of the same classes.
        batch_size: pictures a training step of one process.
        seed: of order and augmentation.
        augment: ``none``, ``crop`` (padded by an eighth of each side with black, as usual on
            CIFAR), or ``crop+flip``.
        mean, std: a value a channel, for pictures in [0, 1]; None: the training pictures' own.
        rank, world: this process and how many share each step. Together they see the pictures one
            process would see with ``world`` times the batch size, augmented alike.
        channels_last: memory format of the batches.

    Raises:
        ValueError: an unknown augmentation, mean or std not one a channel, or a step that takes
            more pictures than there are.
    """

    def __init__(
        self,
        training: Pictures,
        testing: Pictures,
        *,
        batch_size: int,
        seed: int = 0,
        augment: str = "crop+flip",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
    ) -> None:
        if augment not in AUGMENTS:
            raise ValueError(f"data.augment: {augment!r}, must be one of {', '.join(AUGMENTS)}")
        self.training, self.testing = training, testing
        self.classes, self.batch_size = training.classes, batch_size
        self.seed, self.augment, self.rank, self.world = seed, augment, rank, world
        self.steps = steps_per_epoch(len(training), batch_size, world)
        channels = training.images.shape[1]
        own_mean, own_std = channel_statistics(training.images)
        self.mean = per_channel("mean", mean, channels) or own_mean
        self.std = per_channel("std", std, channels) or own_std
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def identity(self) -> dict[str, Any]:
        return {
            "pictures": len(self.training),
            "input_size": list(self.training.images.shape[1:]),
            "classes": list(self.classes),
            "step_size": self.batch_size * self.world,
            "augment": self.augment,
            "seed": self.seed,
        }

    def train(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        generator = epoch_generator(self.seed, epoch)
        order = torch.randperm(len(self.training), generator=generator)
        share = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for picked in order.split(self.batch_size * self.world)[: self.steps]:
            # Drawn for all processes alike, so that their generators stay together.
            moves = self._moves(len(picked), generator)
            images = self.training.images[picked[share]].to(device)
            if moves is not None:
                images = shift_and_flip(images, *(m[share].to(device) for m in moves))
            yield self._normalise(images), self.training.labels[picked[share]].to(device)

    def test(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        images = self.testing.images.split(self.batch_size)
        for x, y in zip(images, self.testing.labels.split(self.batch_size)):
            yield self._normalise(x.to(device)), y.to(device)

    def _moves(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
        """(rows down, columns right, mirrored) of n pictures, or None for no augmentation."""
        if self.augment == "none":
            return None
        reach_h, reach_w = (side // 8 for side in self.training.images.shape[-2:])
        down = torch.randint(-reach_h, reach_h + 1, (n,), generator=generator)
        right = torch.randint(-reach_w, reach_w + 1, (n,), generator=generator)
        share = 0.5 if self.augment == "crop+flip" else 0.0
        return down, right, torch.rand(n, generator=generator) < share

    def _normalise(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        x = images.float().sub_(255 * mean).div_(255 * std)
        return x.contiguous(memory_format=self.memory_format)


def shift_and_flip(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Shift each picture, filling with zeros, then mirror some left to right.

    The same as cutting an unpadded-size window out of the zero-padded picture, with one gather
    for the whole batch.

    Args:
        images: [B, C, H, W], any dtype.
        down: [B] int64, rows; negative is up.
        right: [B] int64, columns; negative is left.
        mirrored: [B] bool.
    """
    height, width = images.shape[-2:]
    reach = int(torch.stack([down.abs().max(), right.abs().max()]).max())
    padded = F.pad(images, (reach, reach, reach, reach))
    rows = torch.arange(height, device=images.device) - down[:, None] + reach
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns - right[:, None] + reach
    which = torch.arange(len(images), device=images.device)[:, None, None]
    # The indexed dimensions come first, the channels last: back to [B, C, H, W].
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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
        ValueError: not one value a channel, or a std that is not positive.
    """
    if values is None:
        return None
    if len(values) != channels:
        raise ValueError(f"data.{field}: {list(values)}, must be {channels} numbers, one a channel")
    if field == "std" and not min(values) > 0:
        raise ValueError(f"data.std: {list(values)}, must be above 0")
    return tuple(float(v) for v in values)


def steps_per_epoch(pictures: int, batch_size: int, world: int) -> int:
    """Full steps an epoch.

    Raises:
        ValueError: not even one.
    """
    steps = pictures // (batch_size * world)
    if steps == 0:
        shared = f" x {world} processes" if world > 1 else ""
        raise ValueError(
            f"train.batch_size: {batch_size}{shared} is more than the {pictures} training pictures"
        )
    return steps


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
