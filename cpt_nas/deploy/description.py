"""What stands beside a deployed file: how to prepare an image, what comes out, how it was made."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DESCRIPTION = "model.json"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Port(_Section):
    """An input or an output of the file."""

    name: str | None = Field(description="null: it is known by its place, the first")
    shape: list[int | None] = Field(description="null: any; the batch comes first")
    dtype: str


class Preprocessing(_Section):
    """From an image to an input, under timm's names."""

    input_size: list[int] = Field(description="channels, height, width")
    interpolation: str
    crop_pct: float = Field(description="share of the scaled image's side that is cut out")
    crop_mode: str
    mean: list[float] = Field(description="a number a channel, of images in 0..1")
    std: list[float] = Field(description="a number a channel")


class Compared(_Section):
    """How far the file's outputs are from the plain model's."""

    inputs: str = Field(description="what was put in")
    n: int
    difference: float = Field(description="the largest, over the largest output")
    allowed: float
    same_class: int = Field(description="inputs whose largest output is the same one")


class Description(_Section):
    """All of it."""

    format: str
    files: list[str]
    architecture: str = Field(description="timm's name of the network that was cut")
    input: Port
    output: Port
    largest_batch: int | None = Field(description="of an open batch; null: there is no largest")
    preprocessing: Preprocessing
    label_names: list[str] | None = Field(description="in the order of the outputs; null: unknown")
    label_descriptions: dict[str, str] | None
    compared: Compared
    versions: dict[str, str]


def read_description(folder: Path) -> Description:
    """The description in a folder.

    Raises:
        ValueError: there is none, or it is another file of that name.
    """
    try:
        return Description.model_validate_json((folder / DESCRIPTION).read_bytes())
    except OSError as error:
        raise ValueError(f"{folder / DESCRIPTION}: {error.strerror}") from None
    except ValidationError as error:
        raise ValueError(f"{folder / DESCRIPTION}: {error.errors()[0]['msg']}") from None


def is_described(folder: Path) -> bool:
    """Whether a folder holds a description."""
    try:
        read_description(folder)
    except ValueError:
        return False
    return True


def described_files(content: str) -> list[str]:
    """The files that came with a description; none where it is not one."""
    try:
        return Description.model_validate_json(content).files
    except ValidationError:
        return []
