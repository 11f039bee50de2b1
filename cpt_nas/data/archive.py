"""A tar archive, plain or gzipped, read without extracting it."""

from __future__ import annotations

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from cpt_nas.data.origin import File, Listing, Place

BLOCK = 512  # bytes; everything in a tar archive is a multiple of it
GZIP_MAGIC = b"\x1f\x8b"


class Archive(Place):
    """A .tar or .tar.gz; which of both its first bytes tell.

    Every byte is accounted for: an archive is refused unless its members are followed by the mark
    of its end and then by nothing, since tarfile takes a damaged header for the end. Links lead
    to other members, never out of the archive. Of several members of one name the last counts, as
    it does for extraction.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as stream:
            self.compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self.any_order = not self.compressed

    def read(self, file: File) -> bytes:
        if file.fault is not None:
            raise OSError(file.fault)
        with self._open() as stream:
            return _read_member(stream, file)

    def read_all(self, files: Sequence[File]) -> Iterator[tuple[int, Callable[[], bytes]]]:
        if not self.compressed:
            yield from super().read_all(files)  # type: ignore[misc]
            return
        # Straight through, since going back would unzip from the beginning. Links share a place.
        content, at = b"", -1
        try:
            with self._open() as stream:
                for index in sorted(range(len(files)), key=lambda i: files[i].at):
                    file = files[index]
                    if file.fault is not None:
                        yield index, lambda file=file: self.read(file)  # type: ignore[misc]
                        continue
                    if file.at != at:
                        content, at = _read_member(stream, file), file.at
                    yield index, lambda content=content: content  # type: ignore[misc]
        except (OSError, EOFError, zlib.error) as error:
            raise self._damaged(error) from None

    def listing(self) -> Listing:
        try:
            with self._open() as stream:
                return _list(stream)
        # Whatever the parsers of a damaged file stumble over is the file's fault.
        except Exception as error:
            raise self._damaged(error) from None

    def _open(self) -> BinaryIO:
        if self.compressed:
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        return self.path.open("rb")

    def _damaged(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return ValueError(f"data.root: {self.path} is not a readable archive: {reason}")


def _read_member(stream: BinaryIO, file: File) -> bytes:
    stream.seek(file.at)
    content = stream.read(file.size)
    if len(content) < file.size:
        raise OSError("the archive has become shorter")
    return content


class _Link(str):
    """The name that a symbolic link leads to."""


def _list(stream: BinaryIO) -> Listing:
    listing = Listing()
    entries: dict[str, File | _Link] = {}
    members = 0
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            if archive.offset < member.offset_data:
                raise tarfile.ReadError(f"{member.name} has a negative size")
            members += 1
            name = _normal(member.name)
            if member.isdir():
                if name != ".":
                    listing.folders.add(name)
                continue
            if name in entries:
                listing.passed_over["replaced by a later member"] += 1
            entries[name] = _entry(name, member, entries)
        _check_end(stream, archive.offset, members)
    listing.files = [_follow(name, entries, listing.folders) for name in entries]
    return listing


def _entry(name: str, member: tarfile.TarInfo, earlier: dict[str, File | _Link]) -> File | _Link:
    if member.issparse():
        return File(name, 0, fault="is stored as a sparse file")
    if member.isreg():
        return File(name, member.size, member.offset_data)
    if member.issym():
        if member.linkname.startswith("/"):
            return File(name, 0, fault=f"link out of the archive, to {member.linkname}")
        return _Link(_normal(posixpath.join(posixpath.dirname(name), member.linkname)))
    if member.islnk():
        target = earlier.get(_normal(member.linkname))
        if target is None:
            return File(name, 0, fault=f"link to {member.linkname}, which the archive lacks")
        return target  # _follow gives it its own name
    return File(name, 0, fault="is not a regular file")


def _follow(name: str, entries: dict[str, File | _Link], folders: set[str]) -> File:
    """The file that a name stands for, through any links."""
    entry, passed = entries[name], {name}
    while isinstance(entry, _Link):
        if entry in passed:
            return File(name, 0, fault="link to itself")
        if entry not in entries:
            kind = "a folder" if entry in folders else "nothing in the archive"
            return File(name, 0, fault=f"link to {kind}, {str(entry)!r}")
        passed.add(str(entry))
        entry = entries[entry]
    return entry._replace(name=name)


def _check_end(stream: BinaryIO, offset: int, members: int) -> None:
    """Only zeros, at least one block of them, may follow the last member.

    Reading to the end also makes gzip compare its checksum.
    """
    where = f"byte {offset}, after {members} members,"
    stream.seek(offset)
    mark = stream.read(BLOCK)
    if len(mark) < BLOCK:
        raise tarfile.ReadError(f"it breaks off at {where} without the mark of its end")
    if any(mark):
        raise tarfile.ReadError(f"the header at {where} is damaged")
    while rest := stream.read(2**20):
        if any(rest):
            raise tarfile.ReadError(
                f"more follows the end at {where} a damaged header or joined archives"
            )


def _normal(name: str) -> str:
    return posixpath.normpath(name.lstrip("/"))
