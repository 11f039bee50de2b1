"""A file is written whole or not at all, and a full disk is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hwprofiles.files import try_writing, write_whole
from hwprofiles.messages import one_line


def test_text_and_bytes_are_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "é\n")
    write_whole(tmp_path / "b", memoryview(b"\x00\xff"))
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), SystemExit()])
def test_what_was_there_stays_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, stop: BaseException
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(stop)) as caught:
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    if isinstance(stop, OSError):
        assert one_line(caught.value) == f"{path}: No space left on device"
        assert caught.value.errno == errno.ENOSPC


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "absent" / "a", "new")
    assert one_line(caught.value) == f"{tmp_path / 'absent' / 'a'}: No such file or directory"


@pytest.mark.parametrize("where", ["a", "new/deep/a"])
def test_trying_leaves_nothing(tmp_path: Path, where: str) -> None:
    try_writing(tmp_path / where)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").write_text("old")
    try_writing(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_trying_names_the_file_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        try_writing(tmp_path / "new" / "a")
    assert one_line(caught.value) == f"{tmp_path / 'new' / 'a'}: No space left on device"
    assert list(tmp_path.iterdir()) == []
    for write in (try_writing, lambda path: write_whole(path, "x")):
        with pytest.raises(OSError, match="File name too long") as caught:
            write(tmp_path / ("x" * 300))
        assert caught.value.filename == str(tmp_path / ("x" * 300))
