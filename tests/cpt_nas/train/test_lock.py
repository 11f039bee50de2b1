"""One process at a time writes a run folder, and the processes of one training end together."""

from __future__ import annotations

import os
import signal
import socket
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from cpt_nas.train.lock import LOCK, held
from cpt_nas.train.opening import opened
from cpt_nas.train.processes import joined
from cpt_nas.train.train import train
from tests.support.trainings import QUIET, everything, recipe

SHORT = recipe(data={"train_limit": 64}, train={"epochs": 1})
FORK = get_context("fork")


def holding(folder: Path, started: Any, end: Any) -> None:
    """Hold a folder; a child of this process, which forks as a data loader's does, outlives it."""
    with held(folder):
        child = FORK.Process(target=time.sleep, args=(20,))
        child.start()
        started.put(child.pid)
        end.wait()


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    folder, started, end = tmp_path / "run", FORK.SimpleQueue(), FORK.Event()
    process = FORK.Process(target=holding, args=(folder, started, end))
    process.start()
    child = started.get()
    try:
        for resume in (False, True):
            with pytest.raises(ValueError, match=rf"is being written by process {process.pid} on"):
                train(SHORT, folder, resume=resume, console=QUIET)
        assert [p.name for p in folder.iterdir()] == [LOCK]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (folder / LOCK).exists()
        train(SHORT, folder, console=QUIET)
    finally:
        os.kill(child, signal.SIGKILL)
    assert not (folder / LOCK).exists()


def test_a_folder_goes_again_if_nothing_came_into_it(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_only_the_first_of_several_processes_looks_at_the_folder(tmp_path: Path) -> None:
    """A late one finds its own run in it."""
    (tmp_path / "recipe.yaml").write_text("")
    with opened(tmp_path, SHORT, resume=False, rank=1):
        pass
    with pytest.raises(ValueError, match="is not empty"), opened(tmp_path, SHORT, resume=False):
        pass
    assert (tmp_path / "recipe.yaml").read_text() == ""


def _rank(rank: int, port: int, folder: Path, dies: bool, said: Any) -> None:
    """One of two processes; the second is late, and the first may die in its second epoch."""
    names = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    from cpt_nas.train import checkpoint
    from cpt_nas.train import train as training

    load, save = training.load_data, checkpoint.save_checkpoint

    def late(*arguments: Any, **settings: Any) -> Any:
        time.sleep(rank)
        return load(*arguments, **settings)

    def dying(*arguments: Any) -> None:
        save(*arguments)
        if dies:
            os._exit(9)

    training.load_data, checkpoint.save_checkpoint = late, dying
    try:
        result = train(SHORT, folder, console=QUIET)
    except BaseException as error:
        said.put(f"{type(error).__name__}: {error}")
        os._exit(2)
    said.put(result)
    os._exit(0)


@pytest.mark.parametrize("dies", [False, True])
def test_the_processes_of_a_training_end_together(tmp_path: Path, dies: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = FORK.SimpleQueue()
    ranks = [
        FORK.Process(target=_rank, args=(rank, port, tmp_path / "run", dies, said))
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    if dies:
        assert [process.exitcode for process in ranks] == [9, 2]
        assert said.get().startswith("ConnectionError: train: another process of this training has")
        return
    assert [process.exitcode for process in ranks] == [0, 0]
    assert {said.get().get("status"), said.get().get("status")} == {"finished", None}
    assert "export/config.json" in everything(tmp_path / "run")


@pytest.mark.parametrize("text", ["mine", "CUDA error: out of memory"])
def test_other_errors_are_not_taken_for_a_lost_process(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match=text), joined():
        raise RuntimeError(text)
