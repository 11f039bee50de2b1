"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from hwprofiles import trust


@pytest.fixture(autouse=True, scope="session")
def any_times_are_possible() -> Iterator[None]:
    """A machine that runs tests is too busy for its layers to sum to the network's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "POSSIBLE", (1e-3, 1e3))
        yield


@pytest.fixture(autouse=True, scope="session")
def interrupts_are_seen() -> Iterator[None]:
    """A shell starts what runs in the background with its interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
