"""Small image files, archives of them, and the batches that a recipe makes of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from cpt_nas.data.batches import Batches
from cpt_nas.data.config import DataConfig
from cpt_nas.data.formats import FORMATS
from cpt_nas.data.load import load_data
from cpt_nas.train.recipe import TrainConfig

SIZE = (3, 16, 16)
CLASSES = ("cat", "dog")


def image(value: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, value // 2, 255 - value))


def file_of(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file of one of Pillow's formats."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def encoded(value: int, suffix: str = ".png", **kwargs: Any) -> bytes:
    kind = next(kind for kind, suffixes in FORMATS.items() if suffix in suffixes)
    return file_of(image(value, **kwargs), kind)


def members(
    n: int = 6, classes: tuple[str, ...] = CLASSES, suffix: str = ".png", **kwargs: Any
) -> dict[str, bytes]:
    """Member name -> content; the n-th image of a class is recognised by its value."""
    return {
        f"{name}/{i:03d}{suffix}": encoded(40 * c + i, suffix, **kwargs)
        for c, name in enumerate(classes)
        for i in range(n)
    }


def write_archive(path: Path, content: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_folder(path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def write_root(
    root: Path,
    train: dict[str, bytes] | None = None,
    test: dict[str, bytes] | None = None,
    suffix: str = ".tar.gz",
) -> Path:
    write = write_folder if suffix == "" else write_archive
    write(root / f"train{suffix}", members() if train is None else train)
    write(root / f"test{suffix}", members(2) if test is None else test)
    return root


def load(
    root: Path | None = None,
    batch_size: int = 4,
    seed: int = 0,
    channels_last: bool = False,
    limit_bytes: int = 2**30,
    console: Console | None = None,
    **data: Any,
) -> Batches:
    values = {"name": "images", "root": str(root) if root else None, "input_size": SIZE}
    return load_data(
        DataConfig.from_mapping(values | data),
        TrainConfig(batch_size=batch_size, seed=seed, channels_last=channels_last),
        limit_bytes=limit_bytes,
        console=console,
    )


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text
