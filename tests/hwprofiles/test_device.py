"""Fingerprints, threads, devices."""

from __future__ import annotations

import pytest
import torch

from hwprofiles.device import COVERED, check_device, differences, fingerprint, fixed_threads
from tests.support.profiles import eager_fingerprint


def test_the_same_machine_has_the_same_fingerprint() -> None:
    a, b = eager_fingerprint(), eager_fingerprint()
    assert a == b and not differences(a, b)


def test_a_covered_key_changes_the_id_and_is_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = eager_fingerprint()
    monkeypatch.setattr(torch, "__version__", "99.0")
    after = eager_fingerprint()
    assert before.id != after.id
    (difference,) = differences(before, after)
    assert difference.field == "software.torch" and difference.here == "99.0"
    assert "software.torch" in COVERED
    assert str(difference).startswith("software.torch: profile has ")


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), fixed_threads(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_that_the_machine_has_not(threads: int) -> None:
    message = rf"threads: {threads}, allowed are 1\.\."
    with pytest.raises(ValueError, match=message), fixed_threads(threads):
        pass


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="device: 'tpu', allowed are cpu and cuda"):
        check_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        check_device("cuda")


@pytest.mark.gpu
def test_fingerprint_of_a_gpu() -> None:
    found = fingerprint("cuda", eager_fingerprint().runtime)
    assert found.device.type == "cuda" and found.device.compute_capability
    assert found.software.cuda and found.id != eager_fingerprint().id
