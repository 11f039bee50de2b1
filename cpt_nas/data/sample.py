"""A few images, without reading the rest: for trying what a finished network computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from cpt_nas.data.config import DataConfig
from cpt_nas.data.decode import decode_split
from cpt_nas.data.formats import SUFFIXES, passed_over, shown
from cpt_nas.data.images import load_digits
from cpt_nas.data.inventory import TEST_NAMES, Split, find_split, place_at
from cpt_nas.data.torchvision_sets import FOLDERS, torchvision_split


def test_images(data: DataConfig, size: tuple[int, int, int], n: int) -> Tensor:
    """Some of a recipe's test images, spread evenly over them.

    Args:
        data: section of the recipe. Nothing is downloaded.
        size: channels, height, width.
        n: how many, or all that there are.

    Returns:
        [n, C, H, W] uint8.

    Raises:
        ValueError: they are not at hand, or cannot be read; names what is missing.
    """
    if data.name == "digits":
        images = load_digits(size)[1].images
        return images[_spread(len(images), n)]
    if data.root is None:
        raise ValueError(f"data.root: is missing; {data.name} needs a folder")
    root = Path(data.root)
    if data.name == "images" or data.name.lower() in FOLDERS:
        return _decoded(find_split(root, TEST_NAMES), size, n)
    return _decoded(torchvision_split(data.name, root, training=False, download=False), size, n)


def images_below(path: Path, size: tuple[int, int, int], n: int) -> Tensor:
    """Some of the images of a folder or an archive, with all folders in it, spread over the names.

    Args:
        path: a folder, .tar or .tar.gz.
        size: channels, height, width.
        n: how many, or all that there are.

    Returns:
        [n, C, H, W] uint8.

    Raises:
        ValueError: there is no such folder, it holds no images, or one cannot be read.
    """
    if not path.exists():
        raise ValueError(f"data: no such folder: {path}")
    place = place_at(path)
    files = [f for f in place.listing().files if f.fault is None and passed_over(f.name) is None]
    if not files:
        raise ValueError(f"data: {path} holds no images; read: {', '.join(SUFFIXES)}")
    files.sort(key=lambda file: file.name)
    labels = torch.zeros(len(files), dtype=torch.int64)
    return _decoded(Split(path.name, str(path), place, files, labels, ("",)), size, n)


def _decoded(split: Split, size: tuple[int, int, int], n: int) -> Tensor:
    chosen = _spread(len(split), n)
    files = [split.files[i] for i in chosen]
    some = dataclasses.replace(split, files=files, labels=split.labels[torch.tensor(chosen)])
    pixels, found = decode_split(some, size, 1, lambda stage, done, total: None)
    if found.unreadable:
        name, why = found.unreadable[0]
        raise ValueError(f"data: {split.where}: {shown(name)} is not a readable image: {why}")
    return pixels


def _spread(of: int, n: int) -> list[int]:
    n = min(n, of)
    return [i * of // n for i in range(n)]
