"""Tables that a benchmark writes between two markers of a page; the other text stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

BEGIN, END = "<!-- table: {} -->", "<!-- end -->"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with these column heads and rows."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def insert(path: Path, contents: Mapping[str, str]) -> None:
    """Write each content after its marker, in place of the text up to the next end marker.

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
