"""Which images a recipe wants, and what loading them needs to know of its training."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field

from cpt_nas.sections import Section


class DataConfig(Section):
    """Images; see :mod:`cpt_nas.data`.

    Attributes:
        name: digits, images (a folder or archive), or torch/cifar10 and the like.
        root: where the images are; digits need none.
        input_size: channels (1 or 3), height, width.
        mean: a number a channel, from 0 to 1; none: the training images'.
        std: a number a channel, from 0.0001 to 1; none: the training images'.
        in_memory: decode all once; false: read from disk in every epoch.
        augment: none, crop, or crop+flip (digits are never mirrored).
        download: torchvision may download torch/... data.
        train_limit: so many training images, the same share of every class; none: all.
        workers: that decode images; at most 256.
    """

    name: str = "digits"
    root: str | None = None
    input_size: tuple[int, int, int] = (3, 32, 32)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    in_memory: bool = True
    augment: Literal["none", "crop", "crop+flip"] = "crop+flip"
    download: bool = False
    train_limit: int | None = Field(default=None, gt=0)
    workers: int = Field(default=4, ge=0, le=256)


class LoaderSettings(Protocol):
    """What loading needs to know of the training."""

    @property
    def batch_size(self) -> int:
        """Examples a process and step."""

    @property
    def seed(self) -> int:
        """Of the order and the augmentation."""

    @property
    def channels_last(self) -> bool:
        """Memory format of the batches."""
