"""Large image sets, read from disk as training goes, through timm's transforms and loader."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from timm.data import DEFAULT_CROP_PCT, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_loader
from torch.utils.data import Dataset, RandomSampler

from cpt_nas.data.batches import (
    Batch,
    Batches,
    choose,
    epoch_generator,
    per_channel,
    steps_per_epoch,
)
from cpt_nas.data.config import DataConfig, LoaderSettings
from cpt_nas.data.formats import shown
from cpt_nas.data.inventory import Split
from cpt_nas.data.pixels import Unreadable, decode, reason


class LoaderBatches(Batches):
    """Batches from disk.

    ``augment: crop`` is timm's random resized crop here, ``crop+flip`` mirrors half of the
    images as well; test images are scaled and cropped as timm evaluates. At least one worker
    process reads: its random numbers are the epoch's own, while this process's belong to the
    training.

    Args:
        training, testing: the two splits, of the same classes, readable in any order.
        data, train: sections of the recipe.
        rank, world: this process and how many share each step; above one, the processes must
            have joined a torch.distributed group.
        contents: of the images of both splits, see
            :attr:`cpt_nas.data.decode.Findings.contents`.

    Raises:
        ValueError: mean and std not one a channel, or a step that takes more images than there
            are. While they are read: an image cannot be decoded any more, or a worker died.
    """

    crop_pct = DEFAULT_CROP_PCT

    def __init__(
        self,
        training: Split,
        testing: Split,
        data: DataConfig,
        train: LoaderSettings,
        *,
        rank: int = 0,
        world: int = 1,
        contents: tuple[str, str] = ("", ""),
    ) -> None:
        self.data, self.settings, self.rank, self.world = data, train, rank, world
        self.contents = contents
        self.splits, self.classes = (training, testing), training.classes
        channels = data.input_size[0]
        self.training, self.testing = (SplitDataset(s, channels) for s in self.splits)
        if data.train_limit is not None:
            chosen = choose(training.labels, training.classes, data.train_limit, train.seed)
            self.training = SplitDataset(training, channels, chosen)
        self.batch_size = train.batch_size
        self.steps = steps_per_epoch(len(self.training), train.batch_size, world)
        usual = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        mean, std = (values if channels == 3 else (sum(values) / 3,) for values in usual)
        self.mean = per_channel("mean", data.mean, channels) or mean
        self.std = per_channel("std", data.std, channels) or std

    @property
    def labels(self) -> torch.Tensor:
        return self.training.split.labels[self.training.chosen]

    @property
    def test_images(self) -> int:
        return len(self.testing)

    def identity(self) -> dict[str, Any]:
        return {
            "images": len(self.training),
            "input_size": list(self.data.input_size),
            "classes": list(self.classes),
            "step_size": self.batch_size * self.world,
            "augment": self.data.augment,
            "seed": self.settings.seed,
            "names_sizes_labels": [split.digest for split in self.splits],
            "contents_of_images": list(self.contents),
        }

    def train(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        loader = self._loader(self.training, torch.device(device), training=True)
        generator = epoch_generator(self.settings.seed * self.world + self.rank, epoch)
        inner = getattr(loader, "loader", loader)  # timm's prefetcher wraps torch's loader
        inner.generator = generator
        if isinstance(inner.sampler, RandomSampler):
            inner.sampler.generator = generator
        else:
            inner.sampler.seed = self.settings.seed
            inner.sampler.set_epoch(epoch)
        yield from self._on(device, loader, self.steps)

    def test(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        yield from self._on(device, self._loader(self.testing, torch.device(device), False))

    def _on(
        self, device: torch.device | str, loader: Any, steps: int | None = None
    ) -> Iterator[Batch]:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        batches = itertools.islice(loader, steps)
        try:
            for x, y in batches:
                yield x.to(device, memory_format=layout), y.to(device)
        except (Unreadable, RuntimeError) as error:
            failure = self._plainly(error)
            if failure is None:
                raise
            # Otherwise torch's frames would hold on to the workers in a circle, long after.
            traceback.clear_frames(error.__traceback__)
        else:
            return
        del batches  # ends the workers
        raise ValueError(failure)

    def _plainly(self, error: Exception) -> str | None:
        """In one line what a worker says; None where it is not about the images."""
        if isinstance(error, Unreadable):
            # torch puts the worker's traceback into the message, the original in the last line.
            message = str(error).strip().splitlines()[-1]
            return message.removeprefix(f"{Unreadable.__module__}.Unreadable: ")
        if str(error).startswith("DataLoader worker (pid"):
            return (
                f"data.workers: {self.data.workers}: a process that reads images was ended,"
                " perhaps for want of memory; set fewer workers or a smaller train.batch_size"
            )
        return None

    def _loader(self, dataset: Any, device: torch.device, training: bool) -> Any:
        return create_loader(
            dataset,
            input_size=self.data.input_size,
            batch_size=self.batch_size,
            is_training=training,
            no_aug=self.data.augment == "none",
            hflip=0.5 if self.data.augment == "crop+flip" else 0.0,
            color_jitter=None,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            mean=self.mean,
            std=self.std,
            num_workers=max(1, self.data.workers),
            distributed=training and self.world > 1,
            device=device,
            use_prefetcher=device.type == "cuda",
            pin_memory=device.type == "cuda",
            persistent_workers=False,
        )


class SplitDataset(Dataset[tuple[Any, int]]):
    """A split, or some of its images, one at a time; timm's loader sets ``transform``.

    Args:
        split: readable in any order.
        channels: 1 or 3.
        chosen: [N] int64, which of its images; None: all.
    """

    def __init__(self, split: Split, channels: int, chosen: torch.Tensor | None = None) -> None:
        self.split, self.channels = split, channels
        self.chosen = torch.arange(len(split)) if chosen is None else chosen
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        index = int(self.chosen[position])
        file = self.split.files[index]
        try:
            image = decode(self.split.origin.read(file), self.channels).image
        except (OSError, MemoryError, Unreadable) as error:
            raise Unreadable(
                f"data.root: {self.split.where}: {shown(file.name)} is not a readable image any"
                f" more: {reason(error)}"
            ) from None
        return self.transform(image), int(self.split.labels[index])
