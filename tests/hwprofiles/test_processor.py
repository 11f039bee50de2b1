"""Processors and quotas as made-up system files tell them."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hwprofiles import contention, processor
from hwprofiles.contention import ContentionMeter
from hwprofiles.device import differences, fixed_threads
from tests.support.profiles import eager_fingerprint


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any system file; four cores."""

    def inside(path: Path) -> Path:
        return tmp_path / str(path).lstrip("/")

    monkeypatch.setattr(processor, "CPUINFO", inside(processor.CPUINFO))
    monkeypatch.setattr(processor, "GROUP", inside(processor.GROUP))
    for name in ("BOARDS", "UNIFIED", "LEGACY"):
        monkeypatch.setattr(processor, name, tuple(map(inside, getattr(processor, name))))
    hybrid = {name: inside(path) for name, path in processor.HYBRID.items()}
    monkeypatch.setattr(processor, "HYBRID", hybrid)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def cores(*kinds: str) -> str:
    return "\n".join(f"processor\t: {i}\nBogoMIPS\t: 108.00\n{k}\n" for i, k in enumerate(kinds))


def arm(part: str, revision: int = 3, variant: int = 0, implementer: str = "0x41") -> str:
    return (
        f"Features\t: fp asimd crc32 cpuid\nCPU implementer\t: {implementer}\nCPU architecture: 8\n"
        f"CPU variant\t: {variant:#x}\nCPU part\t: {part}\nCPU revision\t: {revision}\n"
    )


def x86(name: str, family: int = 6, model: int = 85) -> str:
    return f"cpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\nflags\t\t: fpu vme\n"


def armv7(part: str) -> str:
    return f"model name\t: ARMv7 Processor rev 4 (v7l)\n{arm(part)}"


def riscv(architecture: str) -> str:
    return f"hart\t: 1\nmvendorid\t: 0x489\nmarchid\t: {architecture}\nmimpid\t: 0x1\n"


MACHINES = {
    "Pi 4": (cores(*[arm("0xd08")] * 4), ""),
    "Pi 5": (cores(*[arm("0xd0b")] * 4), ""),
    "newer revision": (cores(*[arm("0xd08", revision=4)] * 4), ""),
    "newer variant": (cores(*[arm("0xd08", variant=1)] * 4), ""),
    "other maker": (cores(*[arm("0xd08", implementer="0x51")] * 4), ""),
    "other board": (cores(*[arm("0xd08")] * 4), "Rockchip RK3399 Board\0"),
    "another board": (cores(*[arm("0xd08")] * 4), "Raspberry Pi Compute Module 4\0"),
    "big.LITTLE": (cores(*[arm("0xd03")] * 2, *[arm("0xd09")] * 2), ""),
    "big.LITTLE, one big": (cores(*[arm("0xd03")] * 3, arm("0xd09")), ""),
    "ARMv7, A7": (cores(armv7("0xc07")), ""),
    "ARMv7, A15": (cores(armv7("0xc0f")), ""),
    "old kernel": (f"Processor\t: ARMv7\n\n{cores('', '')}\n{arm('0xc08')}", ""),
    "old kernel, A9": (f"Processor\t: ARMv7\n\n{cores('', '')}\n{arm('0xc09')}", ""),
    "Xeon": (cores(*[x86("Intel Xeon Processor")] * 2), ""),
    "Xeon of another family": (cores(*[x86("Intel Xeon Processor", model=106)] * 2), ""),
    "RISC-V": (cores(riscv("0x8000000000000007")), ""),
    "RISC-V, other": (cores(riscv("0x1")), ""),
}


def test_every_machine_has_a_fingerprint_of_its_own(root: Path) -> None:
    found = {}
    for label, (info, board) in MACHINES.items():
        write(root, "proc/cpuinfo", info)
        write(root, "proc/device-tree/model", board)
        found[label] = eager_fingerprint()
        assert eager_fingerprint() == found[label]
    assert len({f.id for f in found.values()}) == len(MACHINES)
    assert len({f.device.name for f in found.values()}) == len(MACHINES)
    for a, b in zip(list(found.values())[:-1], list(found.values())[1:], strict=True):
        assert "host.cpu" in [d.field for d in differences(a, b)]


def test_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, "proc/cpuinfo", MACHINES["big.LITTLE"][0])
    write(root, "proc/device-tree/model", "Board X\0")
    a53, a73 = (f"implementer 0x41 part {p} variant 0x0 revision 3" for p in ("0xd03", "0xd09"))
    assert processor.processor_name() == f"Board X, 2 x {a53}, 2 x {a73}"
    # The same number of cores, but the slow ones only.
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda pid: {0, 1})
    slow = eager_fingerprint()
    assert slow.device.name == f"Board X, {a53}"
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda pid: {2, 3})
    assert [d.field for d in differences(slow, eager_fingerprint())] == ["device.name"]
    write(root, "proc/cpuinfo", cores(*[x86("Core i9")] * 4))
    write(root, "proc/device-tree/model", "")
    assert processor.processor_name() == "Core i9 family 6 model 85"
    write(root, "sys/devices/cpu_core/cpus", "0-1\n")
    write(root, "sys/devices/cpu_atom/cpus", "2,3\n")
    kinds = "2 x Core i9 family 6 model 85 core, 2 x Core i9 family 6 model 85 atom"
    assert processor.processor_name() == kinds


def test_machines_without_such_a_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    assert processor.processor_name() == "s390x"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="Apple M3\n"))
    assert processor.processor_name() == "Apple M3"


QUOTAS = [
    ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    ({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
    ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
    ({"sys/fs/cgroup/cpu.max": "30000 20000\n"}, 1.5),
    ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, None),
    (
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        3.0,
    ),
    (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "-1\n",
        },
        1.0,
    ),
    (
        {
            "proc/self/cgroup": "0::/user.slice/shell\n",
            "sys/fs/cgroup/user.slice/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/user.slice/shell/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/other/cpu.max": "1000 100000\n",
        },
        1.0,  # the tightest of the folders above
    ),
    (  # a group of this name in a hierarchy that says nothing about processors
        {
            "proc/self/cgroup": "4:memory:/m\n0::/\n",
            "sys/fs/cgroup/cpu/m/cpu.cfs_quota_us": "1000\n",
            "sys/fs/cgroup/cpu/m/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
]


@pytest.mark.parametrize(("files", "quota"), QUOTAS)
def test_quotas(root: Path, files: dict[str, str], quota: float | None) -> None:
    for path, text in files.items():
        write(root, path, text)
    assert processor.cpu_quota() == quota
    assert eager_fingerprint().host.cpu_quota == quota
    usable = {None: 4, 0.5: 1, 1.0: 1, 1.5: 1, 2.0: 2, 3.0: 3}[quota]
    assert processor.usable_cores() == eager_fingerprint().device.cores == usable


def test_threads_beyond_the_quota_are_refused(root: Path) -> None:
    before = eager_fingerprint()
    write(root, "sys/fs/cgroup/cpu.max", "200000 100000")
    message = r"threads: 3, allowed are 1\.\.2 on this machine, whose CPU quota is 2 of its cores"
    with pytest.raises(ValueError, match=message), fixed_threads(3):
        pass
    threads = torch.get_num_threads()
    with fixed_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == threads
    fields = [d.field for d in differences(before, eager_fingerprint())]
    assert fields == ["device.cores", "host.cpu_quota"]


def test_half_a_core_is_contended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "STAT", root / "stat")
    assert ContentionMeter().read(1) is None
    write(root, "sys/fs/cgroup/cpu.max", "50000 100000")
    assert ContentionMeter().read(1) == 0.5
