"""Processes read the same images or none goes on; so do a run and its continuation."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from cpt_nas.data.config import DataConfig
from cpt_nas.data.load import load_data
from cpt_nas.data.processes import difference
from cpt_nas.train.recipe import TrainConfig
from tests.support.image_files import SIZE, encoded, load, members, write_folder, write_root


def process(rank: int, meeting: Path, roots: list[Path], in_memory: bool, answers) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=len(roots))
    data = DataConfig(name="images", root=str(roots[rank]), input_size=SIZE, in_memory=in_memory)
    try:
        loaded = load_data(data, TrainConfig(batch_size=1), rank=rank, world=len(roots))
        answers.put((rank, loaded.classes))
    except ValueError as error:
        answers.put((rank, str(error)))


def in_processes(tmp_path: Path, roots: list[Path], in_memory: bool) -> list[object]:
    """What load_data answers in each of several processes."""
    context = multiprocessing.get_context("fork")  # a start anew would import torch again
    answers = context.Queue()
    meeting = tmp_path / f"meeting{in_memory}"
    started = [
        context.Process(target=process, args=(rank, meeting, roots, in_memory, answers))
        for rank in range(len(roots))
    ]
    for one in started:
        one.start()
    found = dict(answers.get(timeout=60) for _ in started)
    for one in started:
        one.join(60)
        assert one.exitcode == 0
    return [found[rank] for rank in range(len(roots))]


@pytest.fixture
def roots(tmp_path):
    """Two copies of one data set, as on two machines."""
    first = write_root(tmp_path / "first", suffix="")
    return [first, shutil.copytree(first, tmp_path / "second")]


@pytest.mark.parametrize("in_memory", [True, False])
def test_processes_read_the_same_or_none_goes_on(tmp_path, roots, in_memory):
    assert in_processes(tmp_path, roots, in_memory) == [("cat", "dog")] * 2
    for split in ("train", "test"):
        (roots[1] / split / "cat").rename(roots[1] / split / "zebra")
    (tmp_path / f"meeting{in_memory}").unlink(missing_ok=True)
    first, second = in_processes(tmp_path, roots, in_memory)
    assert first == second
    assert "different images: classes[0] is 'cat' in process 0, 'dog' in process 1" in first


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_one_process_cannot_read_stops_all(tmp_path, roots, in_memory):
    # Of the same size, so that the inventories agree. Reading from disk, each process looks at
    # every second image.
    broken = roots[1] / "train/cat/001.png"
    broken.write_bytes(bytes(broken.stat().st_size))
    first, second = in_processes(tmp_path, roots, in_memory)
    assert "cat/001.png" in first and "cat/001.png" in second


def test_a_damaged_split_of_one_process_stops_all(tmp_path, roots):
    shutil.rmtree(roots[1] / "test")
    first, second = in_processes(tmp_path, roots, True)
    assert "has no test split" in second
    assert first == f"{second} (in process 1)"


def test_the_first_difference_is_told():
    assert difference({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 2]}) is None
    assert difference({"a": 1}, {"a": 2}) == ("a", 1, 2)
    assert difference({"a": 1}, {}) == ("a", 1, None)
    assert difference({"b": [1, 2, 3]}, {"b": [1, 5, 3]}) == ("b[1]", 2, 5)
    assert difference({"b": [1]}, {"b": [1, 5]}) == ("number of b", 1, 2)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_run_goes_on_with_the_same_images_only(tmp_path, in_memory):
    root = write_root(tmp_path, suffix="")
    saved = load(root, in_memory=in_memory).state_dict()
    load(root, in_memory=in_memory).load_state_dict(saved)

    (root / "train/cat/000.png").rename(root / "train/dog/000a.png")  # a label has changed
    with pytest.raises(ValueError, match=r"names_sizes_labels\[0\] is .* when the run was saved"):
        load(root, in_memory=in_memory).load_state_dict(saved)
    (root / "train/dog/000a.png").rename(root / "train/cat/000.png")

    before = (root / "test/cat/000.png").read_bytes()
    (root / "test/cat/000.png").write_bytes(encoded(9, size=(64, 64)))
    with pytest.raises(ValueError, match=r"names_sizes_labels\[1\] is"):
        load(root, in_memory=in_memory).load_state_dict(saved)

    (root / "test/cat/000.png").write_bytes(before)
    load(root, in_memory=in_memory).load_state_dict(saved)

    picture = bytearray((root / "train/dog/000.png").read_bytes())
    picture[-1] ^= 1  # of the same size, as an image saved anew may be: behind the last pixel
    (root / "train/dog/000.png").write_bytes(picture)
    with pytest.raises(ValueError, match=r"contents_of_images\[0\] is .* when the run was saved"):
        load(root, in_memory=in_memory).load_state_dict(saved)

    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "Dog")
    with pytest.raises(ValueError, match=r"data: classes\[0\] is 'Dog', was 'cat' when"):
        load(root, in_memory=in_memory).load_state_dict(saved)


def test_what_is_in_the_images_is_the_same_however_they_are_read(tmp_path):
    """In one thread or four, into memory or not."""
    root = write_root(tmp_path, suffix="")
    memory, disk = (load(root, in_memory=m, workers=4).state_dict() for m in (True, False))
    one = load(root, in_memory=True, workers=1).state_dict()
    key = "contents_of_images"
    assert memory[key] == disk[key] == one[key] and len(set(memory[key])) == 2


def test_an_archive_of_a_folder_is_the_same_data(tmp_path):
    folder = write_root(tmp_path / "folder", suffix="")
    archive = write_root(tmp_path / "archive", suffix=".tar.gz")
    load(archive).load_state_dict(load(folder).state_dict())


def test_many_unreadable_images_are_all_told(tmp_path, capsys):
    bad = {f"cat/bad{i:03d}.png": b"no image" for i in range(30)}
    root = write_root(tmp_path, suffix="")
    write_folder(root / "test", bad)
    for in_memory in (True, False):
        with pytest.raises(ValueError, match=r"test: 30 of 34 images are not .*and 10 more$") as e:
            load(root, in_memory=in_memory, console=Console(width=200))
        assert len(e.value.unreadable) == 30
        said = capsys.readouterr().out
        assert all(f"test: {name}: no image of a known format" in said for name in bad)


def test_a_few_unreadable_images_are_all_in_the_message(tmp_path):
    bad = {f"cat/bad{i:03d}.png": b"no image" for i in range(12)}
    root = write_root(tmp_path, suffix=".tar", test=members(2) | bad)
    for in_memory in (True, False):
        with pytest.raises(ValueError, match="12 of 16 images are not readable") as caught:
            load(root, in_memory=in_memory)
        assert all(name in str(caught.value) for name in bad)
