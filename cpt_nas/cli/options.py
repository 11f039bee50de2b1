"""Options and the console that commands of cpt-nas share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwprofiles.terminal import console as out

__all__ = ["EXTRAS", "Output", "Overrides", "Runs", "out"]

EXTRAS = dict.fromkeys(("matplotlib", "sklearn"), "pip install 'cpt-nas[train]'")
"""What only training, its data and its images need, and what brings it."""

Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override: key=value; may be repeated.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
