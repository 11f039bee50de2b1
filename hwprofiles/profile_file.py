"""Profiles as YAML files: read, written, sealed.

The schema is the pydantic models of ``cost_profile.py`` and ``schema.py``; ``hwprofiles schema``
prints it as JSON schema. A file with an unknown key, a NaN, a number out of range or a foreign
major version is refused, and so is one whose content is not that of its checksum: cut, damaged, or
edited.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from hwprofiles.cost_profile import Profile, ProfileError
from hwprofiles.files import write_whole
from hwprofiles.yaml_file import YamlError, dump_yaml, read_yaml, shortened

SHIPPED = Path(__file__).parent / "profiles"
MAX_MESSAGE = 230  # characters of the faults that are named, at least one


class ProfileFile(Profile):
    """A profile as it stands in its file."""

    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of all the rest as JSON with sorted keys"
    )


def load(path_or_name: str | Path) -> Profile:
    """Read a profile from a file, or by the name of one that ships with the package.

    Raises:
        FileNotFoundError: neither a file nor a shipped profile.
        ProfileError: the file is not a profile, or not as it was written.
    """
    path = Path(path_or_name)
    if not path.is_file():
        path = SHIPPED / f"{path_or_name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"profile: no file {path_or_name}, shipped profiles: {shipped}")
    profile, is_sealed = _read(path)
    if not is_sealed:
        raise ProfileError(
            f"{path}: is not as it was measured: cut, damaged or edited since. To use an edited "
            f"profile: hwprofiles seal {path}"
        )
    return profile


def seal(path: str | Path) -> Profile:
    """Give a profile that was edited by hand a checksum; it says of itself that it was edited.

    Raises:
        FileNotFoundError: no such file.
        ProfileError: the file is not a profile.
    """
    profile, is_sealed = _read(Path(path))
    if not is_sealed:
        created = profile.created.model_copy(update={"edited": True})
        profile = profile.model_copy(update={"created": created})
        save(profile, path)
    return profile


def parse(content: Any, source: str = "profile") -> Profile:
    """A profile from plain data, as YAML gives it.

    Raises:
        ProfileError: one line that names ``source`` and every field at fault.
    """
    if not isinstance(content, Mapping):
        raise ProfileError(f"{source}: holds {type(content).__name__}, a profile is a mapping")
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        faults = [_fault(dict(item)) for item in error.errors()]
        shown = 1
        while shown < len(faults) and len("; ".join(faults[: shown + 1])) <= MAX_MESSAGE:
            shown += 1
        more = f"; and {len(faults) - shown} more" if shown < len(faults) else ""
        raise ProfileError(f"{source}: {'; '.join(faults[:shown])}{more}") from None
    return profile.require_possible(source)


def save(profile: Profile, path: str | Path) -> None:
    """Write a profile as YAML; either all of it or nothing.

    Raises:
        ProfileError: it could not be read back, as after ``model_copy`` with other values.
        OSError: the file cannot be written; names it.
    """
    path = Path(path)
    content = profile.model_dump(mode="json", by_alias=True)
    parse(content, f"profile {profile.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump_yaml(content | {"checksum": _checksum(content)}))


def json_schema() -> dict[str, Any]:
    """The file format as JSON schema."""
    return ProfileFile.model_json_schema(by_alias=True)


def _read(path: Path) -> tuple[Profile, bool]:
    """(the profile in a file, whether its checksum is that of its content)."""
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise ProfileError(f"{path}: {error}") from None
    recorded = content.pop("checksum", None) if isinstance(content, dict) else None
    return parse(content, str(path)), recorded == _checksum(content)


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _fault(error: dict[str, Any]) -> str:
    where = shortened(".".join(str(part) for part in error["loc"]))[1:-1]
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = error.get("input")
    hidden = isinstance(value, (dict, list)) or error["type"] == "missing"
    shown = "" if hidden else f" ({shortened(value)})"
    return f"{where}{shown}: {message}" if where else message
