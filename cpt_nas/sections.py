"""Sections of settings that are checked: every fault of one is reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or out of range; one line a fault."""


def faults(error: ValidationError, prefix: str) -> str:
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        known = {"extra_forbidden": "unknown key", "missing": "is missing"}
        text = known.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        hidden = fault["type"] in known or isinstance(fault["input"], Mapping)
        shown = "" if hidden else f" (got {fault['input']!r})"
        lines.append(f"{prefix}{name}: {text}{shown}" if name else f"{prefix}{text}")
    return "; ".join(lines)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], prefix: str = "") -> Self:
        """Validate, raising :class:`ConfigError` with every fault in one line."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(faults(error, prefix)) from None
