"""A recipe's images: which source, in memory or read from disk."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cpt_nas.data.batches import Batches, stratified
from cpt_nas.data.config import DataConfig, LoaderSettings
from cpt_nas.data.decode import LIMIT_BYTES, Decoder
from cpt_nas.data.images import load_digits, load_images, load_torch
from cpt_nas.data.in_memory import MemoryBatches

__all__ = ["Batches", "load_data"]


def load_data(
    data: DataConfig,
    train: LoaderSettings,
    *,
    rank: int = 0,
    world: int = 1,
    console: Console | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> Batches:
    """The training and test images of a recipe.

    ``data.name`` is one of

    * ``digits``: scikit-learn's, embedded there; they are never mirrored;
    * ``images``: ``data.root`` holds ``train`` and ``test`` (or ``val``, ...), each a folder, .tar
      or .tar.gz with one folder a class;
    * ``torch/cifar10``, ``torch/cifar100``, ...: torchvision's, by timm's names.

    Args:
        data, train: sections of the recipe.
        rank, world: this process and how many there are.
        console: where the decoding's progress bar goes; None: nowhere.
        limit_bytes: what one split may take in memory.

    Raises:
        ValueError: anything wrong with the settings or the files; one line that names it.
    """
    channels, height, width = data.input_size
    if channels not in (1, 3) or height < 1 or width < 1:
        raise ValueError(
            f"data.input_size: {list(data.input_size)}, must be 1 or 3 channels, height, width"
        )
    known = ("digits", "images")
    if data.name not in known and not data.name.startswith("torch/"):
        raise ValueError(
            f"data.name: {data.name!r}, must be one of {', '.join(known)}, torch/cifar10, ..."
        )
    if data.name == "digits" and not data.in_memory:
        raise ValueError("data.in_memory: digits are in memory always, must be true")
    if data.name != "digits" and data.root is None:
        raise ValueError(f"data.root: is missing; {data.name} needs a folder")
    if not data.in_memory:
        from cpt_nas.data.streaming import LoaderBatches

        return LoaderBatches(data, train, rank=rank, world=world)

    decoder = Decoder(data.input_size, data.workers, limit_bytes, console)
    augment: str = data.augment
    if data.name == "digits":
        training, testing = load_digits(data.input_size)
        augment = {"crop+flip": "crop"}.get(augment, augment)  # a mirrored digit is none
    elif data.name == "images":
        training, testing = load_images(Path(str(data.root)), decoder)
    else:
        training, testing = load_torch(data.name, Path(str(data.root)), data.download, decoder)
    if data.train_limit is not None:
        training = training.subset(stratified(training.labels, data.train_limit, train.seed))
    return MemoryBatches(
        training,
        testing,
        batch_size=train.batch_size,
        seed=train.seed,
        augment=augment,
        mean=data.mean,
        std=data.std,
        rank=rank,
        world=world,
        channels_last=train.channels_last,
    )
