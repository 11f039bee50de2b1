"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hwprofiles import trust


@pytest.fixture(autouse=True, scope="session")
def any_times_are_possible() -> Iterator[None]:
    """A machine that runs tests is too busy for its layers to sum to the network's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "POSSIBLE", (1e-3, 1e3))
        yield
