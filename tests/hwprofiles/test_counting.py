"""Multiply-adds: fvcore's, and attention; nothing is counted as zero without a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwprofiles import trace
from tests.support.hwprofiles_counts import attention_total, fvcore_total

WIDTH, TOKENS = 32, 50


class Attending(nn.Module):
    """nn.MultiheadAttention on [B, tokens, width], with or without the batch first."""

    def __init__(self, batch_first: bool, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.attention.batch_first else x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class Calling(nn.Module):
    def __init__(self, function: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__()
        self.function, self.kwargs = function, kwargs

    def forward(self, x: Tensor) -> Any:
        return self.function(x, **self.kwargs)


def total(model: nn.Module, x: Tensor) -> float:
    return sum(s.macs for s in trace(model, x))


@pytest.mark.parametrize("need_weights", (False, True))
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("batch", (1, 2, 8))
def test_torchs_attention_module(batch_first: bool, need_weights: bool, batch: int) -> None:
    linear = 4 * TOKENS * WIDTH**2
    products = 2 * TOKENS**2 * WIDTH
    model = Attending(batch_first, need_weights)
    assert total(model, torch.rand(batch, TOKENS, WIDTH)) == linear + products


def test_torchs_encoder_layer() -> None:
    """In eval mode torch runs it as one fast call, which hides everything."""
    model = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
    x = torch.rand(3, TOKENS, WIDTH)
    weights = TOKENS * (4 * WIDTH**2 + 2 * 64 * WIDTH)
    norms = total(nn.LayerNorm(WIDTH), x) * 2
    assert total(model, x) == weights + 2 * TOKENS**2 * WIDTH + norms


@pytest.mark.parametrize(
    "kwargs", ({}, {"attn_mask": torch.ones(9, 7).bool()}, {"is_causal": True})
)
def test_fused_attention_is_two_products(kwargs: dict[str, Any]) -> None:
    """Heads x queries x keys x (width of the keys + width of the values)."""

    def attend(x: Tensor) -> Tensor:
        q, k, v = x.split((9, 7, 7), dim=2)
        return F.scaled_dot_product_attention(q, k, v[..., :4], **kwargs)

    specs = trace(Calling(attend), torch.rand(2, 3, 23, 5))
    (spec,) = (s for s in specs if s.macs)
    assert spec.macs == 3 * 9 * 7 * (5 + 4)
    assert spec.scalable and spec.in_channels == 3  # the heads
    assert spec.macs_coefficients.per_in == 9 * 7 * (5 + 4)


def test_no_global_flag_changes_the_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, 3, 32, 32)
    counts = []
    for fused in (True, False):
        monkeypatch.setattr(vision_transformer, "use_fused_attn", lambda fused=fused: fused)
        monkeypatch.setattr("timm.layers.attention.use_fused_attn", lambda fused=fused: fused)
        model = timm.create_model("test_vit", img_size=32)
        assert model.blocks[0].attn.fused_attn is fused
        counts.append(total(model, x))
    assert counts[0] == counts[1]
    sequence = torch.rand(1, TOKENS, WIDTH)
    for fast in (True, False):
        torch.backends.mha.set_fastpath_enabled(fast)
        try:
            counts.append(total(Attending(True, False), sequence))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert counts[2] == counts[3]


def test_inference_mode_changes_nothing() -> None:
    model, x = Attending(True, False), torch.rand(2, TOKENS, WIDTH)
    plain = trace(model, x)
    with torch.inference_mode():
        assert trace(model, x) == plain


def test_the_default_device_and_dtype_change_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True)), torch.rand(2, 6, 8)
    plain = trace(model, x)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        assert trace(model, x) == plain
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize("name", ("test_vit", "vit_tiny_patch16_224"))
def test_fvcore_and_attention_and_torchs_counter(name: str) -> None:
    model, x = timm.create_model(name, img_size=64), torch.rand(1, 3, 64, 64)
    specs = trace(model, x)
    macs = sum(s.macs for s in specs)
    assert macs == fvcore_total(model, x) + attention_total(model, x)
    norms = sum(s.macs for s in specs if "norm" in s.type)
    with FlopCounterMode(display=False) as counter:
        model.eval()(x)
    assert counter.get_total_flops() == 2 * (macs - norms)


class Recurrent(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@pytest.mark.parametrize("batch", (1, 4))
@pytest.mark.parametrize(
    "rnn",
    (
        nn.LSTM(8, 16, 2, bidirectional=True, batch_first=True),
        nn.GRU(8, 16, batch_first=True),
        nn.RNN(8, 16, batch_first=True),
        nn.LSTM(8, 16, proj_size=4, batch_first=True),
    ),
    ids=("lstm", "gru", "rnn", "lstm with projection"),
)
def test_recurrent_layers_are_counted_with_a_word(rnn: nn.Module, batch: int) -> None:
    with pytest.warns(UserWarning, match=r"multiply-adds of rnn:\w+ .* as torch counts them"):
        specs = trace(Recurrent(rnn), torch.rand(batch, 5, 8))
    assert sum(s.macs for s in specs) == 5 * sum(p.numel() for p in rnn.parameters() if p.dim() > 1)
    assert sum(s.params for s in specs) == sum(p.numel() for p in rnn.parameters())


def test_a_convolution_padded_to_the_same_size_is_counted_with_a_word() -> None:
    with pytest.warns(UserWarning, match="as torch counts them"):
        macs = total(nn.Conv2d(4, 6, 3, padding="same"), torch.rand(2, 4, 8, 8))
    assert macs == 6 * 4 * 9 * 64


@pytest.mark.parametrize(
    "function", (torch.fft.rfft2, lambda x: torch.cdist(x, x)), ids=("fft", "cdist")
)
def test_work_that_nobody_counts_is_named(function: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="not counted"):
        assert total(Calling(function), torch.rand(2, 6, 8)) == 0


@pytest.mark.filterwarnings("ignore:multiply-adds of")
@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: x @ torch.ones(8), 48),
        (lambda x: torch.ones(6) @ x, 48),
        (lambda x: torch.tensordot(x, torch.ones(8, 5), dims=1), 240),
        (lambda x: torch.baddbmm(torch.ones(1), x, x.transpose(1, 2)), 6 * 8 * 6),
        (lambda x: torch.einsum("bic,bjc->bij", x, x), 6 * 8 * 6),
    ],
    ids=("by a vector", "vector by", "tensordot", "baddbmm", "einsum"),
)
def test_products_of_every_kind(function: Callable[..., Any], macs: int) -> None:
    assert total(Calling(function), torch.rand(4, 6, 8)) == macs


@pytest.mark.filterwarnings("error")
def test_what_multiplies_nothing_needs_no_word() -> None:
    model = nn.Sequential(nn.Softmax(-1), nn.GELU(), nn.Hardswish(), nn.MaxPool2d(2))
    assert total(model, torch.rand(2, 3, 8, 8)) == 0
