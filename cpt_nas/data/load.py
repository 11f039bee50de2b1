"""A recipe's images: which source, what it holds, and in memory or read from disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cpt_nas.data.batches import Batches, choose
from cpt_nas.data.config import DataConfig, LoaderSettings
from cpt_nas.data.decode import (
    LIMIT_BYTES,
    Findings,
    UnreadableImages,
    check_split,
    decode_split,
    fits,
)
from cpt_nas.data.formats import shown
from cpt_nas.data.images import DIGITS, Images, load_digits
from cpt_nas.data.in_memory import MemoryBatches
from cpt_nas.data.inventory import (
    TEST_NAMES,
    TRAIN_NAMES,
    Split,
    check_same_classes,
    find_split,
)
from cpt_nas.data.processes import check_agreement, gather, together
from cpt_nas.data.torchvision_sets import FOLDERS, torchvision_split
from hwprofiles.streams import PlainConsole
from hwprofiles.terminal import Report, progress_bar

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

    Every image is decoded once before this returns, and what each split holds is said in a line.

    Args:
        data, train: sections of the recipe.
        rank, world: this process and how many there are. They must read the same images.
        console: where progress and what was read are told; None: nowhere.
        limit_bytes: what one split may take in memory.

    Raises:
        ValueError: anything wrong with the settings or the files; one line that names it.
    """
    check_settings(data)
    console = console or PlainConsole(quiet=True)
    with progress_bar(console) as report:
        if data.name == "digits":
            if not fits(DIGITS, data.input_size, limit_bytes):
                raise ValueError(
                    f"data.input_size: {list(data.input_size)}: the digits take more than"
                    f" {limit_bytes / 2**30:.3g} GiB in memory; set a smaller one"
                )
            digits = _in_memory(load_digits(data.input_size), data, train, rank, world)
            digits.interpolation = "bilinear"
            return digits
        splits = _open_both(data, rank)
        if data.in_memory:
            both = [_decode(split, data, report, console, limit_bytes) for split in splits]
            return _in_memory((both[0], both[1]), data, train, rank, world)
        from cpt_nas.data.streaming import LoaderBatches

        read = [_check(split, data, report, console, rank, world) for split in splits]
        contents = (read[0].contents, read[1].contents)
        return LoaderBatches(*splits, data, train, rank=rank, world=world, contents=contents)


def check_settings(data: DataConfig) -> None:
    """Raises ValueError where the data section contradicts itself."""
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


def _open_both(data: DataConfig, rank: int) -> tuple[Split, Split]:
    """The inventories of both splits, the same in all processes."""
    if data.download:  # by one process; the others find it there
        together(lambda: _open(data) if rank == 0 else None)
    train, test = together(lambda: _open(data))
    check_agreement({"classes": list(train.classes), "training": train.digest, "test": test.digest})
    return train, test


def _open(data: DataConfig) -> tuple[Split, Split]:
    root = Path(str(data.root))
    try:
        if data.name == "images" or data.name.lower() in FOLDERS:
            train, test = (find_split(root, names) for names in (TRAIN_NAMES, TEST_NAMES))
            if os.path.samefile(root / train.name, root / test.name):
                raise ValueError(
                    f"data.root: {root}: {train.name} and {test.name} are the same; testing would"
                    " tell nothing"
                )
        else:
            train, test = (
                torchvision_split(data.name, root, training, data.download)
                for training in (True, False)
            )
    except OSError as error:
        raise ValueError(f"data.root: {error.filename or root}: {error.strerror}") from None
    check_same_classes(str(root), train, test)
    for split in (train, test):
        if not (data.in_memory or split.origin.any_order):
            raise ValueError(
                f"data.root: {split.where}: unzip it first, or set data.in_memory=true"
            )
    return train, test


def _decode(
    split: Split, data: DataConfig, report: Report, console: Console, limit_bytes: int
) -> Images:
    """A split in memory, decoded alike by every process."""

    def work() -> tuple[Images, Counter[str]]:
        pixels, found = decode_split(split, data.input_size, data.workers, report, limit_bytes)
        if found.unreadable:
            raise _unreadable(split, found.unreadable, console)
        of_all = (split.labels, split.classes, split.digest, found.contents)
        return Images(pixels, *of_all), found.remarks

    images, remarks = together(work)
    check_agreement({f"contents of {split.name}": images.contents})
    _say(console, split.summary(remarks))
    return images


def _check(
    split: Split, data: DataConfig, report: Report, console: Console, rank: int, world: int
) -> Findings:
    """Look at every image of a split that will be read from disk; processes share the work."""
    share = slice(rank, None, world)
    found = check_split(split, data.input_size[0], share, data.workers, report)
    everything = Findings()
    for part in gather(found):
        everything += part
    if everything.unreadable:
        raise _unreadable(split, everything.unreadable, console)
    _say(console, split.summary(everything.remarks))
    return everything


def _unreadable(
    split: Split, unreadable: Sequence[tuple[str, str]], console: Console
) -> UnreadableImages:
    """The error; the console gets a line an image, since a line has no room for many."""
    error = UnreadableImages(split, unreadable)
    if len(unreadable) > 1:
        for name, why in error.unreadable:
            _say(console, f"{split.name}: {shown(name)}: {why}")
    return error


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _in_memory(
    both: tuple[Images, Images], data: DataConfig, train: LoaderSettings, rank: int, world: int
) -> MemoryBatches:
    training, testing = both
    if data.train_limit is not None:
        chosen = choose(training.labels, training.classes, data.train_limit, train.seed)
        training = training.subset(chosen)
    augment = data.augment
    if data.name == "digits" and augment == "crop+flip":  # a mirrored digit is none
        augment = "crop"
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
