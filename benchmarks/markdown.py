"""Tables that a benchmark writes into a page between two markers; the text around them stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- table: {} -->", "<!-- end -->"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; every row begins with its label."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def insert(path: Path, contents: Mapping[str, str]) -> None:
    """Put each content behind its marker, in place of what was there.

    Raises:
        ValueError: the page lacks a marker.
    """
    text = path.read_text(encoding="utf-8")
    for marker, content in contents.items():
        begin = BEGIN.format(marker)
        head, found, rest = text.partition(begin)
        if not found:
            raise ValueError(f"{path}: has no {begin}")
        text = f"{head}{begin}\n{content}\n{END}{rest.partition(END)[2]}"
    path.write_text(text, encoding="utf-8")
