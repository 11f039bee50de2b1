"""Batches in memory: order, augmentation, statistics, and which images a limit leaves."""

import pytest
import torch

from cpt_nas.data.batches import channel_statistics, stratified
from cpt_nas.data.images import Images
from cpt_nas.data.in_memory import MemoryBatches, shift_and_flip
from tests.support.image_files import (
    CLASSES,
    SIZE,
    encoded,
    load,
    members,
    write_root,
)


def some_images(n=20, classes=2, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *size), generator=generator).to(torch.uint8)
    names = tuple("abcdefghij"[:classes])
    return Images(images, torch.arange(n) % classes, names)


def batches(n=20, batch_size=4, **kwargs):
    return MemoryBatches(some_images(n), some_images(7), batch_size=batch_size, **kwargs)


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
