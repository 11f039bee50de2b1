"""Sources of images: folders, archives, torchvision's sets; in memory, from disk, on a device."""

import io
import pickle

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from cpt_nas.data.decode import SMALL_BYTES
from cpt_nas.data.images import load_digits
from tests.support.image_files import (
    CLASSES,
    SIZE,
    encoded,
    load,
    members,
    one_line,
    write_root,
)


@pytest.mark.parametrize("suffix", ["", ".tar", ".tar.gz", ".tgz"])
def test_folders_and_archives_hold_the_same_images(tmp_path, suffix):
    data = load(write_root(tmp_path / "root", suffix=suffix))
    assert data.classes == CLASSES
    assert data.num_classes == 2
    expected = torch.tensor([*range(6), *range(40, 46)], dtype=torch.uint8)
    assert torch.equal(data.training.images[:, 0, 0, 0], expected)
    assert torch.equal(data.training.images[:, 2, 5, 5], 255 - expected)
    assert torch.equal(data.training.labels, torch.arange(12) // 6)
    assert len(data.testing) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root"]  # nothing extracted or cached


def test_images_come_in_the_order_of_their_names(tmp_path):
    content = members(40)  # more than one chunk
    data = load(write_root(tmp_path, train=dict(reversed(content.items()))))
    assert data.training.images[:, 0, 0, 0].tolist() == [*range(40), *range(40, 80)]


def test_large_images_go_through_threads_in_order(tmp_path):
    noise = np.random.default_rng(0)
    content = {}
    for i in range(70):
        pixels = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        pixels[24:40, 24:40] = i  # the centre is what is left of it
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        content[f"{CLASSES[i % 2]}/{i:03d}.png"] = stream.getvalue()
    assert min(map(len, content.values())) > SMALL_BYTES
    data = load(write_root(tmp_path, train=content), input_size=(3, 64, 64))
    centres = data.training.images[:, 0, 32, 32]
    assert centres.tolist() == [*range(0, 70, 2), *range(1, 70, 2)]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_other_sizes_and_channels_are_fitted(tmp_path, suffix):
    content = members(suffix=suffix, size=(40, 20)) | {
        f"dog/grey{suffix}": encoded(200, suffix, mode="L", size=(16, 16))
    }
    root = write_root(tmp_path, train=content)
    data = load(root)
    assert data.training.images.shape == (13, *SIZE)
    assert data.training.images[-1].float().mean() == pytest.approx(200, abs=1)
    grey = load(root, input_size=(1, 8, 12))
    assert grey.training.images.shape == (13, 1, 8, 12)
    red, green, blue = 3, 1, 252
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    # rounding, and the colour subsampling of JPEG
    assert grey.training.images[3].float().mean() == pytest.approx(luma, abs=2)


def test_classes_are_folders_below_what_all_share(tmp_path):
    deep = {f"./images/{name}": data for name, data in members().items()}
    ignored = {"images/README.txt": b"hello", "images/cat/._000.png": b"resource fork"}
    data = load(write_root(tmp_path, train=deep | ignored))
    assert data.classes == CLASSES
    assert len(data.training) == 12


def test_classes_are_numbered_as_timm_does(tmp_path):
    names = ("c1", "c10", "c2")
    root = write_root(tmp_path, members(2, names), members(1, names), suffix="")
    assert load(root).classes == ("c1", "c2", "c10")
    assert load(root, in_memory=False, batch_size=2).classes == ("c1", "c2", "c10")


def test_digits():
    train, test = load_digits((1, 16, 16))
    assert train.images.shape == (1437, 1, 16, 16)
    assert test.images.shape == (360, 1, 16, 16)
    assert train.images.max() == 255
    shares = test.labels.bincount() / train.labels.bincount()
    assert shares.sub(360 / 1437).abs().max() < 0.01  # stratified: an image or so a class
    again, _ = load_digits((3, 16, 16))
    assert torch.equal(again.images, train.images.expand(-1, 3, -1, -1))
    original, _ = load_digits((1, 8, 8))
    assert torch.equal(original.labels, train.labels)
    assert set(original.images.unique().tolist()) == {round(v * 255 / 16) for v in range(17)}
    data = load(name="digits", input_size=(1, 16, 16), batch_size=64)
    assert data.steps == 1437 // 64
    assert data.augment == "crop"  # never mirrored
    assert load(name="digits", input_size=(1, 16, 16), augment="none").augment == "none"


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """torchvision's files with a few images; its checksums are of the real ones."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels[name] = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        batch = {"data": pixels[name], "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    return tmp_path, pixels


def test_torchvision_sets(cifar):
    root, pixels = cifar
    data = load(root, name="torch/cifar10", input_size=(3, 32, 32))
    assert len(data.training) == 50
    assert data.classes[3] == "class 3"
    expected = torch.from_numpy(pixels["data_batch_2"].reshape(-1, 3, 32, 32))
    assert torch.equal(data.training.images[10:20], expected)
    assert torch.equal(data.training.labels, torch.arange(50) % 10)
    assert torch.equal(
        data.testing.images, torch.from_numpy(pixels["test_batch"].reshape(-1, 3, 32, 32))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": [[0, 1]] * 50}, "data.name: torch/cifar10 has not one label an image"),
        ({"targets": [0] * 49}, "data.name: torch/cifar10 has not one label an image"),
        ({"targets": [*range(10)] * 4 + [*range(1, 11)]}, "labels from 0 to 10 for 10 classes"),
        ({"data": np.zeros((0, 32, 32, 3)), "targets": []}, "torch/cifar10 holds no images"),
        ({"data": np.zeros((50, 0, 0, 3), np.uint8)}, "50 of 50 images are not readable"),
    ],
)
def test_torchvision_sets_that_are_no_classification(cifar, monkeypatch, changes, message):
    create = timm.data.create_dataset

    def changed(*args, **kwargs):
        dataset = create(*args, **kwargs)
        for name, value in changes.items() if kwargs["split"] == "train" else ():
            setattr(dataset, name, value)
        return dataset

    monkeypatch.setattr("timm.data.create_dataset", changed)
    for in_memory in (True, False):
        with pytest.raises(ValueError, match=message) as caught:
            load(cifar[0], name="torch/cifar10", in_memory=in_memory, input_size=(3, 32, 32))
        one_line(caught)


# ---- from disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".tar"])
def test_large_sets_go_through_timm(tmp_path, suffix):
    root = write_root(tmp_path / "root", train=members(10), suffix=suffix)
    data = load(root, in_memory=False, workers=1, augment="none", seed=3, batch_size=6)
    assert data.classes == CLASSES
    assert data.steps == 3
    epochs = {}
    for run in range(2):
        for epoch in range(2):
            torch.manual_seed(run)
            epochs[run, epoch] = list(data.train(epoch))
    for epoch in range(2):  # a function of seed and epoch alone
        for (x, y), (x2, y2) in zip(epochs[0, epoch], epochs[1, epoch], strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
            assert x.shape == (6, *SIZE)
    order = [torch.cat([x[:, 0, 0, 0] for x, _ in epochs[0, epoch]]) for epoch in range(2)]
    assert not torch.equal(*order)
    # red is 0..9 for cats and 40..49 for dogs, and every image comes at most once
    red = (order[0] * data.std[0] + data.mean[0]).mul(255).round()
    labels = torch.cat([y for _, y in epochs[0, 0]])
    assert torch.equal(labels, (red >= 40).long())
    assert len(set(red.tolist())) == 18
    x, y = next(data.test())
    assert y.tolist() == [0, 0, 1, 1]
    data.load_state_dict(data.state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root"]


def test_large_sets_augment_alike_in_a_resumed_run(tmp_path):
    root = write_root(tmp_path, suffix="", train=members(10, size=(40, 40)))
    runs = [load(root, in_memory=False, workers=2, train_limit=16) for _ in range(2)]
    list(runs[0].train(0))
    for (x, y), (x2, y2) in zip(runs[0].train(1), runs[1].train(1), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert runs[0].steps == 4
    assert len(runs[0].training) == 16


def test_large_sets_that_are_not_images_in_a_folder(tmp_path, cifar):
    root = write_root(tmp_path / "zipped")
    with pytest.raises(ValueError, match=r"train\.tar\.gz: unzip it first"):
        load(root, in_memory=False)
    grey = load(cifar[0], name="torch/cifar10", in_memory=False, input_size=(1, 32, 32), workers=1)
    assert next(grey.test())[0].shape == (4, 1, 32, 32)  # as in memory
    data = load(cifar[0], name="torch/cifar10", in_memory=False, input_size=(3, 32, 32), workers=1)
    assert data.steps == 12
    assert data.num_classes == 10
