"""Fixtures over the small networks of networks.py."""

from __future__ import annotations

import pytest
import torch

from tests.support.networks import CASES


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
