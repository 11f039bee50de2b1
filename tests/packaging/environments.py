"""The distribution, built from a copy of the checkout, and fresh environments to install it in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".*", "build", "dist", "_build", "*.egg-info", "__pycache__", "demo", "runs", "output")


@dataclass(frozen=True)
class Built:
    """Both archives of one build."""

    sdist: Path
    wheel: Path


def build(folder: Path) -> Built:
    """The sdist of the checkout, and the wheel of that sdist; nothing is downloaded for it."""
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    dist = folder / "dist"
    run([sys.executable, "-m", "build", "--no-isolation", f"--outdir={dist}", source], cwd=folder)
    (sdist,), (wheel,) = (list(dist.glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    return Built(sdist, wheel)


def run(command: Sequence[str | Path], cwd: Path, limit: float = 600) -> str:
    """What the command prints; where it fails, the test fails with all of that."""
    # One thread: a neighbour's load may not turn a short training into a long one.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    said = f"{' '.join(map(str, command))} -> {done.returncode}\n{done.stdout}"
    assert done.returncode == 0, said
    return done.stdout


class Environment:
    """A fresh virtual environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run([sys.executable, "-m", "venv", "--without-pip", folder], cwd=folder.parent)
        self.packages = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))"))

    def python(self, code: str, cwd: Path | None = None) -> str:
        return self.call("python", "-c", code, cwd=cwd).strip()

    def call(self, program: str, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a program of this environment."""
        return run([self.folder / "bin" / program, *arguments], cwd=cwd or self.folder)

    def install(self, *arguments: str | Path, limit: float = 600) -> None:
        self._pip("install", "--quiet", *arguments, limit=limit)

    def check(self) -> None:
        """Every installed distribution's requirements are met."""
        self._pip("check", limit=60)

    def _pip(self, *arguments: str | Path, limit: float) -> None:
        """pip of the running environment: the fresh one has none of its own."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python")]
        run([*pip, *arguments], cwd=self.folder, limit=limit)

    def borrow(self) -> None:
        """Let it import what the running environment has installed.

        A line in a .pth adds that folder, but not what its own .pth files add: an editable
        install's checkout stays out of sight.
        """
        (self.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def quick_start(environment: Environment, folder: Path) -> None:
    """The first steps of a user, in an empty folder: train, export, load by timm."""
    commands = (
        "hwprofiles --version",
        "cpt-nas --version",
        "python -m hwprofiles --version",
        "python -m cpt_nas --version",
        "cpt-nas train --recipe digits --set train.epochs=2 -o run",
        "cpt-nas export run -o model",
    )
    version = environment.python("import hwprofiles._version as v; print(v.__version__)", folder)
    for command in commands:
        said = environment.call(*command.split(), cwd=folder)
        if "--version" in command:
            assert version in said, f"{command}: {said}"
    dense, cut = environment.python(LOAD, folder).splitlines()[-1].split()
    assert 0 < int(cut) < int(dense)


LOAD = """
import timm, torch
import cpt_nas

def size(model):
    return sum(p.numel() for p in model.parameters())

model = timm.create_model("local-dir:model", pretrained=True).eval()
assert model(torch.rand(2, 1, 16, 16)).shape == (2, 10)
print(size(timm.create_model("cpt_resnet20", in_chans=1, num_classes=10)), size(model))
"""
