"""Settings, folders and files that are wrong are named, in one line."""

import io

import pytest
from rich.console import Console

from cpt_nas.data.config import DataConfig
from cpt_nas.data.load import load_data
from cpt_nas.train.recipe import TrainConfig
from tests.support.image_files import (
    SIZE,
    encoded,
    load,
    members,
    one_line,
    write_archive,
    write_root,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "data.root: is missing"),
        ({"root": "nowhere"}, "data.root: no such folder: nowhere"),
        ({"name": "torch/cifar10", "root": "nowhere"}, "no such folder: nowhere; data.download"),
        ({"name": "imagenet", "root": "."}, "data.name: 'imagenet', must be one of digits, images"),
        ({"name": "torch/nosuch", "root": "."}, "data.name: timm knows no 'torch/nosuch'"),
        ({"name": "digits", "in_memory": False}, "data.in_memory: .* must be true"),
        ({"name": "digits", "input_size": (4, 8, 8)}, r"data.input_size: \[4, 8, 8\], must be"),
        ({"name": "digits", "input_size": (1, 0, 8)}, r"data.input_size: \[1, 0, 8\], must be"),
        ({"name": "digits", "input_size": (3, 9**5, 9**5)}, "data.input_size: .* than 1 GiB in"),
        ({"name": "digits", "mean": (float("nan"),) * 3}, "mean.* a finite number .got nan"),
        ({"name": "digits", "mean": (123.7, 116.3, 103.5)}, r"data.mean: \[123.* from 0 to 1"),
        ({"name": "digits", "std": (0.5, 1e-300, 1)}, r"data.std: .* above 0"),
        ({"name": "digits", "std": (0.5, 57.4, 1)}, r"data.std: .* at most 1"),
        ({"name": "digits", "workers": 1000000}, "workers: .* less than or equal to 256"),
        ({"name": "digits", "mean": (0.5,)}, r"data.mean: \[0.5\], must be 3 numbers"),
        ({"name": "digits", "std": (0.5, 0, 1)}, r"data.std: .* above 0"),
        ({"name": "digits", "train_limit": 1438}, "data.train_limit: 1438, must be from 1 to 1437"),
        ({"name": "digits", "batch_size": 1438}, "train.batch_size: 1438 is more than the 1437"),
    ],
)
def test_settings_at_fault_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(**settings)
    one_line(caught)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, None, r"train\.tar"),
        ({"a.png": encoded(1), "b.png": encoded(2)}, None, "must hold a folder a class"),
        ({"cat/a.png": encoded(1)}, None, "must hold a folder a class, at least two"),
        (None, members(2, ("cat", "fox")), "different classes: only one has dog, fox"),
    ],
)
def test_faulty_archives_are_named(tmp_path, in_memory, train, test, message):
    root = write_root(tmp_path, train, test, suffix=".tar")
    with pytest.raises(ValueError, match=message) as caught:
        load(root, in_memory=in_memory)
    assert one_line(caught).startswith(f"data.root: {root}")


def test_images_beside_class_folders_are_named(tmp_path):
    root = write_root(tmp_path, train=members() | {"stray.png": encoded(1)})
    with pytest.raises(ValueError, match=r"train\.tar\.gz: stray\.png lies outside") as caught:
        load(root)
    one_line(caught)


@pytest.mark.parametrize("suffix", ["", ".tar.gz"])
@pytest.mark.parametrize("broken", [b"no image", encoded(3, ".jpg")[:200], b""])
def test_a_corrupt_image_is_named(tmp_path, suffix, broken):
    content = members(suffix=".jpg") | {"dog/003.jpg": broken}
    root = write_root(tmp_path, train=content, suffix=suffix)
    with pytest.raises(ValueError, match=r"train.*: dog/003\.jpg is not a readable") as caught:
        load(root)
    assert one_line(caught).startswith("data.root: ")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_damaged_archive_is_named(tmp_path, suffix):
    root = write_root(tmp_path, suffix=suffix)
    archive = root / f"train{suffix}"
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 3], b"no archive at all"):
        archive.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a readable archive") as caught:
            load(root)
        assert str(archive) in one_line(caught)


def test_a_missing_split_is_named(tmp_path):
    write_archive(tmp_path / "train.tar", members())
    with pytest.raises(ValueError, match="has no test split; allowed: test, val") as caught:
        load(tmp_path)
    one_line(caught)


def test_too_many_for_memory(tmp_path):
    root = write_root(tmp_path)
    with pytest.raises(ValueError, match=r"more than .* GiB in memory; set data.in_memory=false"):
        load(root, limit_bytes=11 * 3 * 16 * 16)
    assert len(load(root, limit_bytes=12 * 3 * 16 * 16).training) == 12


def test_progress_is_shown(tmp_path):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    root = write_root(tmp_path)
    data = DataConfig.from_mapping({"name": "images", "root": str(root), "input_size": SIZE})
    load_data(data, TrainConfig(batch_size=4), console=console)
    assert "decoding train.tar.gz" in shown.getvalue()
