"""Models and layers set up for PyTorch's eager mode."""

from __future__ import annotations

import torch

from hwprofiles.runtimes.eager import InputPool, Setting


def test_inputs_of_one_layer_do_not_overlap() -> None:
    pool = InputPool(Setting(torch.device("cpu"), torch.float32, 1, channels_last=True), 100)
    a, b = pool((1, 2, 3, 4), False), pool((1, 2, 3, 4), False)
    assert a.is_contiguous(memory_format=torch.channels_last)
    assert b.data_ptr() == a.data_ptr() + a.numel() * 4
    pool.reset()
    assert pool((5,), False).data_ptr() == a.data_ptr()
    assert pool((5,), True).eq(0).all()
