"""Where results go: only what is new, empty or of the same kind is written to, the rest is refused.

A result is moved into a folder whole: it is made in a folder inside, and the file that stands
for all of it, such as a report's page, comes last, after everything else is in place. So where that
file is, the result is complete; what a killed program left is removed by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hwprofiles.files import write_whole

REPLACED = "replaced"
SHOWN = 3  # names of what a folder holds


def refuse_foreign_folder(path: Path, what: str, last: str, is_one: Callable[[Path], bool]) -> None:
    """Check, before any work, that a folder may be written.

    Args:
        path: new, empty, or one that the same command has written before.
        what: it is to be, such as 'a report'.
        last: the file that stands for all of it, see :func:`write_folder`.
        is_one: whether a folder that is not empty is one.

    Raises:
        ValueError: it is a file, or holds something else.
    """
    if not path.exists():
        _refuse_blocked(path)
        return
    if not path.is_dir():
        raise ValueError(f"output: {path} is a file, must be a folder")
    found = sorted(entry.name for entry in path.iterdir())
    if found and not staging(path, last).is_dir() and not is_one(path):
        holds = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise ValueError(
            f"output: {path} is not empty and is not {what} (it holds {holds}); "
            "name a new or empty folder"
        )


def refuse_foreign_file(path: Path, what: str, is_one: Callable[[Path], bool]) -> None:
    """Check, before any work, that a file may be written.

    Args:
        path: new, empty, or one of the same kind.
        what: it is to be, such as 'a profile'.
        is_one: whether a file that is not empty is one.

    Raises:
        ValueError: it is a folder, or holds something else.
    """
    if path.is_dir():
        raise ValueError(f"output: {path} is a folder, give the file to write")
    if not path.exists():
        _refuse_blocked(path)
    elif not path.is_file():
        raise ValueError(f"output: {path} is not a regular file")
    elif path.stat().st_size and not is_one(path):
        raise ValueError(f"output: {path} exists and is not {what}; name another file")


def _refuse_blocked(path: Path) -> None:
    """Raises ValueError where one of the folders above is a file."""
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"output: {path}: {parent} is a file, must be a folder")
            return


def write_folder(
    folder: Path, files: Mapping[str, bytes], last: str, belonging: Callable[[str], Iterable[str]]
) -> None:
    """Put files into a folder so that ``last`` is there only beside all the others.

    Args:
        folder: made if missing; what else is in it stays.
        files: path inside the folder -> content.
        last: the file that stands for all of them.
        belonging: content of an older ``last`` -> the files that came with it; those that are not
            written again are removed.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = staging(folder, last)
    try:
        older = _older(folder, last)
        shutil.rmtree(unfinished, ignore_errors=True)
        for name, data in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        if older is not None:
            write_whole(unfinished / REPLACED, older)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if made:
            folder.rmdir()
        raise
    (folder / last).unlink(missing_ok=True)
    for name in set(belonging(older or "")) - set(files):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == last):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, folder / name)
    shutil.rmtree(unfinished)


def staging(folder: Path, last: str) -> Path:
    """Where files wait until all of them are written."""
    return folder / f".unfinished-{last}"


def _older(folder: Path, last: str) -> str | None:
    """The older ``last``, where a killed program has already taken it away."""
    for path in (folder / last, staging(folder, last) / REPLACED):
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return None
