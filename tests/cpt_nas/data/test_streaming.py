"""Images read from disk: each once, never another in its place, and plain words where it fails."""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image
from timm.data import create_transform

from cpt_nas.data.streaming import SplitDataset
from tests.support.image_files import encoded, file_of, load, members, write_root
from tests.support.shell import Shell


@pytest.fixture
def data(tmp_path):
    root = write_root(tmp_path, members(8), members(5), "")
    return load(root, in_memory=False, workers=2, augment="none", batch_size=4)


def reds(data, batches):
    """The red values of images, which tell them apart."""
    x = torch.cat([x for x, _ in batches])
    return sorted((x[:, 0, 8, 8] * data.std[0] + data.mean[0]).mul(255).round().int().tolist())


def test_every_test_image_is_judged_once(data):
    assert reds(data, data.test()) == [*range(5), *range(40, 45)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_test_images_are_prepared_as_is_said(tmp_path, in_memory):
    """timm's own transform, made of what an export records, gives the same pixels."""
    picture = Image.linear_gradient("L").resize((48, 40)).convert("RGB")
    content = {f"{name}/0.png": file_of(picture, "PNG") for name in ("cat", "dog")}
    data = load(write_root(tmp_path, None, content, ""), in_memory=in_memory, workers=1)
    made = create_transform(
        input_size=(3, 16, 16),
        interpolation=data.interpolation,
        crop_pct=data.crop_pct,
        mean=data.mean,
        std=data.std,
    )
    x, _ = next(iter(data.test()))
    std = torch.tensor(data.std).view(3, 1, 1)
    assert ((x[0] - made(picture)) * std).abs().max() < 0.02  # whether it is first cut or scaled


def test_an_image_that_vanishes_is_named_in_one_line(data, tmp_path):
    (tmp_path / "test/dog/003.png").unlink()
    with pytest.raises(
        ValueError, match=r"test: dog/003.png is not .* any more: No such"
    ) as caught:
        list(data.test())
    assert str(caught.value).startswith("data.root: ") and "\n" not in str(caught.value)
    for i in range(8):
        (tmp_path / f"train/cat/00{i}.png").write_bytes(encoded(i)[:40])
    with pytest.raises(ValueError, match=r"train: cat/00.\.png is not a readable image any more"):
        list(data.train(0))


def test_a_reader_that_dies_is_no_traceback(data, monkeypatch):
    monkeypatch.setattr(SplitDataset, "__getitem__", lambda *_: os._exit(1))
    with pytest.raises(
        ValueError, match=r"data\.workers: 2: a process that reads images was ended"
    ):
        list(data.train(0))


def test_other_faults_keep_their_traceback(data):
    assert data._plainly(RuntimeError("a bug")) is None


# ---- as a user sees it -------------------------------------------------------------------------

RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [4, 4, 4]}}
data: {name: images, root: d, input_size: [3, 16, 16], in_memory: false, workers: 1}
train: {epochs: 1, batch_size: 4, threads: 1}
"""


@pytest.fixture
def shell(monkeypatch, capfd):
    return Shell(monkeypatch, capfd)


def test_what_cannot_be_read_is_found_before_training(tmp_path, shell):
    """Ten in a row, and one that is too large, were a traceback and a run that said running."""
    write_root(tmp_path / "d", members(4), members(2), "")
    (tmp_path / "r.yaml").write_text(RECIPE)
    huge = tmp_path / "d/train/cat/huge.png"
    Image.new("1", (15000, 15000)).save(huge)
    bad = [tmp_path / f"d/train/dog/bad{i:02d}.png" for i in range(11)]
    for path in bad:
        path.write_bytes(b"no image")
    train = ("train", "--recipe", "r.yaml", "-o", "run")
    done = shell(*train, cwd=tmp_path)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: data.root: d/train: 12 of 20 images are not readable: ")
    for path, why in [(huge, "Image size (225000000"), *((p, "no image of a") for p in bad)]:
        assert f"train: {path.parent.name}/{path.name}: {why}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()

    for path in (huge, *bad):
        path.unlink()
    done = shell(*train, cwd=tmp_path)
    assert done.returncode == 0
    assert "train: 8 images of 2 classes (cat, dog)" in done.stderr.splitlines()
    assert "test: 4 images of 2 classes (cat, dog)" in done.stderr.splitlines()
