"""A run folder in use: who may write it, and what a killed training has left in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpt_nas.train.checkpoint_file import BEST, LAST
from cpt_nas.train.distill import TEACHER
from cpt_nas.train.lock import LOCK, held
from cpt_nas.train.recipe import Recipe
from cpt_nas.train.run_folder import EXPORT, FILES, RECIPE, UNFINISHED_EXPORT
from hwprofiles.files import TEMPORARY, write_whole


@contextmanager
def opened(output: Path, recipe: Recipe, *, resume: bool, rank: int = 0) -> Iterator[None]:
    """Hold the folder while a training writes it; of several processes only the first does.

    The recipe is there from the beginning: with it ``--resume`` begins a run again that was killed
    before it had a checkpoint. A run that is refused by then leaves nothing.

    Raises:
        ValueError: the folder is in use, already holds something, or, to resume, is not there.
        OSError: it cannot be made or written.
    """
    if rank > 0:
        yield
        return
    if not resume:
        refuse_used(output)
    elif not output.is_dir():
        raise ValueError(f"resume: no such folder: {output}")
    with held(output):
        if resume:
            remove_leftovers(output)
            yield
            return
        refuse_used(output)  # another process may have come before
        remove_leftovers(output)
        try:
            write_whole(output / RECIPE, recipe.to_yaml())
            yield
        except Exception:
            if not (output / LAST).exists():
                for name in FILES:
                    (output / name).unlink(missing_ok=True)
                shutil.rmtree(output / TEACHER, ignore_errors=True)
            raise


def refuse_used(output: Path) -> None:
    """Raises ValueError if the folder already holds something: a run is never overwritten.

    What a training leaves that was killed before it had written its recipe does not count.
    """
    if not output.exists():
        return
    if not output.is_dir() or not all(is_leftover(path) for path in output.iterdir()):
        raise ValueError(
            f"output: {output} is not empty; name another folder, or go on with --resume {output}"
        )


def is_leftover(path: Path) -> bool:
    """Whether a killed training has left it, as no more than the beginning of a file of a run."""
    if path.name in (LOCK, UNFINISHED_EXPORT):
        return True
    name = path.name.removesuffix(TEMPORARY)
    whole = name in FILES or re.fullmatch(r"checkpoint-\d+\.pth\.tar", name) is not None
    return whole and name != path.name


def remove_leftovers(output: Path) -> None:
    """Remove what a killed training has left half-written, which nothing reads; not the lock."""
    for path in output.iterdir():
        if path.name == UNFINISHED_EXPORT:
            shutil.rmtree(path)
        elif is_leftover(path) and path.name != LOCK:
            path.unlink()


def has_epochs(output: Path) -> bool:
    """Whether there is something of an epoch that has ended, or of a finished run."""
    traces = ("history.csv", "layers.csv", BEST, EXPORT)
    found = any((output / name).exists() for name in traces)
    return found or any(output.glob("checkpoint-*.pth.tar"))
