"""What two batch sizes say about all others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.batching import BATCHES, follow_batch
from hwprofiles.operations import PerExample, TensorArgument, at_batch

SIZES = st.lists(st.tuples(st.integers(0, 64), st.booleans()), max_size=5)


def shape(sizes: list[tuple[int, bool]], batch: int) -> tuple[int, ...]:
    return tuple(size * batch if follows else size for size, follows in sizes)


@given(SIZES, st.integers(1, 99))
def test_a_shape_is_right_at_every_batch(sizes: list[tuple[int, bool]], batch: int) -> None:
    seen = [TensorArgument(shape(sizes, b), None) for b in BATCHES]
    assert follow_batch(*seen).at(None, batch) == shape(sizes, batch)


@given(SIZES, st.integers(1, 99))
def test_so_are_numbers_in_nested_arguments(sizes: list[tuple[int, bool]], batch: int) -> None:
    def arguments(b: int) -> Any:
        return ({"size": list(shape(sizes, b))}, slice(0, b), 0.5, True)

    named, cut, *rest = follow_batch(*(arguments(b) for b in BATCHES))
    assert [at_batch(size, batch) for size in named["size"]] == list(shape(sizes, batch))
    assert cut == slice(0, PerExample(1)) and rest == [0.5, True]


@pytest.mark.parametrize("size", [lambda b: b + 1, lambda b: b * b, lambda b: 6 - b])
def test_a_size_out_of_proportion_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="sizes"):
        follow_batch(*(TensorArgument((size(b), 4), None, torch.int64) for b in BATCHES))


def test_arguments_nested_in_another_way_are_refused() -> None:
    with pytest.raises(ValueError, match="number of items"):
        follow_batch(([1, 2],), ([1, 2, 3],))
    with pytest.raises(ValueError, match="keys"):
        follow_batch({"a": 1}, {"b": 1})
