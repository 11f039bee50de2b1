"""The reference is what the code says, and nothing in it is left undescribed."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_generate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "recipe.md", "files.md"])
def test_a_generated_page_is_up_to_date(generate: ModuleType, name: str) -> None:
    page = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert page == generate.PAGES[name](), "python docs/generate.py writes it"


@pytest.mark.parametrize("name", ["recipe.md", "files.md"])
def test_every_key_and_column_has_a_meaning(name: str) -> None:
    page = (DOCS / "reference" / name).read_text()
    rows = re.findall(r"^\| (`[^`]+`) .*\| *([^|]*) \|$", page, re.M)
    assert len(rows) > 50
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_command_is_there(generate: ModuleType) -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    for name, app in (("hwprofiles", generate.profiles_app), ("cpt-nas", generate.app)):
        for command in app.registered_commands:
            word = command.name or command.callback.__name__.replace("_", "-")
            assert f"### {name} {word}\n" in page and f"{name} {word} " in page


def test_the_readme_is_short() -> None:
    assert len((DOCS.parent / "README.md").read_text().split()) <= 700
