"""YAML as it may be handed in: plain data of bounded size, in which every key stands once.

One loader reads profiles, recipes and the values of options. Size and depth are bounded before
anything is built from the text. Refused are aliases, ten of which below each other stand for a
billion values, tags, and a key that stands twice, of which YAML would keep the last without a word.
Where YAML 1.1 surprises, this is simpler: 1e-3 is a number, and a date is a text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

MAX_BYTES = 16 * 2**20  # a profile of a hundred layers has a hundredth of it
MAX_DEPTH = 20
MAX_SHOWN = 60  # characters of a foreign text in a message

_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_PLAIN = {f"{_PREFIX}{name}" for name in ("null", "bool", "int", "float")}
# The parsers in C where PyYAML was built with them.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class YamlError(ValueError):
    """A text that is not plain YAML, or too much of it; one line, which does not name the file."""


class _Loader(_LOADER):
    yaml_implicit_resolvers: ClassVar[dict[str | None, Any]] = {
        first: [(tag, form) for tag, form in resolvers if tag in _PLAIN]
        for first, resolvers in _LOADER.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise YamlError(f"line {line}: a key must be a name or a number")
            if key in mapping:
                raise YamlError(f"line {line}: the key {shortened(key)} stands twice")
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        integer = node.tag == f"{_PREFIX}int"
        try:
            number: int | float = (
                self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)
            )
        except ValueError:  # such as 0x_, or more digits than Python converts
            line = node.start_mark.line + 1
            raise YamlError(f"line {line}: {shortened(node.value)} is not a number") from None
        return number


class _Dumper(_DUMPER):
    """Writes what ``_Loader`` reads back: other texts quoted, shared values written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_PREFIX}float", _FLOAT, list("-+0123456789"))
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_PREFIX}{_name}", _Loader.construct_number)


def read_yaml(path: str | Path) -> Any:
    """The plain data in a file.

    Raises:
        YamlError: not a text, not plain YAML, or too much of it.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise YamlError(f"is longer than the {MAX_BYTES // 2**20} MiB that are allowed")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise YamlError("is not a text file") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """The plain data that a text stands for: mappings, lists, texts, numbers, true, false, null.

    Raises:
        YamlError: not plain YAML, or too much of it; says the line.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"is longer than the {MAX_BYTES // 2**20} MiB that are allowed")
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise YamlError(f"is not YAML{where}") from None


def dump_yaml(content: Any) -> str:
    """Plain data as a text that ``parse_yaml`` reads back equal, keys in their order."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=100)
    return text


def shortened(value: object) -> str:
    """A foreign value as it may stand in a message: its repr, cut where it is long."""
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 3]}..."


def _check_events(text: str) -> None:
    """Refuse what must not be built, at the parser's first sight of it."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(f"line {line}: an alias is not allowed, write the value out")
        if getattr(event, "tag", None) is not None:
            raise YamlError(f"line {line}: the tag {shortened(event.tag)} is not allowed")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > MAX_DEPTH:
            raise YamlError(f"line {line}: is deeper than {MAX_DEPTH} levels")
