"""Images: sources, checks, order, augmentation, and what a resumed or distributed run sees."""

import io
import pickle

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from rich.console import Console

from cpt_nas.data.batches import channel_statistics, stratified
from cpt_nas.data.config import DataConfig
from cpt_nas.data.decode import SMALL_BYTES
from cpt_nas.data.images import Images, load_digits
from cpt_nas.data.in_memory import MemoryBatches, shift_and_flip
from cpt_nas.data.load import load_data
from cpt_nas.train.recipe import TrainConfig
from tests.support.image_files import (
    CLASSES,
    SIZE,
    encoded,
    load,
    members,
    write_archive,
    write_root,
)


def some_images(n=20, classes=2, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *size), generator=generator).to(torch.uint8)
    names = tuple("abcdefghij"[:classes])
    return Images(images, torch.arange(n) % classes, names)


def batches(n=20, batch_size=4, **kwargs):
    return MemoryBatches(some_images(n), some_images(7), batch_size=batch_size, **kwargs)


# ---- sources ----------------------------------------------------------------------------------


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


# ---- errors -----------------------------------------------------------------------------------


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


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


# ---- batches ----------------------------------------------------------------------------------


def test_batches_are_normalised_and_drop_the_rest():
    data = batches(n=18, augment="none")
    seen = list(data.train(epoch=0))
    assert len(seen) == data.steps == 4
    for x, y in seen:
        assert (x.shape, x.dtype) == ((4, *SIZE), torch.float32)
        assert (y.shape, y.dtype) == ((4,), torch.int64)
    tested = list(data.test())
    assert [len(y) for _, y in tested] == [4, 3]
    x = torch.cat([x for x, _ in tested])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    torch.testing.assert_close(
        x, (data.testing.images / 255 - mean) / std, rtol=1e-5, atol=1e-5
    )  # float32
    assert torch.equal(torch.cat([y for _, y in tested]), data.testing.labels)


def test_an_epoch_is_every_image_at_most_once():
    data = batches(n=20, augment="none")
    picked = torch.cat([x for x, _ in data.train(3)])
    everything = data._normalise(data.training.images)
    distances = torch.cdist(picked.flatten(1), everything.flatten(1))
    assert sorted(distances.argmin(1).tolist()) == list(range(20))
    assert distances.min(1).values.max() < 1e-2  # float32 distances


def test_labels_follow_their_images():
    data = batches(n=20, augment="none")
    everything = data._normalise(data.training.images)
    for x, y in data.train(1):
        rows = torch.cdist(x.flatten(1), everything.flatten(1)).argmin(1)
        assert torch.equal(y, data.training.labels[rows])


def test_same_epoch_and_seed_same_batches_whatever_came_before():
    first, second = batches(seed=5), batches(seed=5)
    for epoch in range(3):
        list(first.train(epoch))
    torch.manual_seed(123)  # the global generator has no part in it
    for (x, y), (x2, y2) in zip(first.train(3), second.train(3), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert not torch.equal(next(first.train(3))[0], next(first.train(4))[0])
    assert not torch.equal(next(first.train(3))[0], next(batches(seed=6).train(3))[0])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(batches().train(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
def test_processes_share_the_steps_of_one(augment):
    alone = batches(n=21, batch_size=6, augment=augment)
    shared = [batches(n=21, batch_size=2, augment=augment, rank=rank, world=3) for rank in range(3)]
    assert {s.steps for s in shared} == {alone.steps}
    for whole, *parts in zip(alone.train(2), *(s.train(2) for s in shared), strict=True):
        assert torch.equal(whole[0], torch.cat([x for x, _ in parts]))
        assert torch.equal(whole[1], torch.cat([y for _, y in parts]))


def test_state_says_whether_it_is_the_same_data():
    data = batches(seed=1)
    data.load_state_dict(batches(seed=1).state_dict())
    with pytest.raises(ValueError, match="data: seed is 1, was 2 when the run was saved"):
        data.load_state_dict(batches(seed=2).state_dict())
    with pytest.raises(ValueError, match="data: images is 20, was 24"):
        data.load_state_dict(batches(n=24, seed=1).state_dict())
    # twice the processes at half the batch go on with the same images
    batches(batch_size=2, rank=0, world=2, seed=1).load_state_dict(data.state_dict())


def test_channels_last():
    data = batches(channels_last=True)
    for x, _ in (next(data.train(0)), next(data.test())):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert not x.is_contiguous()


def naive_shift_and_flip(image, down, right, mirrored):
    """A window cut out of the zero-padded image, one image, one pixel at a time."""
    height, width = image.shape[1:]
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            source_row = row - down
            source_column = (width - 1 - column if mirrored else column) - right
            if 0 <= source_row < height and 0 <= source_column < width:
                out[:, row, column] = image[:, source_row, source_column]
    return out


def test_augmentation_is_a_padded_crop_and_a_mirror():
    images = some_images(12, size=(3, 8, 10)).images
    generator = torch.Generator().manual_seed(0)
    down, right = torch.randint(-3, 4, (2, 12), generator=generator)
    mirrored = torch.arange(12) % 2 == 0
    expected = [
        naive_shift_and_flip(i, d, r, m) for i, d, r, m in zip(images, down, right, mirrored)
    ]
    got = shift_and_flip(images, down, right, mirrored)
    assert got.dtype == torch.uint8
    assert torch.equal(got, torch.stack(expected))


def test_augmentation_reaches_what_it_should():
    data = batches(n=2000, batch_size=2000, augment="crop+flip")
    generator = torch.Generator().manual_seed(0)
    down, right, mirrored = data._moves(2000, generator)
    for shift in (down, right):
        assert shift.unique().tolist() == [-2, -1, 0, 1, 2]  # an eighth of 16
    assert 900 < mirrored.sum() < 1100  # 4.5 sigma
    assert not batches(augment="crop")._moves(50, generator)[2].any()


def test_statistics_of_channels():
    images = some_images(30).images
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5e-5)  # 4 digits
    assert std[:2] == pytest.approx(pixels.std((0, 2, 3), correction=0)[:2].tolist(), abs=5e-5)
    assert (mean[2], std[2]) == (0.2, 1.0)
    given = batches(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25))
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.25))


def test_train_limit_keeps_the_shares():
    labels = torch.cat([torch.zeros(60), torch.ones(30), torch.full((10,), 2.0)]).long()
    labels = labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    chosen = stratified(labels, 20, seed=0)
    assert labels[chosen].bincount().tolist() == [12, 6, 2]
    assert set(stratified(labels, 10, seed=0).tolist()) < set(chosen.tolist())
    assert stratified(labels, 20, seed=1).tolist() != chosen.tolist()
    assert stratified(labels, 100, seed=0).tolist() == list(range(100))


@pytest.mark.parametrize("in_memory", [True, False])
def test_train_limit_leaves_no_class_out(tmp_path, in_memory):
    train, test = members(20) | {"fox/1.png": encoded(1)}, members(1, (*CLASSES, "fox"))
    root = write_root(tmp_path, train, test, ".tar")
    with pytest.raises(ValueError, match=r"train_limit: 6 leaves 1 of 3 classes .* 'fox'; must be"):
        load(root, train_limit=6, in_memory=in_memory)
    assert len(load(root, train_limit=40, in_memory=in_memory).training) == 40


def test_train_limit_through_the_recipe():
    data = load(name="digits", train_limit=200, input_size=(1, 16, 16), batch_size=50)
    assert len(data.training) == 200
    assert data.steps == 4
    assert data.training.labels.bincount().min() >= 19
    assert len(data.testing) == 360


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


# ---- on the device ----------------------------------------------------------------------------


@pytest.mark.gpu
def test_batches_on_the_device_are_those_of_the_cpu(tmp_path):
    root = write_root(tmp_path, suffix="")
    for data in (batches(channels_last=True), load(root, in_memory=False, workers=1)):
        for split in (lambda device, data=data: data.train(1, device), data.test):
            for (x, y), (x2, y2) in zip(split("cpu"), split("cuda"), strict=True):
                assert (x2.device.type, y2.device.type, x2.dtype) == ("cuda", "cuda", x.dtype)
                assert x2.stride() == x.stride()
                torch.testing.assert_close(x2.cpu(), x, rtol=1e-5, atol=1e-5)  # float32
                assert torch.equal(y2.cpu(), y)
