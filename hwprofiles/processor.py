"""The processor: which kinds of cores it has, and how many this process may keep busy.

Two processors that time a network differently must not have one name. x86 has a model name, which
virtual machines shorten to a family's, so family and model are told, too. ARM has none: its cores
are told by implementer, part and revision, and the board by the device tree. Where cores of several
kinds are mixed, each kind is counted.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import Counter
from pathlib import Path, PurePosixPath

CPUINFO = Path("/proc/cpuinfo")
# What tells a core from another in /proc/cpuinfo, and what stands before it in the name.
FIELDS = {
    "model name": "",
    "Model Name": "",  # LoongArch
    "cpu": "",  # POWER
    "cpu model": "",  # MIPS
    "cpu family": "family ",
    "model": "model ",
    "CPU implementer": "implementer ",
    "CPU part": "part ",
    "CPU variant": "variant ",
    "CPU revision": "revision ",
    "uarch": "",  # RISC-V, with all below
    "mvendorid": "vendor ",
    "marchid": "architecture ",
    "mimpid": "implementation ",
}
BOARDS = (Path("/proc/device-tree/model"), Path("/sys/firmware/devicetree/base/model"))
# x86 with fast and slow cores gives both one name; the kernel lists them here.
HYBRID = {name: Path(f"/sys/devices/cpu_{name}/cpus") for name in ("core", "atom", "lowpower")}
GROUP = Path("/proc/self/cgroup")
# Where control groups are mounted: version 2, and the processor's of version 1.
UNIFIED = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
LEGACY = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"))


def processor_name(cores: set[int] | None = None) -> str:
    """The board, if known, and the kinds of cores: '4 x implementer 0x41 part 0xd03, 2 x ...'.

    Args:
        cores: of these; None: of all.
    """
    kinds = _kinds()
    chosen = [kind for core, kind in kinds.items() if cores is None or core in cores]
    counts = Counter(chosen or kinds.values())
    if not counts:
        return _name_elsewhere()
    one = len(counts) == 1
    names = [kind if one else f"{n} x {kind}" for kind, n in counts.items()]
    board = next(filter(None, map(_text, BOARDS)), "")
    return ", ".join([*filter(None, [board]), *names])


def core_numbers() -> set[int]:
    """The CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def cpu_quota() -> float | None:
    """How many cores this process's control group may keep busy on average; None: all of them.

    A container's limit is such a quota. Threads beyond it are stopped for a part of every tenth of
    a second, so their times say nothing.
    """
    own = [("", "/"), ("cpu", "/")]
    own += [(line.split(":", 2)[1], line.split(":", 2)[2]) for line in _text(GROUP).splitlines()]
    quotas = []
    for controllers, path in own:
        roots = UNIFIED if not controllers else LEGACY if "cpu" in controllers.split(",") else ()
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (root / part for root in roots for part in (inside, *inside.parents)):
            quota, period = _quota_of(folder)
            if quota > 0:
                quotas.append(quota / period)
    return min(quotas, default=None)


def usable_cores() -> int:
    """How many threads can compute at once here: what 'all threads' means; at least one."""
    cores, quota = len(core_numbers()), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _kinds() -> dict[int, str]:
    """Core -> its kind in words."""
    slow = {core: name for name, path in HYBRID.items() for core in _listed(_text(path))}
    kinds, unnumbered = {}, {}
    for block in re.split(r"\n\s*\n", _text(CPUINFO)):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {key.strip(): value.strip() for key, _, value in pairs}
        number = values.get("processor", "")
        words = [f"{before}{values[key]}" for key, before in FIELDS.items() if values.get(key)]
        if number.isdigit() and words:
            core = int(number)
            kinds[core] = " ".join([*words, *([slow[core]] if core in slow else [])])
        elif words:  # kernels before 3.8 name the cores of an ARM board once, below all of them
            unnumbered[-1] = " ".join(words)
    return kinds or unnumbered


def _name_elsewhere() -> str:
    """Where there is no /proc/cpuinfo that says it."""
    if platform.system() == "Darwin":  # platform.processor() is 'arm' for all of Apple's
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        brand = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return brand or platform.machine()
    return platform.processor() or platform.machine()


def _quota_of(folder: Path) -> tuple[float, float]:
    """(quota, period) in microseconds of a control group; quota -1: none."""
    quota, period = [*_text(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota == "max" or not quota or not period:
        return -1.0, 1.0
    return float(quota), float(period)


def _listed(text: str) -> set[int]:
    """The numbers in a list such as '0-3,8'."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _text(path: Path) -> str:
    """A system file's text; empty where there is none."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
