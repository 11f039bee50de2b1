"""Ctrl-C, SIGTERM, and a disk that is full: the last good state stays, and a line says what is."""

from __future__ import annotations

import errno
import os
import resource
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from cpt_nas.train import checkpoint, run_folder
from cpt_nas.train.train import train
from hwprofiles.messages import one_line
from tests.support.shell import Shell
from tests.support.trainings import QUIET, everything, recipe

SHORT = recipe(data={"train_limit": 64}, train={"epochs": 2})


@pytest.fixture
def cpt_nas(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capfd)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(SHORT, folder, console=QUIET)
    return everything(folder)


@pytest.mark.parametrize(
    ("sent", "code", "function"),
    [(signal.SIGINT, 130, "save_last"), (signal.SIGTERM, 143, "write_rest")],
)
def test_a_signal_leaves_with_a_line_and_its_code(
    cpt_nas: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: dict,
    sent: signal.Signals,
    code: int,
    function: str,
) -> None:
    """Before the first checkpoint, and between it and what follows from it."""
    called = getattr(checkpoint, function)

    def stopped(*arguments: Any) -> None:
        signal.raise_signal(sent)
        called(*arguments)

    (tmp_path / "recipe.yaml").write_text(SHORT.to_yaml())
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, function, stopped)
        done = cpt_nas("train", "--recipe", "recipe.yaml", "-o", "a run", cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == "stopped; to go on: cpt-nas train --resume 'a run'"
    assert "Traceback" not in done.stderr
    assert signal.getsignal(signal.SIGTERM) is before
    done = cpt_nas("train", "--resume", "a run", cwd=tmp_path)
    assert done.returncode == 0 and "accuracy" in done.stdout
    assert everything(tmp_path / "a run") == whole


@pytest.mark.parametrize("name", ["load_data", "build_training"])
def test_stopped_while_it_is_set_up(
    cpt_nas: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict, name: str
) -> None:
    """Loading images may take minutes; the run is there by then."""
    from cpt_nas.train import train as training

    (tmp_path / "recipe.yaml").write_text(SHORT.to_yaml())
    with monkeypatch.context() as patch:
        patch.setattr(training, name, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        done = cpt_nas("train", "--recipe", "recipe.yaml", "-o", "run", cwd=tmp_path)
    line = "stopped; to go on: cpt-nas train --resume run\n"
    assert (done.returncode, done.stderr) == (143, line)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    done = cpt_nas("train", "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert everything(tmp_path / "run") == whole


def full_after(n: int, patch: pytest.MonkeyPatch) -> None:
    """The disk is full at the n-th file that is written."""
    sync, done = os.fsync, []

    def full(handle: int) -> None:
        done.append(handle)
        if len(done) >= n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    patch.setattr(os, "fsync", full)


@pytest.mark.parametrize("n", [1, 5, 7, 14])
def test_a_full_disk_is_named_and_the_run_goes_on(tmp_path: Path, whole: dict, n: int) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError) as caught:
        full_after(n, patch)
        train(SHORT, folder, console=QUIET)
    assert one_line(caught.value).startswith(f"{folder}/")
    assert one_line(caught.value).endswith(": No space left on device")
    assert not list(folder.glob("*.tmp"))
    assert folder.exists() == (n > 5)  # with the first checkpoint
    train(SHORT, folder, resume=folder.exists(), console=QUIET)
    assert everything(folder) == whole


def test_a_disk_that_is_full_at_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict
) -> None:
    """A real limit, on the size of a file: safetensors tells of it in words of its own."""
    folder = tmp_path / "run"
    process = get_context("fork").Process(target=_small_files, args=(folder,))
    process.start()
    process.join()
    message = (tmp_path / "message").read_text()
    assert message == f"{folder}/.export.tmp/export: File too large"
    assert process.exitcode == 0
    assert not (folder / "export").exists() and not (folder / ".export.tmp").exists()
    assert not run_folder.load_run(folder).finished
    train(SHORT, folder, resume=True, console=QUIET)
    assert everything(folder) == whole


def _small_files(folder: Path) -> None:
    from cpt_nas.train import results

    export = results.export

    def limited(*arguments: Any, **settings: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            export(*arguments, **settings)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    results.export = limited
    try:
        train(SHORT, folder, console=QUIET)
    except OSError as error:
        (folder.parent / "message").write_text(one_line(error))
        os._exit(0)
    os._exit(1)


def test_a_folder_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpt_nas.train import train as training

    monkeypatch.setattr(training, "load_data", lambda *a, **k: pytest.fail("it has begun"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError) as caught:
        train(SHORT, tmp_path / "file" / "run", console=QUIET)
    assert one_line(caught.value) == f"{tmp_path}/file/run: Not a directory"
