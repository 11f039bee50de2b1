"""Freed memory is kept: the kernel is not asked for the same pages again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from hwprofiles import allocator

# Page faults of a loop that allocates 4 MB and frees it, before and after.
FAULTS = """
import resource, torch
from hwprofiles import keep_freed_memory
torch.set_num_threads(1)
x = torch.zeros(1 << 20)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        y = x + 1
        del y
        z = torch.empty(1 << 24)  # glibc's threshold would adapt to the smaller ones alone
        z[::1024] = 0
        del z
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
assert keep_freed_memory()
faults()  # the last pages that are fetched
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is used as it is")
def test_pages_are_not_fetched_again() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    before, after = map(int, found.stdout.split())
    assert before > 50_000 and after < 500


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("was asked for"))
    allocator.keep_freed_memory.cache_clear()
    assert not allocator.keep_freed_memory()
    allocator.keep_freed_memory.cache_clear()
