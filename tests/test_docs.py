"""The reference is what the code says, and nothing in it is left undescribed."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpt_nas.cli import app
from hwprofiles.cli import app as profiles_app

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, Callable[[], str]]:
    """The generated pages by file name, as functions that make their text."""
    sys.path.insert(0, str(DOCS))
    try:
        made: dict[str, Callable[[], str]] = importlib.import_module("generate").PAGES
    finally:
        sys.path.remove(str(DOCS))
    return made


@pytest.mark.parametrize("name", ["cli.md", "recipe.md", "files.md"])
def test_a_generated_page_is_up_to_date(pages: dict[str, Callable[[], str]], name: str) -> None:
    page = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert page == pages[name](), "python docs/generate.py writes it"


@pytest.mark.parametrize("name", ["recipe.md", "files.md"])
def test_every_key_and_column_has_a_meaning(name: str) -> None:
    page = (DOCS / "reference" / name).read_text()
    rows = re.findall(r"^\| (`[^`]+`) .*\| *([^|]*) \|$", page, re.M)
    assert len(rows) > 50
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_command_is_there() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    for name, application in (("hwprofiles", profiles_app), ("cpt-nas", app)):
        for command in application.registered_commands:
            assert command.callback is not None
            word = command.name or command.callback.__name__.replace("_", "-")
            assert f"### {name} {word}\n" in page and f"{name} {word} " in page


def test_the_readme_is_short() -> None:
    assert len((DOCS.parent / "README.md").read_text().split()) <= 700
