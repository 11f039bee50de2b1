"""The file format as a page to read, from the same models that check the files."""

from __future__ import annotations

from typing import Any

from hwprofiles.profile_file import ProfileFile

LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "not empty",
    "minItems": "not empty",
    "pattern": "matching `{}`",
}


def schema_page() -> str:
    """Markdown: a table a section, in the order of the file."""
    schema = ProfileFile.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    lines = [
        "# The profile file",
        "",
        "Written by `hwprofiles schema --markdown`; `hwprofiles schema` prints the same as JSON "
        "schema. Unknown keys, NaN, infinity, numbers out of range and a foreign major version are "
        "refused, and a file whose content is not that of its checksum: cut, damaged, or edited "
        "without `hwprofiles seal`. Times are seconds, memory bytes, MACs one per multiply-add. A "
        "field with a default may be missing.",
        "",
    ]
    order, seen = [("profile", schema)], {"profile"}
    while order:
        name, section = order.pop(0)
        lines += [f"## {name}", "", " ".join(section.get("description", "").split("\n\n")[0:1])]
        lines += ["", "| field | type | default | meaning |", "|---|---|---|---|"]
        for field, value in section.get("properties", {}).items():
            default = "" if field in section.get("required", []) else _default(value)
            meaning = value.get("description", "")
            lines.append(f"| `{field}` | {_type(value)} | {default} | {meaning} |")
            for reference in _references(value):
                if reference not in seen:
                    seen.add(reference)
                    order.append((reference, definitions[reference]))
        lines.append("")
    return "\n".join(lines)


def _type(value: dict[str, Any]) -> str:
    """Such as 'number ≥ 0' or 'list of [Sample](#sample)'."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type(v) for v in value["anyOf"])
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{v}`" for v in value["enum"])
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"{len(value['prefixItems'])} of {_type(value['prefixItems'][0])}"
        return f"list of {_type(value['items'])}"
    if value.get("type") == "object":
        return f"mapping to {_type(value['additionalProperties'])}"
    limits = [text.format(_short(value[key])) for key, text in LIMITS.items() if key in value]
    return " ".join([str(value.get("type", "any")), *limits])


def _short(limit: object) -> str:
    return f"{limit:g}" if isinstance(limit, (int, float)) else str(limit)


def _default(value: dict[str, Any]) -> str:
    return f"`{value['default']}`" if "default" in value else "empty"


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"].rsplit("/", 1)[1]] if "$ref" in value else []
        return own + [r for v in value.values() for r in _references(v)]
    if isinstance(value, list):
        return [r for v in value for r in _references(v)]
    return []
