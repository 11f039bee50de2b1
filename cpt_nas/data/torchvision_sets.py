"""torchvision's data sets by timm's names, as splits like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cpt_nas.data.inventory import Split
from cpt_nas.data.origin import File, Origin
from cpt_nas.data.pixels import reason

# torchvision's readers of folders of images; our own inventory reads these.
FOLDERS = ("torch/image_folder", "torch/folder")


class TorchvisionSet(Origin):
    """The images of one of torchvision's data sets."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def read(self, file: File) -> Image.Image:
        try:
            image: Image.Image = self.dataset[file.at][0]
        # Whatever torchvision stumbles over while it reads an image is the image's fault.
        except Exception as error:
            raise OSError(reason(error)) from None
        return image


def torchvision_split(name: str, root: Path, training: bool, download: bool) -> Split:
    """One split of, for instance, ``torch/cifar10``.

    Raises:
        ValueError: an unknown name, a set that is no classification of images, or nothing under
            ``root`` while ``download`` is off.
    """
    from timm.data import create_dataset

    if not download and not root.is_dir():
        raise ValueError(f"data.root: no such folder: {root}; data.download=true makes it")
    split = "train" if training else "validation"
    try:
        dataset = create_dataset(name, root=str(root), split=split, download=download)
    except AssertionError:
        raise ValueError(f"data.name: timm knows no {name!r}, try torch/cifar10") from None
    # Whatever torchvision stumbles over while it reads its files is the files' fault.
    except Exception as error:
        raise ValueError(
            f"data.root: {root}: {name} cannot be loaded: {reason(error)} (data.download=true)"
        ) from None
    if len(dataset) == 0:
        raise ValueError(f"data.root: {root}: {name} holds no images")
    labels = torch.as_tensor(getattr(dataset, "targets", ()))
    classes = tuple(_class_name(c) for c in getattr(dataset, "classes", ()))
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(dataset):
        raise ValueError(f"data.name: {name} has not one label an image, try torch/cifar10")
    if not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"data.root: {root}: {name} has labels from {labels.min()} to {labels.max()}"
            f" for {len(classes)} classes"
        )
    labels = labels.long()
    files = [File(f"{i:09d}", 0, i) for i in range(len(labels))]
    where = f"{name} {split}"
    return Split(where, f"{root}: {where}", TorchvisionSet(dataset), files, labels, classes)


def _class_name(name: Any) -> str:
    """ImageNet's classes are tuples of synonyms."""
    return name if isinstance(name, str) else ", ".join(name)
