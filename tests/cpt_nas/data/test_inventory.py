"""What a folder or an archive holds: nothing is lost or counted twice, and both readers agree."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from timm.utils.misc import natural_key

from cpt_nas.data.archive import Archive
from cpt_nas.data.folder import Folder
from cpt_nas.data.formats import FORMATS, SUFFIXES, hidden, passed_over, shown
from cpt_nas.data.inventory import class_order, take_inventory
from tests.support.image_files import (
    encoded,
    file_of,
    image,
    load,
    members,
    write_archive,
    write_folder,
    write_root,
)
from tests.support.splits import listed, outcome, tar_of

FUNCTION = HealthCheck.function_scoped_fixture

FOLDERS = ("a", "A", "1", "01", "a/b", "b", ".ipynb_checkpoints", "b/@eaDir", "b/x/y", "")
FILES = ("1.png", "2.PNG", "3.webp", "4.tif", "5.txt", "._6.png", "7")


# ---- every file is accounted for ---------------------------------------------------------------


@given(
    names=st.sets(
        st.tuples(st.sampled_from(FOLDERS), st.sampled_from(FILES)), min_size=1, max_size=14
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[FUNCTION])
def test_a_file_is_an_image_or_counted_or_the_split_is_refused(names, tmp_path_factory):
    at = tmp_path_factory.mktemp("split")
    content = {f"{d}/{f}".lstrip("/"): f"{d}{f}".encode() for d, f in names}
    write_folder(at / "s", content)
    write_archive(at / "s.tar", content)
    write_archive(at / "s.tar.gz", {f"./{name}": data for name, data in content.items()})
    outcomes = [outcome(at / name) for name in ("s", "s.tar", "s.tar.gz")]
    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]
    if len(outcomes[0]) == 4:
        images, classes, _, counts = outcomes[0]
        assert len(images) + counts.total() == len(content)
        assert set(images) == {name for name in content if passed_over(name) is None}
        assert len(classes) == len({os.path.dirname(name) for name in images}) >= 2
        for name, of_image in images.items():
            assert os.path.dirname(name).endswith(of_image)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("files", "classes", "n"),
    [
        (["a/1.png", "b/1.png", "c/1.webp", "c/2.bmp"], "abc", 4),
        (["a/1.png", "b/1.png", "c/1.tif", "c/2.gif"], "abc", 4),
        (["a/1.JPG", "b/1.jfif", "b/2.ppm", "b/3.avif"], "ab", 4),
        (["a/1.png", "b/1.png", "a/.ipynb_checkpoints/1-checkpoint.png"], "ab", 2),
        (["a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "@eaDir/b/1.png"], "ab", 2),
        (
            ["l/good/1.png", "l/bad/1.png", "r/good/1.png", "r/bad/1.png"],
            ["l/bad", "l/good", "r/bad", "r/good"],
            4,
        ),
    ],
)
def test_both_readers_read_the_same(tmp_path, in_memory, files, classes, n):
    content = {name: encoded(i, Path(name).suffix.lower()) for i, name in enumerate(files)}
    data = load(write_root(tmp_path, content, content, ""), 1, in_memory=in_memory)
    assert data.classes == tuple(classes)
    assert len(data.training) == len(data.testing) == n


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/1.png", "b/1.png", "x.png"], "x.png lies outside the class folders"),
        (["a/1.png", "a/sub/1.png", "b/1.png"], "a holds both images and the folder a/sub"),
        (["a/x/1.png", "b/1.png"], "class folders lie at several depths: b and a/x"),
        (["a/1.png", "b/1.png", "c/1.heic", "c/2.heic"], r"folder c \(only 2 .heic\); allowed: .j"),
        (["a/1.png", "b/1.png", "c/d/1"], r"folder c \(only 1 without suffix\)"),
        (["a/1.heic", "b/2.txt"], r"holds no images, only 1 .heic, 1 .txt; read: .jpg"),
        ([".a/1.png"], r"holds no images, only 1 in .a; read"),
        (["a/1.png"], "must hold a folder a class, at least two"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, files, message):
    write_folder(tmp_path / "s", dict.fromkeys(files, b"x"))
    with pytest.raises(ValueError, match=message) as caught:
        take_inventory(Folder(tmp_path / "s"))
    assert str(caught.value).startswith(f"data.root: {tmp_path / 's'}")


def test_an_empty_class_folder_is_refused(tmp_path):
    write_folder(tmp_path / "s", members(1))
    (tmp_path / "s" / "fox").mkdir()
    with pytest.raises(ValueError, match=r"no images in the folder fox \(empty\)"):
        take_inventory(Folder(tmp_path / "s"))
    folder = tarfile.TarInfo("fox")
    folder.type = tarfile.DIRTYPE
    tar = tar_of(tmp_path / "s.tar", folder, *members(1).items())
    with pytest.raises(ValueError, match=r"no images in the folder fox \(empty\)"):
        take_inventory(Archive(tar))


def test_what_was_read_is_said_in_a_line_a_split(tmp_path):
    train = members(3) | {"cat/a.txt": b"", "cat/b.TXT": b"", "dog/.DS_Store": b"", "README": b""}
    faint = image(3)
    faint.putalpha(128)
    train["dog/faint.png"] = file_of(faint, "PNG")
    train["dog/opaque.png"] = file_of(image(3).convert("RGBA"), "PNG")
    root = write_root(tmp_path / "r", train, suffix="")
    (root / "val").mkdir()
    for in_memory in (True, False):
        said = io.StringIO()
        load(root, in_memory=in_memory, console=Console(file=said, width=40))
        assert [line for line in said.getvalue().splitlines() if "classes" in line] == [
            "train: 8 images of 2 classes (cat, dog); passed over 4: 2 .txt, 1 hidden,"
            " 1 without suffix; 1 with transparency, laid on white",
            "test: 4 images of 2 classes (cat, dog); not read: val",
        ]


def test_an_empty_split_gives_way_to_one_that_holds_images(tmp_path):
    root = write_root(tmp_path, suffix="")
    (root / "test").rename(root / "val")
    (root / "test/cat").mkdir(parents=True)
    data = load(root)
    assert len(data.testing) == 4
    (root / "test/cat/notes.txt").touch()
    assert len(load(root, in_memory=False).testing) == 4
    (root / "test/cat/1.png").write_bytes(encoded(1))  # no longer empty: not passed over in silence
    with pytest.raises(ValueError, match="test must hold a folder a class"):
        load(root)


def test_both_splits_must_not_be_the_same(tmp_path):
    root = write_root(tmp_path, suffix="")
    (root / "test").rename(root / "elsewhere")
    (root / "test").symlink_to("train")
    with pytest.raises(ValueError, match="train and test are the same"):
        load(root)


# ---- links and other things in folders ---------------------------------------------------------


def test_links_to_folders_above_multiply_nothing(tmp_path):
    write_folder(tmp_path / "r/s", members(2))
    (tmp_path / "r/s/cat/loop").symlink_to("..")
    (tmp_path / "r/s/dog/up").symlink_to("../..")
    (tmp_path / "r/s/me").symlink_to("me")
    with pytest.raises(ValueError, match=r"cannot be read: me \(broken link"):
        take_inventory(Folder(tmp_path / "r/s"))
    (tmp_path / "r/s/me").unlink()
    split = take_inventory(Folder(tmp_path / "r/s"))
    assert len(listed(split)) == 4
    assert split.passed_over == {"link to a folder above it": 2}


def test_links_are_followed_and_a_folder_reached_twice_is_refused(tmp_path):
    write_folder(tmp_path / "far", members(2))
    (tmp_path / "s").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "s" / name).symlink_to(f"../far/{name}")
    assert len(listed(take_inventory(Folder(tmp_path / "s")))) == 4
    (tmp_path / "s/cat2").symlink_to("cat")
    with pytest.raises(ValueError, match="cat2 and cat are the same folder"):
        take_inventory(Folder(tmp_path / "s"))


def test_broken_links_and_pipes_are_listed_with_the_unreadable(tmp_path):
    root = write_root(tmp_path, suffix="")
    (root / "train/cat/gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "train/dog/pipe.png")  # reading it would wait for ever
    (root / "train/dog/text.png").write_bytes(b"no image")
    for in_memory in (True, False):
        with pytest.raises(ValueError, match="3 of 15 images are not readable") as caught:
            load(root, in_memory=in_memory)
        for name in ("cat/gone.png (broken link", "dog/pipe.png (is not a", "dog/text.png (no "):
            assert name in str(caught.value)


# ---- the order of classes ----------------------------------------------------------------------

class_names = st.lists(st.text("aAbB01 .é²", min_size=1, max_size=5), unique=True, max_size=7)


@given(names=class_names, seed=st.randoms())
def test_classes_have_one_order(names, seed):
    shuffled = list(names)
    seed.shuffle(shuffled)
    assert sorted(shuffled, key=class_order) == sorted(names, key=class_order)
    assert len({class_order(name) for name in names}) == len(names)


@given(a=st.text("abAB012_-", min_size=1), b=st.text("abAB012_-", min_size=1))
def test_the_order_is_timm_s_where_that_decides(a, b):
    if natural_key(a) != natural_key(b):
        assert (class_order(a) < class_order(b)) == (natural_key(a) < natural_key(b))


@pytest.mark.parametrize(
    "names", [("1", "01", "001"), ("Cat", "cat", "CAT"), ("²", "2", "x" * 200)]
)
def test_ties_of_names_are_told_apart_alike_everywhere(tmp_path, names):
    content = members(1, names)
    root = write_root(tmp_path, content, dict(reversed(content.items())), "")
    orders = {load(root, 1, in_memory=in_memory).classes for in_memory in (True, False)}
    assert orders == {tuple(sorted(names, key=class_order))}
    data = load(root, 1)
    of_image = {name: data.classes[n] for name, n in zip(sorted(content), data.testing.labels)}
    assert all(name.split("/")[0] == label for name, label in of_image.items())


def test_torchvision_s_folders_are_ours(tmp_path):
    """A class that the test split lacks would move the labels of those behind it."""
    root = write_root(tmp_path, members(1, ("a", "b", "c")), members(1, ("a", "c")), "")
    for in_memory in (True, False):
        with pytest.raises(ValueError, match="different classes: only one has b"):
            load(root, 1, name="torch/image_folder", in_memory=in_memory)
    write_folder(root / "test", members(1, ("b",)))
    data = load(root, 1, name="torch/image_folder")
    assert torch.equal(data.testing.labels, torch.arange(3))


# ---- names -------------------------------------------------------------------------------------


def test_every_format_has_its_suffixes():
    assert len(set(SUFFIXES)) == len(SUFFIXES) == sum(len(s) for s in FORMATS.values())
    assert all(passed_over(f"a/b{suffix.upper()}") is None for suffix in SUFFIXES)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a/.x.png", "hidden"),
        (".git/a/x.png", "in .git"),
        ("a/@eaDir/x.png", "in @eaDir"),
        ("a/x.png.part", ".part"),
        ("a/.png", "hidden"),
        ("a/x", "without suffix"),
        ("a/x.", "without suffix"),
    ],
)
def test_why_files_are_passed_over(name, why):
    assert passed_over(name) == why
    assert hidden("a/b.png") is None


def test_names_never_break_a_line(tmp_path):
    assert shown("a\nb\x1b[0m\udce9") == r"a\nb\x1b[0m\udce9"
    content = members(1) | {"dog/line\nbreak.png": b""}
    root = write_root(tmp_path, content, suffix="")
    with pytest.raises(ValueError, match=r"dog/line\\nbreak.png is not a readable image: empty"):
        load(root)


def test_names_that_look_alike_are_told_apart(tmp_path):
    """A system may write an accent as a character of its own."""
    one, two = "\u00e9t\u00e9", "e\u0301te\u0301"
    root = write_root(tmp_path, members(1, (one, "x")), members(1, (two, "x")), "")
    with pytest.raises(ValueError, match=r"only one has 'e.u0301te.u0301', '.xe9t.xe9'"):
        load(root, 1)
    write_folder(root / "train", members(1, (two,)))
    with pytest.raises(ValueError, match=r"two folders look alike, 'e.u0301te.u0301' and '.xe9t"):
        load(root, 1)
