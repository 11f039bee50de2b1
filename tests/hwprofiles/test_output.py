"""Outputs: what is not ours is refused, and what is ours is replaced whole or told unfinished."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwprofiles import output
from hwprofiles.output import refuse_foreign_file, refuse_foreign_folder, staging, write_folder

OLD = {"page": b"a\nb\nold\n", "a": b"1", "b": b"1"}
NEW = {"page": b"a\nsub/c\n", "a": b"2", "sub/c": b"2"}


class Killed(BaseException):
    pass


def belonging(page: str) -> list[str]:
    return page.split()


def put(folder: Path, files: dict[str, bytes]) -> None:
    write_folder(folder, files, "page", belonging)


def found(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_else_lies_in_a_folder_stays_and_older_files_go(tmp_path: Path) -> None:
    put(tmp_path / "out", OLD)
    (tmp_path / "out" / "notes").write_text("mine")
    put(tmp_path / "out", NEW)
    assert found(tmp_path / "out") == {**NEW, "notes": b"mine"}


@pytest.mark.parametrize("moved", range(4))
def test_where_the_last_file_is_the_result_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Killed after any number of moves; the next one leaves nothing of both before."""
    put(tmp_path, OLD)
    replace, done = os.replace, []

    def killed_after(source: Path, target: Path) -> None:
        if target.is_relative_to(staging(tmp_path, "page")):
            return replace(source, target)
        if len(done) == moved:
            raise Killed
        replace(source, target)
        done.append(target)

    monkeypatch.setattr(output.os, "replace", killed_after)
    if moved < len(NEW):
        with pytest.raises(Killed):
            put(tmp_path, NEW)
        assert not (tmp_path / "page").exists()
    else:
        put(tmp_path, NEW)
        assert found(tmp_path) == NEW
    monkeypatch.setattr(output.os, "replace", replace)
    refuse_foreign_folder(tmp_path, "a result", "page", lambda folder: (folder / "page").exists())
    put(tmp_path, NEW)
    assert found(tmp_path) == NEW


def test_what_cannot_be_written_leaves_the_old_one_and_no_new_folder(tmp_path: Path) -> None:
    put(tmp_path / "old", OLD)
    broken = {**NEW, "x" * 300: b""}  # no file system takes this name
    for name, kept in (("old", OLD), ("new", None)):
        with pytest.raises(OSError, match="too long"):
            put(tmp_path / name, broken)
        assert (found(tmp_path / name) if kept else None) == kept
        assert (tmp_path / name).exists() == (kept is not None)


def test_what_a_killed_one_has_written_is_removed(tmp_path: Path) -> None:
    staging(tmp_path, "page").mkdir()
    (staging(tmp_path, "page") / "a").write_text("half")
    refuse_foreign_folder(tmp_path, "a result", "page", lambda folder: False)
    put(tmp_path, NEW)
    assert found(tmp_path) == NEW


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        refuse_foreign_folder(path, "a result", "page", lambda folder: (folder / "page").exists())

    check(tmp_path / "new" / "er")
    check(tmp_path)
    for name in "cabd":
        (tmp_path / name).write_text("")
    message = r"is not empty and is not a result \(it holds a, b, c, \.\.\.\); name a new or empty"
    with pytest.raises(ValueError, match=message):
        check(tmp_path)
    with pytest.raises(ValueError, match="is a file, must be a folder"):
        check(tmp_path / "a")
    with pytest.raises(ValueError, match=r"a is a file, must be a folder"):
        check(tmp_path / "a" / "below")
    (tmp_path / "page").write_text("")
    check(tmp_path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        refuse_foreign_file(path, "a letter", lambda file: file.read_text().startswith("Dear"))

    check(tmp_path / "new" / "letter")
    file = tmp_path / "x"
    file.write_text("")
    check(file)
    file.write_text("Dear all")
    check(file)
    file.write_text("def f(): ...")
    for path, message in (
        (file, "exists and is not a letter"),
        (tmp_path, "is a folder, give the file"),
        (file / "below", "is a file, must be a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            check(path)
    with pytest.raises(ValueError, match="not a regular file"):
        check(Path("/dev/null"))
