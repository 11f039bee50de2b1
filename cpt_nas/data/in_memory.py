"""Images in memory, augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cpt_nas.data.batches import (
    AUGMENTS,
    Batch,
    Batches,
    channel_statistics,
    epoch_generator,
    per_channel,
    steps_per_epoch,
)
from cpt_nas.data.images import Images


class MemoryBatches(Batches):
    """Batches from images held in memory.

    Args:
        training, testing: the two sets, of the same classes.
        batch_size: images a training step of one process.
        seed: of order and augmentation.
        augment: ``none``, ``crop`` (padded by an eighth of each side with black, as usual on
            CIFAR), or ``crop+flip``.
        mean, std: a value a channel, for images in [0, 1]; None: the training images' own.
        rank, world: this process and how many share each step. Together they see the images one
            process would see with ``world`` times the batch size, augmented alike.
        channels_last: memory format of the batches.

    Raises:
        ValueError: an unknown augmentation, mean or std not one a channel, or a step that takes
            more images than there are.
    """

    crop_pct = 1.0

    def __init__(
        self,
        training: Images,
        testing: Images,
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

    @property
    def labels(self) -> Tensor:
        return self.training.labels

    @property
    def test_images(self) -> int:
        return len(self.testing)

    def identity(self) -> dict[str, Any]:
        return {
            "images": len(self.training),
            "input_size": list(self.training.images.shape[1:]),
            "classes": list(self.classes),
            "step_size": self.batch_size * self.world,
            "augment": self.augment,
            "seed": self.seed,
            "names_sizes_labels": [self.training.digest, self.testing.digest],
            "contents_of_images": [self.training.contents, self.testing.contents],
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
        """(rows down, columns right, mirrored) of n images, or None for no augmentation."""
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
    """Shift each image, filling with zeros, then mirror some left to right.

    The same as cutting an unpadded-size window out of the zero-padded image, with one gather
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
