"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""What a file's name ends in while it is being written, in the folder where it will be."""


ROOM = 2**20
"""Bytes for which there must be room where a result is to be written; most take a tenth."""


def try_writing(path: Path, size: int = ROOM) -> None:
    """Find out whether ``write_whole`` could write so much, before the work for it is done.

    Nothing is left behind, and a file that is there stays. Folders that are missing are not made.

    Args:
        path: of the file.
        size: bytes.

    Raises:
        OSError: it cannot be written; names ``path`` and the reason, such as no space left.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    temporary = folder / (path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # the reason why it could not be written says more
            temporary.unlink()


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file, or leave what was there.

    The content is on the disk before the name points to it, so a crash of the machine leaves the
    old file or the new one. A process that is killed leaves ``NAME.tmp`` behind.

    Args:
        path: in a folder that is there.
        content: text is written as UTF-8.

    Raises:
        OSError: it cannot be written; names ``path`` and the reason, such as no space left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # The system names the temporary file, or none at all where the disk is full.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # the reason why it could not be written says more
            temporary.unlink()
