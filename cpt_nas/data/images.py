"""Small image sets as one uint8 tensor: where they come from and what is checked.

A set that fits in memory is decoded once per run and never written to disk again; the training
loop then pays for an index and a crop, not for JPEG.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils.misc import natural_key
from torch.nn import functional as F

from cpt_nas.data.decode import Decoder, Item

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
# The first that exists is taken, as a folder or as an archive.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "valid", "validation", "eval")
# The digits have no split of their own; one for all seeds, so that runs stay comparable.
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Images:
    """Images in memory.

    Attributes:
        images: [N, C, H, W] uint8.
        labels: [N] int64, indices into ``classes``.
        classes: names, in the order of the labels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: torch.Tensor) -> Images:
        return Images(self.images[indices], self.labels[indices], self.classes)


# ---- sources ----------------------------------------------------------------------------------


def load_digits(input_size: tuple[int, int, int]) -> tuple[Images, Images]:
    """scikit-learn's 1,797 handwritten 8x8 digits, resized; 80 % to train, 20 % to test.

    The split is stratified and the same for every seed.
    """
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    bunch = sklearn_digits()
    channels, height, width = input_size
    pixels = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)  # 0..16 as shipped
    resized = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    images = resized.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1)
    labels = torch.from_numpy(bunch.target).long()
    everything = Images(images.contiguous(), labels, tuple(str(d) for d in range(10)))
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=0.2,
        stratify=bunch.target,
        random_state=DIGITS_SPLIT_SEED,
    )
    return everything.subset(torch.from_numpy(train)), everything.subset(torch.from_numpy(test))


def find_split(root: Path, names: tuple[str, ...]) -> Path:
    """The folder or archive of a split under ``root``.

    Raises:
        ValueError: there is none.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: no such folder: {root}")
    for name in names:
        for suffix in ("", *ARCHIVES):
            path = root / (name + suffix)
            if path.is_dir() if suffix == "" else path.is_file():
                return path
    raise ValueError(
        f"data.root: {root} has no {names[0]} split; allowed: {', '.join(names)},"
        f" as a folder or with {', '.join(ARCHIVES)}"
    )


def load_images(root: Path, decoder: Decoder) -> tuple[Images, Images]:
    """Train and test images from folders or archives that hold one folder a class.

    Archives are read straight through, never extracted. Images come in the order of their names.

    Raises:
        ValueError: a split is missing or damaged, has no class folders, or the splits' classes
            differ; names the file.
    """
    splits = [find_split(root, names) for names in (TRAIN_NAMES, TEST_NAMES)]
    train, test = (_load_split(path, decoder) for path in splits)
    names = (splits[0].name, splits[1].name)
    check_same_classes(str(root), names, (train.classes, test.classes))
    return train, test


def check_same_classes(
    root: str, splits: tuple[str, str], classes: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    """Raises ValueError where two splits do not hold the same classes; names some that differ."""
    if classes[0] != classes[1]:
        differ = sorted(set(classes[0]) ^ set(classes[1]))
        listed = ", ".join(differ[:3]) + (", ..." if len(differ) > 3 else "")
        raise ValueError(
            f"data.root: {root}: {splits[0]} and {splits[1]} hold different classes:"
            f" only one has {listed}"
        )


def load_torch(name: str, root: Path, download: bool, decoder: Decoder) -> tuple[Images, Images]:
    """One of torchvision's sets, by timm's name for it, such as ``torch/cifar10``.

    Raises:
        ValueError: an unknown name, or nothing under ``root`` and ``download`` is off.
    """
    if not download and not root.is_dir():
        raise ValueError(f"data.root: no such folder: {root}; data.download=true makes it")
    train, test = (
        _load_torch_split(name, root, split, download, decoder) for split in ("train", "test")
    )
    return train, test


def create_torch_dataset(name: str, root: Path, split: str, download: bool) -> Any:
    """timm.data.create_dataset for a ``torch/...`` name, with one-line errors.

    Raises:
        ValueError: an unknown name, or nothing under ``root`` and ``download`` is off.
    """
    from timm.data import create_dataset

    try:
        return create_dataset(name, root=str(root), split=split, download=download)
    except AssertionError:
        raise ValueError(f"data.name: timm knows no {name!r}, try torch/cifar10") from None
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"data.root: {root}: {name} cannot be loaded: {reason} (data.download=true)"
        ) from None


def _load_torch_split(
    name: str, root: Path, split: str, download: bool, decoder: Decoder
) -> Images:
    dataset = create_torch_dataset(name, root, split, download)
    labels = torch.as_tensor(dataset.targets, dtype=torch.int64)
    n = len(labels)
    items = (
        Item(f"{i:09d}", "", lambda i=i: dataset[i][0], size=0, at=(i + 1) / n)  # type: ignore[misc]
        for i in range(n)
    )
    *_, images = decoder(f"{name} {split}", str(root), items)
    return Images(images, labels, tuple(dataset.classes))


def _load_split(path: Path, decoder: Decoder) -> Images:
    items = _folder_items(path) if path.is_dir() else _archive_items(path)
    names, folders, images = decoder(f"decoding {path.name}", str(path), items)
    of_image = class_names(path, folders, names)
    classes = tuple(sorted(set(of_image), key=natural_key))  # timm's order: 2 before 10
    index = {name: i for i, name in enumerate(classes)}
    return Images(images, torch.tensor([index[c] for c in of_image]), classes)


def class_names(path: Path, folders: list[str], names: list[str]) -> list[str]:
    """A class for every image: its folder, without what all folders have in common.

    Raises:
        ValueError: no images, images outside class folders, or fewer than two classes.
    """
    if not folders:
        raise ValueError(f"data.root: {path} holds no images ({', '.join(SUFFIXES)})")
    distinct = set(folders)
    if len(distinct) < 2:
        raise ValueError(f"data.root: {path} must hold a folder a class, at least two")
    common = os.path.commonpath(distinct) if "" not in distinct else ""
    classes = [folder[len(common) :].lstrip("/") for folder in folders]
    if "" in classes:
        outside = names[classes.index("")]
        raise ValueError(f"data.root: {path}: {outside} lies outside the class folders")
    return classes


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not posixpath.basename(name).startswith(".")


def _folder_items(path: Path) -> Iterator[Item]:
    walk = os.walk(path, followlinks=True)
    files = sorted(Path(at, name) for at, _, here in walk for name in here if _is_image(name))
    for i, file in enumerate(files):
        name = file.relative_to(path).as_posix()
        size = file.stat().st_size
        yield Item(name, posixpath.dirname(name), file.read_bytes, size, (i + 1) / len(files))


def _archive_items(path: Path) -> Iterator[Item]:
    size = path.stat().st_size
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
            for member in archive:
                if not (member.isfile() and _is_image(member.name)):
                    continue
                stream = archive.extractfile(member)
                assert stream is not None, "a regular file"
                content = stream.read()
                name = member.name.removeprefix("./")
                folder = posixpath.dirname(name)
                at = raw.tell() / size
                yield Item(name, folder, lambda c=content: c, len(content), at)  # type: ignore[misc]
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"data.root: {path} is not a readable archive: {reason}") from None
