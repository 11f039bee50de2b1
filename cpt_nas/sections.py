"""Sections of settings that are checked: every fault of one is reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from hwprofiles.messages import one_line
from hwprofiles.yaml_file import shortened

MOST_TOLD = 240  # characters of faults, so that what is before and after them still fits a line


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or out of range; one line a fault."""


def faults(error: ValidationError, prefix: str) -> str:
    """Every fault that fits in one line: field, what is allowed, and what was given."""
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        known = {"extra_forbidden": "unknown key", "missing": "is missing"}
        text = known.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        hidden = fault["type"] in known or isinstance(fault["input"], Mapping)
        shown = "" if hidden else f" (got {shortened(fault['input'])})"
        lines.append(f"{prefix}{name}: {text}{shown}" if name else f"{prefix}{text}")
    told = [one_line(lines[0], MOST_TOLD)]
    for line in lines[1:]:
        if len("; ".join([*told, line])) > MOST_TOLD:
            return f"{'; '.join(told)}; and {len(lines) - len(told)} more"
        told.append(line)
    return "; ".join(told)


class Section(BaseModel):
    """A part of a recipe: unknown keys, NaN, infinity, and true in place of 1 are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """True is no 1 and 1 is no True; a text says something, and has no NUL in it."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("must not be true or false")
        if annotation is bool and not isinstance(value, bool):
            raise ValueError("must be true or false")
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            raise ValueError("must not be empty or hold a NUL character")
        return value

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], prefix: str = "") -> Self:
        """Validate, raising :class:`ConfigError` with every fault in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(faults(error, prefix)) from None
