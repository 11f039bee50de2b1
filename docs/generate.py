"""Writes the pages of docs/reference that come from the code: `python docs/generate.py`.

A test fails where they are out of date, and where a command, key or column is not described.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generator.cli_page import cli_page
from generator.files_page import files_page
from generator.recipe_page import recipe_page

REFERENCE = Path(__file__).parent / "reference"
PAGES = {"cli.md": cli_page, "recipe.md": recipe_page, "files.md": files_page}


def main() -> int:
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
        print(f"wrote {REFERENCE / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
