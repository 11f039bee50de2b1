"""Large image sets, read from disk as training goes, through timm's datasets and loader."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_loader
from torch.utils.data import RandomSampler, Subset

from cpt_nas.data.batches import (
    Batch,
    Batches,
    epoch_generator,
    per_channel,
    steps_per_epoch,
    stratified,
)
from cpt_nas.data.config import DataConfig, LoaderSettings
from cpt_nas.data.images import (
    TEST_NAMES,
    TRAIN_NAMES,
    check_same_classes,
    create_torch_dataset,
    find_split,
)


class LoaderBatches(Batches):
    """Batches from disk.

    ``augment: crop`` is timm's random resized crop here, ``crop+flip`` mirrors half of the
    images as well; test images are scaled and cropped as timm evaluates. An image that cannot
    be decoded is skipped with a warning, as timm does. At least one worker process reads: its
    random numbers are the epoch's own, while this process's belong to the training.

    Args:
        data, train: sections of the recipe.
        rank, world: this process and how many share each step; above one, the processes must
            have joined a torch.distributed group.

    Raises:
        ValueError: a split is missing or cannot be read, the splits' classes differ, images
            with other channels, or mean and std not one a channel.
    """

    def __init__(
        self, data: DataConfig, train: LoaderSettings, *, rank: int = 0, world: int = 1
    ) -> None:
        self.data, self.settings, self.rank, self.world = data, train, rank, world
        self.training, self.testing = _dataset(data, "train"), _dataset(data, "test")
        self.classes, test_classes = _classes(self.training), _classes(self.testing)
        check_same_classes(str(data.root), ("train", "test"), (self.classes, test_classes))
        self.chosen: Any = self.training
        if data.train_limit is not None:
            indices = stratified(_labels(self.training), data.train_limit, train.seed)
            self.chosen = Subset(self.training, indices.tolist())
        self.batch_size = train.batch_size
        self.steps = steps_per_epoch(len(self.chosen), train.batch_size, world)
        channels = data.input_size[0]
        usual = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        mean, std = (values if channels == 3 else (sum(values) / 3,) for values in usual)
        self.mean = per_channel("mean", data.mean, channels) or mean
        self.std = per_channel("std", data.std, channels) or std

    def identity(self) -> dict[str, Any]:
        return {
            "images": len(self.chosen),
            "input_size": list(self.data.input_size),
            "classes": list(self.classes),
            "step_size": self.batch_size * self.world,
            "augment": self.data.augment,
            "seed": self.settings.seed,
        }

    def train(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        loader = self._loader(self.chosen, torch.device(device), training=True)
        self.training.transform = self.chosen.transform  # where the choice is a Subset
        generator = epoch_generator(self.settings.seed * self.world + self.rank, epoch)
        inner = getattr(loader, "loader", loader)  # timm's prefetcher wraps torch's loader
        inner.generator = generator
        if isinstance(inner.sampler, RandomSampler):
            inner.sampler.generator = generator
        else:
            inner.sampler.seed = self.settings.seed
            inner.sampler.set_epoch(epoch)
        yield from self._on(device, itertools.islice(loader, self.steps))

    def test(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        yield from self._on(device, self._loader(self.testing, torch.device(device), False))

    def _on(self, device: torch.device | str, batches: Any) -> Iterator[Batch]:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        for x, y in batches:
            yield x.to(device, memory_format=layout), y.to(device)

    def _loader(self, dataset: Any, device: torch.device, training: bool) -> Any:
        return create_loader(
            dataset,
            input_size=self.data.input_size,
            batch_size=self.batch_size,
            is_training=training,
            no_aug=self.data.augment == "none",
            hflip=0.5 if self.data.augment == "crop+flip" else 0.0,
            color_jitter=None,
            interpolation="bicubic",
            mean=self.mean,
            std=self.std,
            num_workers=max(1, self.data.workers),
            distributed=training and self.world > 1,
            device=device,
            use_prefetcher=device.type == "cuda",
            pin_memory=device.type == "cuda",
            persistent_workers=False,
        )


def _dataset(data: DataConfig, split: str) -> Any:
    root = Path(str(data.root))
    channels = data.input_size[0]
    if data.name.startswith("torch/"):
        dataset = create_torch_dataset(data.name, root, split, data.download)
        found = len(dataset[0][0].getbands())
        if found != channels:
            raise ValueError(
                f"data.input_size: {channels} channels, but images of {data.name} have {found}"
            )
        return dataset
    path = find_split(root, TRAIN_NAMES if split == "train" else TEST_NAMES)
    if path.name.endswith((".gz", ".tgz")):
        raise ValueError(f"data.root: {path}: unzip it first, or set data.in_memory=true")
    # timm would leave an index of large archives beside them.
    options = {"cache_tarinfo": False} if path.is_file() else {}
    mode = "L" if channels == 1 else "RGB"
    try:
        dataset = create_dataset("", str(path), search_split=False, input_img_mode=mode, **options)
    except (RuntimeError, AssertionError, ValueError, OSError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"data.root: {path} cannot be read: {reason}") from None
    if len(_classes(dataset)) < 2:
        raise ValueError(f"data.root: {path} must hold a folder a class, at least two")
    return dataset


def _classes(dataset: Any) -> tuple[str, ...]:
    """Class names in the order of the labels; torchvision's and timm's datasets differ."""
    if hasattr(dataset, "classes"):
        return tuple(dataset.classes)
    reader = dataset.reader
    index = reader.class_name_to_idx if hasattr(reader, "targets") else reader.class_to_idx
    return tuple(sorted(index, key=index.__getitem__))


def _labels(dataset: Any) -> torch.Tensor:
    if hasattr(dataset, "targets"):
        return torch.as_tensor(dataset.targets)
    reader = dataset.reader
    targets = getattr(reader, "targets", None)  # archives
    return torch.as_tensor([t for _, t in reader.samples] if targets is None else targets)
