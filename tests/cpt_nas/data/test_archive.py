"""Archives: links, members of one name, and damage, of which nothing is read in part."""

from __future__ import annotations

import gzip
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpt_nas.data.archive import BLOCK, Archive
from cpt_nas.data.inventory import take_inventory
from tests.support.image_files import (
    encoded,
    load,
)
from tests.support.splits import listed, outcome, tar_of

FUNCTION = HealthCheck.function_scoped_fixture


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_in_archives_are_followed(tmp_path):
    a, b = (encoded(value) for value in (1, 2))
    tar = tar_of(
        tmp_path / "s.tar",
        ("./a/1.png", a),
        link("./a/hard.png", "./a/1.png", tarfile.LNKTYPE),
        link("./b/early.png", "../b/2.png"),
        ("./b/2.png", b),
        link("./b/chain.png", "early.png"),
    )
    zipped = tmp_path / "s.tar.gz"
    zipped.write_bytes(gzip.compress(tar.read_bytes()))
    for path in (tar, zipped):
        split = take_inventory(Archive(path))
        assert listed(split) == {
            f"{c}/{n}.png": c
            for c, n in [("a", 1), ("a", "hard"), ("b", 2), ("b", "chain"), ("b", "early")]
        }
        read = {split.files[i].name: content() for i, content in split.origin.read_all(split.files)}
        assert read == {name: a if name.startswith("a") else b for name in read}
        assert len(read) == 5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (link("b/x.png", "gone.png"), "x.png is not a .*: link to nothing in the archive"),
        (link("b/x.png", "/etc/1.png"), "x.png is not a .*: link out of the archive"),
        (
            link("b/x.png", "gone.png", tarfile.LNKTYPE),
            "x.png is not a .*: link to gone.png, which",
        ),
        (link("b/x.png", "x.png"), "x.png is not a readable image: link to itself"),
        (link("b/x.png", "", tarfile.FIFOTYPE), "x.png is not a .*: is not a regular file"),
        (link("c", "b"), r"cannot be read: c \(link to a folder, 'b'\)"),
        (link("c", "/data/c"), r"cannot be read: c \(link out of the archive"),
    ],
)
def test_links_that_lead_nowhere_are_refused(tmp_path, entry, message):
    folder = tarfile.TarInfo("b")
    folder.type = tarfile.DIRTYPE
    entries = [folder, ("a/1.png", encoded(1)), ("b/2.png", encoded(2)), entry]
    for split in ("train", "test"):
        tar_of(tmp_path / f"{split}.tar", *entries)
    for in_memory in (True, False):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, in_memory=in_memory)


def test_of_members_of_one_name_the_last_counts(tmp_path):
    tar = tar_of(tmp_path / "s.tar", ("a/1.png", b"old"), ("b/1.png", b"b"), ("a/1.png", b"newer"))
    split = take_inventory(Archive(tar))
    assert [split.origin.read(file) for file in split.files] == [b"newer", b"b"]
    assert split.passed_over == {"replaced by a later member": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An archive of 8 small files with the place of each header, and its zipped form."""
    path = tmp_path_factory.mktemp("whole") / "s.tar"
    tar_of(path, *((f"{c}/{i}.png", bytes([i + 1]) * 700) for c in "ab" for i in range(4)))
    with tarfile.open(path) as archive:
        headers = [member.offset for member in archive]
    return path.read_bytes(), headers, outcome(path)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[FUNCTION])
def test_a_damaged_archive_is_never_read_in_part(whole, data, tmp_path_factory):
    content, headers, expected = whole
    kind = data.draw(st.sampled_from(["flip", "zero", "cut", "join", "cut a gzip", "flip a gzip"]))
    broken = bytearray(content)
    suffix = ".tar"
    if kind == "flip":
        at = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, BLOCK - 1))
        broken[at] ^= data.draw(st.integers(1, 255))
    elif kind == "zero":
        at = data.draw(st.sampled_from(headers))
        broken[at : at + BLOCK] = bytes(BLOCK)
    elif kind == "cut":
        end = headers[-1] + 3 * BLOCK  # of the last file
        del broken[data.draw(st.integers(0, end + BLOCK - 1)) :]
    elif kind == "join":
        broken += content
    else:
        suffix = ".tar.gz"
        broken = bytearray(gzip.compress(content, mtime=0))
        at = data.draw(st.integers(10, len(broken) - 1))  # behind the header
        if kind == "cut a gzip":
            del broken[at:]
        else:
            broken[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / f"s{suffix}"
    path.write_bytes(broken)
    got = outcome(path)
    assert got[0] == "refused" or got == expected, kind
    if kind in ("zero", "cut", "join", "cut a gzip"):
        assert got[0] == "refused"
        assert "PATH is not a readable archive" in got[1]
