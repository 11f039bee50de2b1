"""Where the files of a split lie: what can be listed and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

Content = bytes | Image.Image


class File(NamedTuple):
    """One file of a split.

    Attributes:
        name: path below the split, with slashes.
        size: bytes.
        at: where it begins in its archive, or its index in a data set; -1 in a folder.
        fault: why it cannot be read, in words; None where nothing is known against it.
    """

    name: str
    size: int
    at: int = -1
    fault: str | None = None


@dataclass
class Listing:
    """What a folder or an archive holds.

    Attributes:
        files: all of them, in no order.
        folders: names of all folders below the top.
        passed_over: reason -> how many things that are not among the files.
    """

    files: list[File] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    passed_over: Counter[str] = field(default_factory=Counter)


class Origin(ABC):
    """Where files are read from; picklable, and may be read from several threads."""

    any_order = True  # False where only read_all is possible

    @abstractmethod
    def read(self, file: File) -> Content:
        """A file's bytes, or an image.

        Raises:
            OSError: it cannot be read.
        """

    def read_all(self, files: Sequence[File]) -> Iterator[tuple[int, Callable[[], Content]]]:
        """(index, what reads that file) of all files, in the order that is quickest."""
        for index, file in enumerate(files):
            yield index, partial(self.read, file)


class Place(Origin):
    """A folder or an archive.

    Args:
        path: of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def listing(self) -> Listing:
        """Everything in it.

        Raises:
            ValueError: it is damaged or holds something twice; names it.
        """
