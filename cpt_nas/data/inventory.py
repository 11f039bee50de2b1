"""The inventory of a split: which files are its images, and of which class; both readers use it."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cpt_nas.data.archive import Archive
from cpt_nas.data.folder import Folder
from cpt_nas.data.formats import SUFFIXES, hidden, passed_over, shown
from cpt_nas.data.origin import File, Origin, Place

ARCHIVES = (".tar", ".tar.gz", ".tgz")
# The first that holds images is taken, as a folder or as an archive.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "valid", "validation", "eval")
LISTED = 3  # names in a message before it says how many more there are


class NoImages(ValueError):
    """A split that holds nothing that could be an image."""


@dataclass(frozen=True)
class Split:
    """What a split holds.

    Attributes:
        name: of its folder or archive.
        where: what messages call it, its path.
        origin: reads its files.
        files: its images, in the order of their names.
        labels: [N] int64, indices into ``classes``.
        classes: names, in the order of :func:`class_order`.
        passed_over: reason -> how many files are no images of it.
        unread: what stands beside it and could be taken for the same split.
    """

    name: str
    where: str
    origin: Origin
    files: Sequence[File]
    labels: torch.Tensor
    classes: tuple[str, ...]
    passed_over: Counter[str] = field(default_factory=Counter)
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digest(self) -> str:
        """Of the images' names, sizes and labels, in order; the same in a folder and an archive."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels.tolist()):
            digest.update(f"{file.name}\0{file.size}\0{label}\n".encode("utf8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def summary(self, remarks: Counter[str] | None = None) -> str:
        """What was read, in one line.

        Args:
            remarks: what decoding has changed -> in how many images.
        """
        line = f"{self.name}: {len(self)} images of {len(self.classes)} classes"
        line += f" ({few(self.classes)})"
        if self.passed_over:
            line += f"; passed over {self.passed_over.total()}: {kinds(self.passed_over)}"
        for remark, n in sorted((remarks or {}).items()):
            line += f"; {n} {remark}"
        return line + (f"; not read: {', '.join(self.unread)}" if self.unread else "")


def few(names: Sequence[str], most: int = LISTED) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - most
    listed = ", ".join(shown(name) for name in names[:most])
    return f"{listed} and {more} more" if more > 0 else listed


def kinds(counts: Counter[str]) -> str:
    """How many of each kind there are, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return few([f"{n} {why}" for why, n in ordered], 8)


def class_order(name: str) -> tuple[Any, ...]:
    """The one order of classes: numbers in a name by their value, letters without their case.

    Where that leaves a tie, as between 1, 01 and 001, the names themselves decide, so that the
    order is total and the same in every process.
    """
    parts = re.split("([0-9]+)", name.lower())
    digits = [part.lstrip("0") for part in parts]
    natural = tuple((len(d), d) if i % 2 else p for i, (p, d) in enumerate(zip(parts, digits)))
    return natural, name


def find_split(root: Path, names: tuple[str, ...]) -> Split:
    """The inventory of a split under ``root``.

    Raises:
        ValueError: there is none, or it cannot be read as folders of images; names the file.
    """
    if not root.is_dir():
        raise ValueError(f"data.root: no such folder: {root}")
    candidates = [root / (name + suffix) for name in names for suffix in ("", *ARCHIVES)]
    paths = [p for p in candidates if (p.is_file() if p.name.endswith(ARCHIVES) else p.is_dir())]
    if not paths:
        raise ValueError(
            f"data.root: {root} has no {names[0]} split; allowed: {', '.join(names)},"
            f" as a folder or with {', '.join(ARCHIVES)}"
        )
    empty = []
    for path in paths:
        unread = tuple(other.name for other in paths if other != path)
        try:
            return take_inventory(place_at(path), unread)
        except NoImages as error:
            empty.append(error)
    raise empty[0]


def place_at(path: Path) -> Place:
    """Raises ValueError where an archive cannot be opened."""
    try:
        return Folder(path) if path.is_dir() else Archive(path)
    except OSError as error:
        raise ValueError(f"data.root: {path} cannot be read: {error.strerror}") from None


def take_inventory(place: Place, unread: tuple[str, ...] = ()) -> Split:
    """All images of a folder or an archive.

    Raises:
        NoImages: there are none.
        ValueError: it is damaged, or its folders cannot be read as classes; names them.
    """
    listing, where = place.listing(), str(place.path)
    images: list[File] = []
    broken: list[str] = []
    counts = Counter(listing.passed_over)
    reasons: dict[str, Counter[str]] = {}  # folder -> what its files are passed over for
    for file in listing.files:
        reason = passed_over(file.name)
        if reason is None:
            images.append(file)
        elif file.fault is not None and hidden(file.name) is None:
            broken.append(f"{shown(file.name)} ({file.fault})")
        else:
            counts[reason] += 1
            reasons.setdefault(posixpath.dirname(file.name), Counter())[reason] += 1
    if broken:
        raise ValueError(f"data.root: {where}: cannot be read: {few(sorted(broken), 20)}")
    if not images:
        only = f"only {kinds(counts)}" if counts else "it is empty"
        raise NoImages(f"data.root: {where} holds no images, {only}; read: {', '.join(SUFFIXES)}")
    images.sort(key=lambda file: file.name)
    folders = [posixpath.dirname(file.name) for file in images]
    check_no_folder_is_lost(where, {*listing.folders, *reasons}, set(folders), reasons)
    of_image = class_names(where, folders, [file.name for file in images])
    classes = tuple(sorted(set(of_image), key=class_order))
    index = {name: label for label, name in enumerate(classes)}
    labels = torch.tensor([index[name] for name in of_image])
    return Split(place.path.name, where, place, images, labels, classes, counts, unread)


def check_no_folder_is_lost(
    where: str, folders: Iterable[str], occupied: set[str], reasons: dict[str, Counter[str]]
) -> None:
    """Check that every folder holds images, lies above or inside one that does, or is hidden.

    Args:
        where: the split.
        folders: all of them.
        occupied: those that hold images themselves.
        reasons: folder -> what its files are passed over for.

    Raises:
        ValueError: a class would vanish without a word; names it and what it holds.
    """
    inside = {"", *occupied, *(above for folder in occupied for above in _above(folder))}
    lost = {
        folder
        for folder in {*folders, *(above for folder in folders for above in _above(folder))}
        if folder not in inside
        and hidden(folder) is None
        and not any(above in occupied for above in _above(folder))
    }
    tops = sorted((f for f in lost if posixpath.dirname(f) not in lost), key=class_order)
    if tops:
        within = Counter[str]()
        for folder, counts in reasons.items():
            if folder == tops[0] or folder.startswith(tops[0] + "/"):
                within.update(counts)
        raise ValueError(
            f"data.root: {where}: no images in the folder {few(tops)}"
            f" ({'only ' + kinds(within) if within else 'empty'}); allowed: {', '.join(SUFFIXES)}"
        )


def _above(folder: str) -> list[str]:
    """The folders that a folder lies in, without the top."""
    parts = folder.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def class_names(where: str, folders: list[str], names: list[str]) -> list[str]:
    """A class for every image: its folder, without what all folders have in common.

    Args:
        where: the split.
        folders: of every image.
        names: of every image.

    Raises:
        ValueError: images outside class folders, class folders inside others, not all at one
            depth or of names that look alike, or fewer than two classes.
    """
    distinct = set(folders)
    if len(distinct) < 2:
        raise ValueError(f"data.root: {where} must hold a folder a class, at least two")
    common = os.path.commonpath(distinct) if "" not in distinct else ""
    classes = [folder[len(common) :].lstrip("/") for folder in folders]
    if "" in classes:
        outside = [name for name, of_image in zip(names, classes) if of_image == ""]
        lie = "lies" if len(outside) == 1 else "lie"
        raise ValueError(f"data.root: {where}: {few(outside)} {lie} outside the class folders")
    known = set(classes)
    alike: dict[str, str] = {}
    for name in sorted(known):
        if (twin := alike.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise ValueError(f"data.root: {where}: two folders look alike, {twin!a} and {name!a}")
    by_name = sorted(known, key=class_order)
    for name in by_name:
        for above in _above(name):
            if above in known:
                raise ValueError(
                    f"data.root: {where}: {shown(above)} holds both images and the folder"
                    f" {shown(name)} of images; a class is one folder"
                )
    shallow, deep = (of(by_name, key=lambda name: name.count("/")) for of in (min, max))
    if shallow.count("/") != deep.count("/"):
        raise ValueError(
            f"data.root: {where}: class folders lie at several depths: {shown(shallow)} and"
            f" {shown(deep)}; a class is one folder"
        )
    return classes


def check_same_classes(root: str, train: Split, test: Split) -> None:
    """Raises ValueError where two splits do not hold the same classes; names some that differ."""
    if train.classes == test.classes:
        return
    differ = sorted(set(train.classes) ^ set(test.classes), key=class_order)
    if len({unicodedata.normalize("NFC", name) for name in differ}) < len(differ):
        differ = [ascii(name) for name in differ]  # told apart only by how accents are encoded
    raise ValueError(
        f"data.root: {root}: {train.name} and {test.name} hold different classes:"
        f" only one has {few(differ)}"
    )
