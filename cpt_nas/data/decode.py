"""All images of a split through threads: into one uint8 tensor, or only looked at."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageOps

from cpt_nas.data.formats import shown
from cpt_nas.data.inventory import Split, few
from cpt_nas.data.origin import Content, File, Origin
from cpt_nas.data.pixels import Unreadable, decode, reason
from hwprofiles.terminal import Report

LIMIT_BYTES = 8 * 2**30  # what one split may take in memory; more is for a loader from disk
CHUNK = 32  # images handed to a thread at a time: large against the hand-over, small to spread
# Below, decoding is mostly Python under the interpreter's lock, and threads only get in each
# other's way: 10,000 CIFAR images out of a tar.gz took 2.8 s without them, 4.4 s with four.
SMALL_BYTES = 8 * 2**10
CHECKSUM_BITS = 64
LISTED = 20  # unreadable images in a message


@dataclass
class Findings:
    """What reading a split has shown.

    Attributes:
        unreadable: (name, why) of the images that cannot be read.
        remarks: what decoding has changed -> in how many images.
        checksums: of all images, added up, so that the order in which they are read is no matter.
    """

    unreadable: list[tuple[str, str]] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    checksums: int = 0

    @property
    def contents(self) -> str:
        """Tells these images from others that differ in a name or a byte."""
        return f"{self.checksums % 2**CHECKSUM_BITS:016x}"

    def __iadd__(self, other: Findings) -> Findings:
        self.unreadable += other.unreadable
        self.remarks += other.remarks
        self.checksums += other.checksums
        return self


class UnreadableImages(ValueError):
    """Images of a split that cannot be read, all of them.

    Attributes:
        unreadable: (name, why), in the order of the names.
    """

    def __init__(self, split: Split, unreadable: Iterable[tuple[str, str]]) -> None:
        self.unreadable = sorted(unreadable)
        if len(self.unreadable) == 1:
            ((name, why),) = self.unreadable
            fault = f"{shown(name)} is not a readable image: {why}"
        else:
            listed = few([f"{shown(name)} ({why})" for name, why in self.unreadable], LISTED)
            fault = f"{len(self.unreadable)} of {len(split)} images are not readable: {listed}"
        super().__init__(f"data.root: {split.where}: {fault}")


def decode_split(
    split: Split,
    input_size: tuple[int, int, int],
    workers: int,
    report: Report,
    limit_bytes: int = LIMIT_BYTES,
) -> tuple[torch.Tensor, Findings]:
    """Decode all images of a split.

    Args:
        split: of which images.
        input_size: (channels, height, width); an image of another size is scaled to cover it and
            its centre is taken.
        workers: threads; 0 counts as 1.
        report: is told of the progress.
        limit_bytes: what the decoded images may take.

    Returns:
        [N, C, H, W] uint8 in the split's order, and what there is to say; where images are
        unreadable, their pixels are undefined.

    Raises:
        ValueError: they would take more than the limit.
    """
    if not fits(len(split), input_size, limit_bytes):
        raise ValueError(
            f"data.root: {split.where} takes more than {limit_bytes / 2**30:.3g} GiB"
            " in memory; set data.in_memory=false or a smaller data.input_size"
        )
    channels, height, width = input_size
    images = torch.empty((len(split), *input_size), dtype=torch.uint8)

    def work(index: int, content: Content) -> tuple[str, ...]:
        image, remarks = decode(content, channels)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        array = np.array(image).reshape(height, width, channels).transpose(2, 0, 1)
        images[index] = torch.from_numpy(array)
        return remarks

    stage = f"decoding {split.name}"
    return images, _for_all(split.origin, split.files, work, workers, stage, report)


def check_split(
    split: Split, channels: int, share: slice, workers: int, report: Report
) -> Findings:
    """Decode some images of a split without keeping them, to learn which are unreadable.

    Args:
        split: one that can be read in any order.
        channels: 1 or 3.
        share: which of its images.
        workers: threads; 0 counts as 1.
        report: is told of the progress.
    """

    def work(_: int, content: Content) -> tuple[str, ...]:
        return decode(content, channels, glance=True).remarks

    stage = f"checking {split.name}"
    return _for_all(split.origin, split.files[share], work, workers, stage, report)


def fits(n: int, input_size: Sequence[int], limit_bytes: int) -> bool:
    """Whether n images of a size take at most the limit."""
    return n * math.prod(input_size) <= limit_bytes


Work = Callable[[int, Content], tuple[str, ...]]
Item = tuple[int, Callable[[], Content]]


def _for_all(
    origin: Origin,
    files: Sequence[File],
    work: Work,
    workers: int,
    stage: str,
    report: Report,
) -> Findings:
    """Do the work on every file, the large ones in threads; few contents are held at a time."""
    workers, done = max(1, workers), 0
    findings, items = Findings(), origin.read_all(files)
    pending: deque[tuple[int, Future[Findings]]] = deque()

    def take(n: int, found: Findings) -> None:
        nonlocal done, findings
        findings += found
        done += n
        report(stage, done, len(files))

    with ThreadPoolExecutor(workers) as pool:
        try:
            while chunk := list(islice(items, CHUNK)):
                size = sum(files[index].size for index, _ in chunk)
                if size < SMALL_BYTES * len(chunk):
                    take(len(chunk), _do(files, chunk, work))
                    continue
                pending.append((len(chunk), pool.submit(_do, files, chunk, work)))
                if len(pending) > 2 * workers:
                    n, future = pending.popleft()
                    take(n, future.result())
            while pending:
                n, future = pending.popleft()
                take(n, future.result())
        finally:
            for _, future in pending:
                future.cancel()
    return findings


def _do(files: Sequence[File], chunk: list[Item], work: Work) -> Findings:
    findings = Findings()
    for index, read in chunk:
        try:
            content = read()
            findings.remarks.update(work(index, content))
            findings.checksums += _checksum(files[index].name, content)
        except (OSError, MemoryError, Unreadable) as error:
            findings.unreadable.append((files[index].name, reason(error)))
    return findings


def _checksum(name: str, content: Content) -> int:
    """Of an image's name, and its bytes or pixels."""
    digest = hashlib.blake2b(name.encode("utf8", "surrogateescape"), digest_size=CHECKSUM_BITS // 8)
    digest.update(b"\0")
    digest.update(content if isinstance(content, bytes) else content.tobytes())
    return int.from_bytes(digest.digest(), "big")
