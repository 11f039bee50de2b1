"""What an inventory has found, as plain data, and archives made entry by entry."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from cpt_nas.data.archive import Archive
from cpt_nas.data.folder import Folder
from cpt_nas.data.inventory import Split, take_inventory


def listed(split: Split) -> dict[str, str]:
    """Name -> class of a split's images."""
    return {f.name: split.classes[n] for f, n in zip(split.files, split.labels.tolist())}


def outcome(path: Path) -> tuple[object, ...]:
    """What an inventory says, without the place's own name."""
    place = Folder(path) if path.is_dir() else Archive(path)
    try:
        split = take_inventory(place)
    except ValueError as error:
        assert "\n" not in str(error)
        return ("refused", str(error).replace(str(path), "PATH"))
    assert len(split.files) == len(split)
    return (listed(split), split.classes, split.digest, split.passed_over)


def tar_of(path: Path, *entries: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path
