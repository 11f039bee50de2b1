"""Image files into one uint8 tensor: threads, a progress bar, errors that name the image."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import Progress

from hwprofiles.streams import PlainConsole

LIMIT_BYTES = 8 * 2**30  # what one split may take in memory; more is for a loader from disk
CHUNK = 32  # images handed to a thread at a time: large against the hand-over, small to spread
# Below, decoding is mostly Python under the interpreter's lock, and threads only get in each
# other's way: 10,000 CIFAR images out of a tar.gz took 2.8 s without them, 4.4 s with four.
SMALL_BYTES = 8 * 2**10


@dataclass(frozen=True)
class Item:
    """An image still to be decoded.

    Attributes:
        name: what errors call it and what the order goes by.
        folder: where it lies, '' at the top.
        read: gives the file's bytes, or an image.
        size: bytes of the file.
        at: how much of the source has been read up to here, 0 to 1.
    """

    name: str
    folder: str
    read: Callable[[], bytes | Image.Image]
    size: int
    at: float


class Decoded(NamedTuple):
    """An image's name, its folder, and [C, H, W] uint8."""

    name: str
    folder: str
    pixels: torch.Tensor


class Decoder:
    """Decodes images, large ones in threads, behind a progress bar.

    Args:
        input_size: (channels, height, width); an image of another size is scaled to cover it and
            its centre is taken.
        workers: threads.
        limit_bytes: what decoded images of one split may take.
        console: where the bar goes; None: nowhere.
    """

    def __init__(
        self,
        input_size: tuple[int, int, int],
        workers: int = 4,
        limit_bytes: int = LIMIT_BYTES,
        console: Console | None = None,
    ) -> None:
        self.input_size = input_size
        self.workers = max(1, workers)
        self.limit_bytes = limit_bytes
        self.console = console or PlainConsole(quiet=True)

    def __call__(
        self, label: str, where: str, items: Iterable[Item]
    ) -> tuple[list[str], list[str], torch.Tensor]:
        """Decode all items.

        Args:
            label: the bar's.
            where: file or folder named in errors.
            items: read as decoding goes, so that few undecoded images are held at a time.

        Returns:
            Names and folders in the order of the names, and [N, C, H, W] uint8.

        Raises:
            ValueError: an image cannot be decoded, or together they are over the limit.
        """
        found: list[Decoded] = []
        pending: deque[Future[list[Decoded]]] = deque()
        most = self.limit_bytes // int(np.prod(self.input_size))
        with (
            Progress(console=self.console, transient=True) as progress,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            task = progress.add_task(label, total=1.0)
            try:
                for chunk in _chunks(items):
                    if sum(item.size for item in chunk) < SMALL_BYTES * len(chunk):
                        found += self._decode(where, chunk)
                    else:
                        pending.append(pool.submit(self._decode, where, chunk))
                    if len(pending) > 2 * self.workers:
                        found += pending.popleft().result()
                    if len(found) > most:
                        raise ValueError(
                            f"data.root: {where} takes more than {self.limit_bytes / 2**30:.3g} GiB"
                            " in memory; set data.in_memory=false or a smaller data.input_size"
                        )
                    progress.update(task, completed=chunk[-1].at)
                while pending:
                    found += pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
        found.sort(key=lambda image: image.name)
        images = torch.empty((len(found), *self.input_size), dtype=torch.uint8)
        names, folders = [image.name for image in found], [image.folder for image in found]
        for row in reversed(range(len(found))):  # popped: all pixels twice would be too much
            images[row] = found.pop().pixels
        return names, folders, images

    def _decode(self, where: str, chunk: list[Item]) -> list[Decoded]:
        decoded = []
        for item in chunk:
            try:
                pixels = self._pixels(item.read())
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"data.root: {where}: {item.name} is not a readable image: {reason}"
                ) from None
            decoded.append(Decoded(item.name, item.folder, pixels))
        return decoded

    def _pixels(self, image: bytes | Image.Image) -> torch.Tensor:
        channels, height, width = self.input_size
        if isinstance(image, bytes):
            image = Image.open(io.BytesIO(image))
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        array = np.array(image).reshape(height, width, channels).transpose(2, 0, 1)
        return torch.from_numpy(array)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
