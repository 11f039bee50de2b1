"""A folder of files, links followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cpt_nas.data.formats import hidden, shown
from cpt_nas.data.origin import File, Listing, Place

Identity = tuple[int, int]


class Folder(Place):
    """A folder on disk with all folders below it.

    Links are followed. A link to a folder above it holds nothing new and is passed over; a folder
    that is reached twice in another way would count its images twice and is refused.
    """

    def read(self, file: File) -> bytes:
        if file.fault is not None:
            raise OSError(file.fault)
        return (self.path / file.name).read_bytes()

    def listing(self) -> Listing:
        listing = Listing()
        seen: dict[Identity, str] = {}
        top = tuple(_identity(folder) for folder in self.path.resolve().parents)
        pending: list[tuple[str, tuple[Identity, ...]]] = [("", top)]
        while pending:
            name, above = pending.pop()
            try:
                identity = _identity(self.path / name)
                if identity in above:
                    listing.passed_over["link to a folder above it"] += 1
                    continue
                entries = sorted(os.scandir(self.path / name), key=lambda entry: entry.name)
            except OSError as error:
                listing.files.append(File(name, 0, fault=error.strerror))
                continue
            if identity in seen and hidden(name) is None:
                raise ValueError(
                    f"data.root: {self.path}: {shown(name)} and {shown(seen[identity])} are the"
                    " same folder, its images would count twice"
                )
            seen[identity] = name
            if name:
                listing.folders.add(name)
            for entry in reversed(entries):
                child = f"{name}/{entry.name}" if name else entry.name
                try:
                    status = entry.stat()
                except OSError as error:
                    listing.files.append(File(child, 0, fault=f"broken link: {error.strerror}"))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append((child, (*above, identity)))
                else:
                    fault = None if stat.S_ISREG(status.st_mode) else "is not a regular file"
                    listing.files.append(File(child, status.st_size, fault=fault))
        return listing


def _identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino
