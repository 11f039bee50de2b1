"""No command writes over what it has not written itself: whatever the folder, all of it stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cpt_nas.report.profile_figure import is_figure, save_figure
from hwprofiles import save
from tests.support.run_folders import add_export, synthetic_profile, write_run
from tests.support.shell import Shell

RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [8, 8, 8]}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
"""
COMMANDS = {
    "train": ["train", "--recipe", "recipe.yaml", "-o"],
    "retrain": ["retrain", "run", "-o"],
    "export": ["export", "run", "--no-timing", "-o"],
    "export_file": ["export", "run", "--format", "torchscript", "--no-timing", "-o"],
    "report": ["report", "run", "-o"],
    "demo": ["demo", "--epochs", "2", "-o"],
}
TO_A_FILE = {
    "profile": ["profile", "cpt_resnet20", "-o"],
}
FOLDERS = ("run", "other", "run/export", "other/export", "notes", "model", "hidden", "a_report")


@pytest.fixture
def cpt_nas(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capfd)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of which one once had a report in it, and folders of other kinds."""
    folder = tmp_path_factory.mktemp("outputs")
    for name in ("run", "other"):
        run = add_export(write_run(folder / name))
        save(synthetic_profile("home", 1e-6), run / "profile.yaml")
        (run / "report.html").write_text(
            '<meta name="cpt-nas-report-files" content="[&quot;a&quot;]">'
        )
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "notes").mkdir()
    (folder / "notes" / "history.csv").write_text("mine")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "hidden").mkdir()
    (folder / "hidden" / ".git").write_text("mine")
    (folder / "a_report").mkdir()
    (folder / "a_report" / "report.html").write_text("<title>my own report</title>")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "work")


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("target", FOLDERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_another_kind_is_refused_and_stays(
    cpt_nas: Shell, folder: Path, command: str, target: str
) -> None:
    before = contents(folder)
    done = cpt_nas(*COMMANDS[command], target, cwd=folder)
    assert contents(folder) == before
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: output: {target} ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "target", ["recipe.yaml", "run/export/model.safetensors", "run", "run/profile.yaml"]
)
@pytest.mark.parametrize("command", COMMANDS | TO_A_FILE)
def test_a_file_of_another_kind_is_refused_and_stays(
    cpt_nas: Shell, folder: Path, command: str, target: str
) -> None:
    before = contents(folder)
    done = cpt_nas(*(COMMANDS | TO_A_FILE)[command], target, cwd=folder)
    assert contents(folder) == before
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: output: {target} ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["profile", "cpt_resnet20", "-o", "mine.yaml"],
        ["validate-profile", "mine.yaml", "cpt_resnet20", "--allow-foreign"],
    ],
)
def test_an_image_beside_a_profile_that_is_not_its_own_stays(
    cpt_nas: Shell, folder: Path, command: list[str]
) -> None:
    """Before anything is measured."""
    save(synthetic_profile("mine", 1e-6), folder / "mine.yaml")
    (folder / "mine-cpt_resnet20.png").write_bytes(b"a photograph")
    before = contents(folder)
    done = cpt_nas(*command, cwd=folder)
    assert contents(folder) == before
    assert done.returncode == 2
    assert "mine-cpt_resnet20.png exists and is not a profile's image" in done.stderr


def test_a_profiles_image_is_known_again(tmp_path: Path) -> None:
    save_figure(Figure(), tmp_path / "ours.png")
    Figure().savefig(tmp_path / "other.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "ours.png").read_bytes()[:-200])
    assert is_figure(tmp_path / "ours.png")
    assert not is_figure(tmp_path / "other.png") and not is_figure(tmp_path / "cut.png")


@pytest.mark.parametrize("command", ["report", "export", "export_file"])
def test_its_own_folder_is_written_again(cpt_nas: Shell, folder: Path, command: str) -> None:
    (folder / "empty").mkdir()
    for target in ("empty", "new/er", "empty"):
        done = cpt_nas(*COMMANDS[command], target, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert not list((folder / target).glob(".*"))
        (folder / target / "notes").write_text("mine")
    assert (folder / "empty" / "notes").read_text() == "mine"
