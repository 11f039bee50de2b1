"""What a field of a profile may be: units, ranges, names, and what a section of the file is."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hwprofiles.yaml_file import shortened

# Wide enough for every machine, narrow enough that no sum or ratio of them overflows.
Seconds = Annotated[float, Field(ge=0, le=1e6)]
Time = Annotated[float, Field(ge=1e-12, le=1e6)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Macs = Annotated[float, Field(ge=0, le=1e18)]
Params = Annotated[int, Field(ge=0, le=10**15)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]
Cores = Annotated[float, Field(ge=0, le=1e6)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0, le=1e6)]
Off = Annotated[float, Field(ge=-1, le=1e6)]  # one number over another, less 1
Text = Annotated[str, Field(max_length=1000)]
Names = Annotated[str, Field(max_length=20_000)]  # several, with " + " between them


MAX_NAME = 200  # characters


def check_name(field: str, value: str) -> None:
    """Check the name of a profile or a model before anything is measured under it.

    Raises:
        ValueError: it is empty, too long, or not printable in one line.
    """
    if not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(
            f"{field}: {shortened(value)}, allowed are 1 to {MAX_NAME} printable characters"
        )


def printable(value: str) -> str:
    """The same text, for validators.

    Raises:
        ValueError: it is not printable in one line.
    """
    if not value.isprintable():
        raise ValueError("must be printable characters in one line")
    return value


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(printable)]


class Section(BaseModel):
    """A part of a profile: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=True)
