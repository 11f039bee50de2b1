"""The target of a training: its runtime is compared with the profile's, and said everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import timm

import cpt_nas.models
import hwprofiles
from hwprofiles.profile_file import parse
from tests.support.profiles import synthetic_profile
from tests.support.shell import Shell

RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [8, 8, 8]}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
"""
TRAIN = ["train", "--recipe", "recipe.yaml", "--allow-foreign", "-o", "run"]


@pytest.fixture
def cpt_nas(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capfd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe for a network in ONNX Runtime, and profiles of two runtimes."""
    kwargs = {"layers": [1, 1, 1], "channels": [8, 8, 8]}
    model = timm.create_model("cpt_resnet20", **kwargs, num_classes=10, in_chans=1)
    content = synthetic_profile(model, "made_up", (1, 8, 8)).model_dump(mode="json", by_alias=True)
    for runtime in ("eager", "onnxruntime"):
        content["workload"]["runtime"] = content["fingerprint"]["runtime"]["name"] = runtime
        hwprofiles.save(parse(content), tmp_path / f"{runtime}.yaml")
    search = "search: {latency_budget: 0.6, target: {runtime: onnxruntime}}\n"
    (tmp_path / "recipe.yaml").write_text(RECIPE + search)
    return tmp_path


@pytest.mark.parametrize(
    ("profile", "budget", "message"),
    [
        (
            ["--profile", "eager.yaml"],
            [],
            "profile made_up is not of the stated target: workload.runtime: profile has eager, "
            "the target is onnxruntime. Measure one in that setting",
        ),
        (
            [],
            ["--params-budget", "0.5"],
            "search.target: {'runtime': 'onnxruntime'}, but there is no profile that could be of "
            "that setting; give one (search.profile, --profile), or leave the target out",
        ),
    ],
    ids=["other", "none"],
)
def test_a_runtime_that_is_not_the_profiles_is_refused(
    cpt_nas: Shell, folder: Path, profile: list[str], budget: list[str], message: str
) -> None:
    given = [word for word in TRAIN if profile or word != "--allow-foreign"]
    done = cpt_nas(*given, *profile, *budget, cwd=folder)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert not (folder / "run").exists()


def test_the_runtime_is_named_in_the_first_line_the_result_and_the_report(
    cpt_nas: Shell, folder: Path
) -> None:
    done = cpt_nas(*TRAIN, "--profile", "onnxruntime.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    setting = "onnxruntime, cpu, 1 thread, batch 1, float32"
    assert done.stderr.startswith(f"profile made_up: {setting}; ")
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["profile"] == "made_up"
    assert result["target"] == {
        **{"runtime": "onnxruntime", "device": "cpu", "threads": 1},
        **{"batch_size": 1, "dtype": "float32", "channels_last": False},
    }
    assert cpt_nas("report", "run", "-o", "report", cwd=folder).returncode == 0
    for table in ("runs.csv", "latency.csv"):
        assert pd.read_csv(folder / "report" / table)["runtime"].tolist() == ["onnxruntime"]
    page = (folder / "report" / "report.html").read_text()
    assert "<th>runtime</th>" in page and f"made_up: {setting}." in page


def test_a_run_that_goes_on_is_of_the_stated_target(cpt_nas: Shell, folder: Path) -> None:
    """Its own copy of the profile is taken without a question about the machine alone."""
    assert cpt_nas(*TRAIN, "--profile", "onnxruntime.yaml", cwd=folder).returncode == 0
    run = folder / "run"
    for path in run.glob("*.pth.tar"):
        path.unlink()  # stopped before its first checkpoint
    for name in ("history.csv", "layers.csv"):
        (run / name).unlink()
    for path in (run / "export").iterdir():
        path.unlink()
    (run / "export").rmdir()
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("runtime: onnxruntime", "runtime: openvino"))
    done = cpt_nas("train", "--resume", "run", cwd=folder)
    assert done.returncode == 2
    assert "workload.runtime: profile has onnxruntime, the target is openvino" in done.stderr
