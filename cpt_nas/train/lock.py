"""One process at a time writes a run folder.

The lock is the kernel's (flock on a file in the folder): it goes with the process that holds it,
however that ends, so what a dead process leaves behind never blocks anybody.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"

_held: set[int] = set()  # descriptors of the locks of this process


def _forget() -> None:
    """In a forked child, such as one that decodes images: the lock is the parent's alone."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder; it is made if it is missing, and goes again if nothing has come into it.

    Raises:
        ValueError: another process holds it.
        OSError: the folder cannot be made or written; names it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    handle = _lock(folder / LOCK)
    _held.add(handle)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)
        with suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def _lock(path: Path) -> int:
    """The descriptor of the lock's file, which now says who holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return handle
            os.close(handle)  # its holder has removed it meanwhile
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            raise ValueError(
                f"run: {path.parent} is being written by {holder}; wait for its end, or name "
                "another folder"
            ) from None
        except OSError as error:
            os.close(handle)
            raise OSError(error.errno, error.strerror, str(path)) from None
