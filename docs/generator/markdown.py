"""Markdown tables, and descriptions of attributes out of docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def plain(text: str) -> str:
    """A docstring's words in Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def described(model: type[Any]) -> dict[str, str]:
    """Attribute -> its description, from the `Attributes:` of a class and of its bases."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, text = (base.__doc__ or "").partition("Attributes:\n")
        name = ""
        for line in text.splitlines():
            if match := re.match(r"^ {4,8}(\w[\w, ]*): (.*)$", line):
                name = match[1]
                found |= {one.strip(): match[2] for one in name.split(",")}
            elif name and line.strip():
                for one in name.split(","):
                    found[one.strip()] += " " + line.strip()
    return {name: plain(text).rstrip(".") for name, text in found.items()}


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def meanings_table(texts: Mapping[str, str]) -> str:
    rows = [[", ".join(f"`{one}`" for one in k.split(", ")), v] for k, v in texts.items()]
    return table(["name", "meaning"], rows)
