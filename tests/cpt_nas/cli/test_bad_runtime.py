"""Commands that run a network in a runtime, and what can be wrong with it: one line, exit code 2.

Nothing is written then: no file, no folder, nothing half-written.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import cpt_nas.models  # noqa: F401
import hwprofiles
from hwprofiles import cli, fresh_process, terminal
from hwprofiles.profile_file import parse
from hwprofiles.runtimes import base
from hwprofiles.runtimes.onnxruntime import OnnxRuntime
from tests.support.profiles import synthetic_profile
from tests.support.run_folders import INPUT, KWARGS, MODEL, add_export, write_run
from tests.support.shell import Shell

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

PAIRS = [f"{key}={value}" for key, value in KWARGS.items()]
NETWORK = [MODEL, *(word for pair in PAIRS for word in ("--model-kwargs", pair))]
SIZE = ["--input-size", *map(str, INPUT)]
SHORT = ["--threads", "1", "--seconds", "0", "--rounds", "10"]
SETTING = ["--runtime", "RUNTIME", "--dtype", "DTYPE"]
FINE = ["--channel-divisor", "1"]
CHECKED = ["--structures", "6", "--seconds", "0", "--allow-foreign"]
COMMANDS = {
    "measure": ["measure", *NETWORK, *SIZE, *SHORT, *SETTING, "-o", "new/p.yaml"],
    "profile": ["profile", *NETWORK, *SIZE, *SHORT, *SETTING, "-o", "new/p.yaml"],
    "validate-profile": ["validate-profile", "RUNTIME-DTYPE.yaml", *NETWORK, *CHECKED],
    "report": ["report", "run", "--profile", "RUNTIME-DTYPE.yaml", "--measure", "-o", "new/report"],
    "kit": ["kit", *NETWORK, *SIZE, *FINE, "--networks", "20", "--unseen", "6", "-o", "new/kit"],
    "demo": ["demo", "--epochs", "2", "--runtime", "RUNTIME", "-o", "new/demo"],
    "export": ["export", "run", "--format", "FORMAT", "--dtype", "DTYPE", "-o", "new/model"],
}
FORMATS = {"onnxruntime": "onnx", "onnx": "onx"}
SETTINGS = [("onnxruntime", "float32"), ("onnxruntime", "bfloat16"), ("onnx", "float32")]

Fault = Callable[[pytest.MonkeyPatch], None]


def nothing(_: pytest.MonkeyPatch) -> None:
    """The arguments are at fault."""


def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    gone = ("onnx", "onnxruntime")
    monkeypatch.setattr(
        base.importlib.util, "find_spec", lambda name: None if name in gone else real(name)
    )


def broken_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def load(name: str, package: str | None = None) -> Any:
        if name == "onnx":
            raise ImportError("libonnx.so: cannot open shared object file")
        return real(name, package)

    monkeypatch.setattr(base.importlib, "import_module", load)


def not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.onnx.export

    def export(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(module, nn.Linear) for module in model.modules()):
            raise RuntimeError("there is no such operator:\naddmm")
        return real(model, *args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", export)


def other_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxRuntime.load

    def load(self: OnnxRuntime, files: Any, setting: Any) -> Any:
        runner = real(self, files, setting)
        return lambda x: 1.5 * runner(x)

    monkeypatch.setattr(OnnxRuntime, "load", load)


FAULTS: dict[str, tuple[Fault, str, str, str]] = {
    "unknown": (nothing, "onnx", "float32", "runtime: 'onnx', allowed are eager, compiled, "),
    "missing": (not_installed, "onnxruntime", "float32", "the extra [onnx] installs it"),
    "broken": (broken_package, "onnxruntime", "float32", "imported here: libonnx.so: cannot open"),
    "layer": (not_exported, "onnxruntime", "float32", "fc (Linear): there is no such operator"),
    "precision": (
        *(nothing, "onnxruntime", "bfloat16"),
        "dtype: bfloat16, allowed in onnxruntime here: float32",
    ),
    "outputs": (other_outputs, "onnxruntime", "float32", "computes other outputs than PyTorch"),
}
OF_EXPORT = {
    "unknown": "format: 'onx', allowed are timm, onnx",
    "outputs": "outputs are not the plain model's",
}
# A kit has no runtime of its own, a demo runs in float32.
CASES = [
    (command, fault)
    for command in COMMANDS
    for fault in FAULTS
    if not (command == "kit" and fault in ("unknown", "precision", "outputs"))
    and not (command == "demo" and fault == "precision")
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and profiles of its network in several settings."""
    folder = tmp_path_factory.mktemp("runs")
    add_export(write_run(folder / "run"))
    model = timm.create_model(MODEL, **KWARGS)
    content = synthetic_profile(model, MODEL, INPUT).model_dump(mode="json", by_alias=True)
    for runtime, dtype in SETTINGS:
        content["workload"] |= {"runtime": runtime, "dtype": dtype}
        content["fingerprint"]["runtime"] |= {"name": runtime, "precision": dtype}
        hwprofiles.save(parse(content), folder / f"{runtime}-{dtype}.yaml")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "work"))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> Callable[[list[str]], tuple[int, str]]:
    """Runs a command of either package there: (exit code, standard error)."""
    monkeypatch.setattr(fresh_process, "run_fresh", lambda *_: fresh_process.Fresh())
    shell = Shell(monkeypatch, capfd)

    def call(words: list[str]) -> tuple[int, str]:
        if words[0] != "measure":
            done = shell(*words, cwd=folder)
            return done.returncode, done.stderr
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as stopped:
            terminal.run_app(cli.app, words)
        return int(stopped.value.code or 0), capfd.readouterr().err

    return call


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("command", "fault"), CASES)
def test_it_is_refused_in_one_line_and_nothing_is_written(
    run: Callable[[list[str]], tuple[int, str]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    fault: str,
) -> None:
    happens, runtime, dtype, message = FAULTS[fault]
    filled = {"RUNTIME": runtime, "DTYPE": dtype, "FORMAT": FORMATS[runtime]}
    words = COMMANDS[command]
    for key, value in filled.items():
        words = [word.replace(key, value) for word in words]
    before = contents(folder)
    with monkeypatch.context() as patch:
        happens(patch)
        code, said = run(words)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1, said
    assert "Traceback" not in said and len(lines[0]) <= 300
    assert (OF_EXPORT.get(fault, message) if command == "export" else message) in lines[0]
    assert contents(folder) == before


def test_a_kit_that_is_refused_leaves_the_one_before(
    run: Callable[[list[str]], tuple[int, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [*COMMANDS["kit"][:-6], "--networks", "20", "--unseen", "6", "-o", "kit"]
    code, said = run(few)
    assert code == 0, said
    before = contents(folder)
    with monkeypatch.context() as patch:
        not_exported(patch)
        code, said = run([*few, "--seed", "7"])
    assert code == 2 and "fc (Linear)" in said
    assert contents(folder) == before
