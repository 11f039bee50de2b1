"""cpt-nas profile and validate-profile for real on a tiny network; profiles that are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from matplotlib.collections import PathCollection

import cpt_nas as package
import hwprofiles
from cpt_nas.report.profile_figure import validation_figure
from hwprofiles import Profile, cli, fresh_process, terminal
from hwprofiles.fresh_process import Fresh
from hwprofiles.profile_file import parse
from tests.support.profiles import synthetic_profile
from tests.support.shell import Shell

KWARGS = {"layers": [2, 2, 2], "channels": [4, 8, 8], "num_classes": 10}
MODEL = ["cpt_resnet20", *(x for k, v in KWARGS.items() for x in ("--model-kwargs", f"{k}={v}"))]
SETTING = ["--input-size", "1", "8", "8", "--threads", "1", "--seconds", "0", "--rounds", "10"]
RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [2, 2, 2], channels: [4, 8, 8], num_classes: 10}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
search: {log_gamma: 0.1}
"""


@pytest.fixture
def cpt_nas(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    # Spares the start of another process, which takes seconds.
    monkeypatch.setattr(fresh_process, "run_fresh", lambda *_: Fresh())
    monkeypatch.setattr(terminal.console, "width", 300)
    return Shell(monkeypatch, capfd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = timm.create_model("cpt_resnet20", in_chans=1, **KWARGS)
    made = synthetic_profile(model, "cpt_resnet20", (1, 8, 8), channel_divisor=2)
    hwprofiles.save(made, tmp_path / "p.yaml")
    return tmp_path / "p.yaml"


def elsewhere(file: Path) -> Profile:
    content = hwprofiles.load(file).model_dump(mode="json", by_alias=True)
    content["fingerprint"]["device"]["name"] = "abacus"
    hwprofiles.save(parse(content), file)
    return hwprofiles.load(file)


def test_profile_measures_calibrates_and_validates(cpt_nas: Shell, tmp_path: Path) -> None:
    done = cpt_nas(
        "profile", *MODEL, *SETTING, "--structures", "9", "-o", "new/p.yaml", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"p.yaml", "p-cpt_resnet20.png"}
    assert (tmp_path / "new" / "p-cpt_resnet20.png").read_bytes().startswith(b"\x89PNG")
    made = hwprofiles.load(tmp_path / "new" / "p.yaml")
    c, (v,) = made.calibration, made.validation
    assert c.n % 40 == 1 and c.n == len(set(c.networks)) and c.seed == 0
    assert c.left_out_error is not None
    off = v.unaligned.n if v.unaligned else 0
    assert v.aligned.n + off == 9 and len(v.networks) == 10 and v.model == "cpt_resnet20"
    assert off == (0 if made.channel_divisor == 1 else 3)
    sizes = {(n.macs, n.params, n.layers) for n in v.networks}
    assert len(sizes) == 10
    for part in ("unseen networks: MAPE", "noise floor", "calibration", "wrote new/p.yaml"):
        assert part in done.stdout


@pytest.mark.slow
def test_validation_can_be_repeated_on_other_structures(
    cpt_nas: Shell, file: Path, tmp_path: Path
) -> None:
    options = [*MODEL[1:], "--structures", "6", "--seconds", "0"]
    seen = []
    for seed in ("1", "2"):
        done = cpt_nas(
            "validate-profile", "p.yaml", MODEL[0], *options, "--seed", seed, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        (v,) = hwprofiles.load(file).validation  # replaced, not added
        assert v.seed == int(seed) and v.unaligned is not None and v.unaligned.n == 2
        seen.append({(n.macs, n.params) for n in v.networks if n.label != "dense"})
    assert seen[0] != seen[1]
    assert {p.name for p in tmp_path.iterdir()} == {"p.yaml", "p-cpt_resnet20.png"}


def test_without_matplotlib_there_is_a_profile_and_no_image(
    cpt_nas: Shell, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a device where [train] was not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    drawing = ("matplotlib.", "cpt_nas.report.profile_figure", "cpt_nas.report.figures")
    for name in [n for n in sys.modules if n.startswith(drawing)]:
        monkeypatch.delitem(sys.modules, name)
    options = [*MODEL[1:], "--structures", "6", "--seconds", "0"]
    done = cpt_nas("validate-profile", "p.yaml", MODEL[0], *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    hint = "matplotlib is not installed; pip install 'cpt-nas[train]' brings it"
    assert f"no image: {hint}" in done.stdout
    assert hwprofiles.load(file).validation and {p.name for p in tmp_path.iterdir()} == {"p.yaml"}


MISTAKES = [
    (["profile", "inception_v3", "-o", "new.yaml"], "nothing can be gated in inception_v3"),
    (["profile", "resnet18", "-o", "new.yaml", "--structures", "3"], "allowed are 0, 6 or more"),
    (["profile", "resnet19", "-o", "new.yaml"], "'resnet19' is not in timm's registry"),
    (["profile", "resnet18", "-o", "."], "is a folder"),
    (["profile", "resnet18"], "Missing option"),
    (["profile", *MODEL, "-o", "new.yaml", "--threads", "100000"], "threads: 100000"),
    (["validate-profile", "absent.yaml", "resnet18"], "no such file: absent.yaml"),
    (["validate-profile", "p.yaml", "resnet18"], "does not hold"),
    (["validate-profile", "p.yaml", "cpt_resnet20", "--structures", "2"], "--structures"),
    (["validate-profile", "p.yaml", *MODEL, "--structures", "9000"], "ask for fewer"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    cpt_nas: Shell, file: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = file.read_bytes()
    done = cpt_nas(*arguments, cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and message in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"] and file.read_bytes() == before


def test_the_trainer_compares_the_profile_with_the_target(
    cpt_nas: Shell, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    train = ["train", "--recipe", "recipe.yaml", "--profile", "p.yaml", "-o", "run"]
    stated = ["--set", "search.target.threads=3", "--set", "search.target.batch_size=1"]
    done = cpt_nas(*train, *stated, cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "workload.threads: profile has 1, the target is 3" in done.stderr
    done = cpt_nas(*train, "--set", "search.target.threads=many", cwd=tmp_path)
    assert done.returncode == 2 and "search.target.threads" in done.stderr
    done = cpt_nas(*train, "--set", "search.target.threads=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_profile_of_elsewhere_trains_only_if_that_is_meant(
    cpt_nas: Shell, file: Path, tmp_path: Path
) -> None:
    elsewhere(file)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    train = ["train", "--recipe", "recipe.yaml", "--profile", "p.yaml", "-o", "run"]
    done = cpt_nas(*train, cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "device.name: profile has abacus, here is" in done.stderr
    assert "--allow-foreign" in done.stderr
    done = cpt_nas(*train, "--allow-foreign", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Going on is the same run with the same target: nobody is asked again.
    done = cpt_nas("train", "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for options, message in (
        (["train", "--recipe", "recipe.yaml", "--allow-foreign", "-o", "r2"], "no profile"),
        (["train", "--resume", "run", "--allow-foreign"], "takes the run's own recipe"),
        (["validate-profile", "p.yaml", *MODEL], "device.name: profile has abacus"),
    ):
        done = cpt_nas(*options, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr


def test_attach_refuses_it_too(file: Path) -> None:
    profile = elsewhere(file)
    model = timm.create_model("cpt_resnet20", in_chans=1, **KWARGS)
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"device\.name: profile has abacus"):
        package.attach(model, x, profile)
    search = package.attach(model, x, profile, allow_foreign=True)
    assert search.law.cost == "latency" and search.channel_divisor == 2


@pytest.mark.slow
def test_the_image_shows_every_network(cpt_nas: Shell, file: Path, tmp_path: Path) -> None:
    done = cpt_nas("validate-profile", "p.yaml", *MODEL, "--seconds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (v,) = hwprofiles.load(file).validation
    left, right = validation_figure(v, "a setting").axes
    for ax in (left, right):
        points = [c for c in ax.collections if isinstance(c, PathCollection)]
        assert sum(len(c.get_offsets()) for c in points) == len(v.networks)
    assert "a setting" in left.figure.get_suptitle()


def test_commands_are_registered_with_an_example(cpt_nas: Shell, tmp_path: Path) -> None:
    for command in ("profile", "validate-profile"):
        done = cpt_nas(command, "--help", cwd=tmp_path)
        assert done.returncode == 0 and f"Example: cpt-nas {command}" in done.stdout
    assert cli.app.registered_commands
