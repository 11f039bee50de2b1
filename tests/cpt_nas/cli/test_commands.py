"""The command line: one line for a mistake, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import hwprofiles
from cpt_nas.cli import options
from cpt_nas.cli.train import with_search
from cpt_nas.train.recipe import load_recipe
from hwprofiles._version import __version__
from hwprofiles.terminal import console
from tests.support.profiles import synthetic_profile
from tests.support.shell import Shell

UNGATED = ["--set", "model.name=inception_v3", "--set", "model.kwargs={}"]
SEARCH = ["train", "--recipe", "search.yaml"]
RECIPE = """
model: {name: cpt_resnet20, kwargs: {layers: [1, 1, 1], channels: [8, 8, 8]}}
data: {name: digits, input_size: [1, 8, 8], augment: crop, train_limit: 64}
train: {epochs: 1, batch_size: 32, threads: 1}
"""


@pytest.fixture
def cpt_nas(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capfd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "search.yaml").write_text(RECIPE + "search: {log_gamma: 0.1}\n")
    return tmp_path


def test_a_library_that_only_training_needs_is_named(
    cpt_nas: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [n for n in sys.modules if n.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    done = cpt_nas("train", "--recipe", "recipe.yaml", "-o", "run", cwd=folder)
    assert done.returncode == 2 and not (folder / "run").exists()
    hint = "pip install 'cpt-nas[train]' brings it"
    assert done.stderr == f"error: sklearn is not installed; {hint}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "absent.yaml"], "no such file: absent.yaml"),
        (["train"], "--recipe: is missing"),
        (["train", "--recipe", "recipe.yaml", "--set", "train.x=3"], "train.x: unknown key"),
        (["train", "--recipe", "recipe.yaml", "--set", "train.epochs=no"], "train.epochs"),
        (["train", "--recipe", "recipe.yaml", "--profile", "p.yaml"], "no search section"),
        (["train", "--recipe", "search.yaml", "--profile", "absent.yaml"], "absent.yaml"),
        (["train", "--recipe", "search.yaml", "--set", "search.alpha=2"], "search.alpha"),
        (["train", "--recipe", "search.yaml", "--set", "search.log_gamma=-1"], "search.log_gamma"),
        (["train", "--recipe", "search.yaml", *UNGATED], "nothing can"),
        ([*SEARCH, "--macs-budget", "0.0001"], "macs 10.52 is below"),
        ([*SEARCH, "--macs-budget", "0.0001"], "lowest possible"),
        ([*SEARCH, "--macs-budget", "1"], "within it already"),
        ([*SEARCH, "--params-budget", "0"], "params_budget: must be above 0"),
        ([*SEARCH, "--latency-budget", "12"], "unit of ns, us"),
        ([*SEARCH, "--latency-budget", "12ms"], "latency_budget: needs a profile"),
        ([*SEARCH, "--macs-budget", "0.5", "--dense"], "--dense: leaves the search out"),
        (["train", "--recipe", "recipe.yaml", "--macs-budget", "0.5"], "--macs-budget: the recipe"),
        (["train", "--recipe", "recipe.yaml", "--log-gamma", "0.5"], "--log-gamma: the recipe has"),
        ([*SEARCH, "--log-gamma", "-1"], "search.log_gamma: Input should be greater than or equal"),
        ([*SEARCH, "--log-gamma", "1", "--macs-budget", "0.5"], "log_gamma: follows from"),
        ([*SEARCH, "--cost", "flops"], "search.cost: Input should be 'latency' or 'complexity'"),
        ([*SEARCH, "--cost", "latency"], "cost: 'latency': needs a profile"),
        ([*SEARCH, "--cost", "latency", "--kappa", "9"], "kappa: 9.0, has no effect where latency"),
        ([*SEARCH, "--macs-budget", "0.5", "--alpha", "1"], "alpha: 1.0, has no effect where macs"),
        ([*SEARCH, "--kappa", "9", "--set", "search.gate=units"], "kappa: 9.0, has no effect: it"),
        ([*SEARCH, "--kappa", "9", "--dense"], "--dense: leaves the search out, so --kappa"),
        (["train", "--resume", "run", "--alpha", "1"], "--resume: takes the run's own recipe"),
        (["retrain", "nowhere"], "no such folder: nowhere"),
        (["train", "--recipe", "recipe.yaml", "--set", "model.name=resnet19"], "no model"),
        (["train", "--recipe", "recipe.yaml", "--set", "data.name=images"], "data.root"),
        (["train", "--resume", "nowhere"], "no such file"),
        (["inspect", "resnet_18"], "timm has no 'resnet_18'"),
        (["inspect", "resnet18", "--exclude", "stage9*"], "'stage9*' matches no branch"),
        (["inspect", "inception_v3"], "nothing can be gated"),
        (["inspect", "no.such:make"], "no.such:make cannot be imported: No module named 'no'"),
        (["inspect", "os:nothing"], "os:nothing cannot be imported: module 'os' has no"),
        (["inspect", "os:sep"], "os:sep is neither a model nor makes one"),
        (["inspect", "os:getcwd"], "os:getcwd makes str, not a model"),
        (["inspect", "os:getcwd", "--model-kwargs", "x=1"], "os:getcwd with model-kwargs {'x': 1}"),
        (["inspect", "hf-hub:timm/resnet18"], "timm has no 'hf-hub:timm/resnet18'"),
        (["inspect", "resnet18", "--input-size", "3", "0", "32"], "input-size: (3, 0, 32)"),
        (["export", "nowhere", "-o", "out"], "nowhere has no export/config.json"),
        (["report", "nowhere", "-o", "out"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    cpt_nas: Shell, folder: Path, arguments: list[str], message: str
) -> None:
    before = sorted(p.name for p in folder.rglob("*"))
    extra = (
        ["-o", "out"]
        if arguments[0] in ("train", "retrain") and "--resume" not in arguments
        else []
    )
    done = cpt_nas(*arguments, *extra, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = [line for line in done.stderr.splitlines() if line.strip()]
    assert message in " ".join(last)
    errors = [line for line in last if line.startswith("error:")]
    assert len(errors) == 1
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_inspect_names_what_is_gated_and_what_is_not(cpt_nas: Shell, tmp_path: Path) -> None:
    done = cpt_nas("inspect", "resnet18", "--exclude", "layer4.1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "layer1.0" in done.stdout
    assert "act1: 64 filters" in done.stdout
    assert "not gated: layer4.1: excluded by pattern" in done.stdout
    assert "conv1, bn1, fc: outside any block" in done.stdout


def test_inspect_names_classes_without_an_adapter(cpt_nas: Shell, tmp_path: Path) -> None:
    done = cpt_nas("inspect", "swin_tiny_patch4_window7_224", cwd=tmp_path)
    assert "attn: WindowAttention has no adapter, so its units stay" in done.stdout
    done = cpt_nas("inspect", "davit_tiny", cwd=tmp_path)
    assert "and 3 more: ChannelAttention has no adapter" in done.stdout


OWN = """
import timm
from torch import nn

class Lora(nn.Linear):
    pass

class Tapped(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.net = timm.create_model("test_vit", img_size=32)
        self.net.blocks[0].attn.proj = Lora(64, 64)
        self.body = nn.Sequential(nn.Linear(1000, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        y = self.body[0](self.net(x))
        return self.body[2](self.body[1](y)) + y.mean()

model = Tapped()
"""


def test_inspect_takes_a_model_of_ones_own(cpt_nas: Shell, tmp_path: Path) -> None:
    """As attach does: with an input size every branch is tried."""
    (tmp_path / "own_nets.py").write_text(OWN)
    done = cpt_nas("inspect", "own_nets:model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "attn: proj: Lora, a class that is neither PyTorch's nor timm's" in done.stdout
    assert "not tried: with --input-size every branch is masked and cut" in done.stdout
    arguments = ["--model-kwargs", "width=6", "--input-size", "3", "32", "32"]
    done = cpt_nas("inspect", "own_nets:Tapped", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not gated: body: something else reads what lies inside it" in done.stdout
    assert "Tapped is not made by timm under a name; its state_dict" in done.stdout


@pytest.mark.parametrize("command", ["train", "retrain", "inspect", "export", "report", "demo"])
def test_help_has_an_example_or_says_what_happens(
    cpt_nas: Shell, command: str, tmp_path: Path
) -> None:
    done = cpt_nas(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "cpt-nas " in done.stdout or "demo" in done.stdout


def test_train_and_export(cpt_nas: Shell, folder: Path) -> None:
    done = cpt_nas("train", "--recipe", "search.yaml", "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "epoch   1/1" in done.stderr
    done = cpt_nas("export", "run", "--no-timing", "-o", "model", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (folder / "model").iterdir()} == {"config.json", "model.safetensors"}
    done = cpt_nas("train", "--recipe", "search.yaml", "-o", "run", cwd=folder)
    assert done.returncode == 2
    assert "is not empty" in done.stderr


def test_an_impossible_budget_shows_the_range_as_a_table(cpt_nas: Shell, folder: Path) -> None:
    done = cpt_nas(*SEARCH, "--macs-budget", "0.001", "--params-budget", "0.9", cwd=folder)
    for part in ("constraint", "dense", "budget", "lowest possible", "macs", "params"):
        assert part in done.stderr
    assert done.returncode == 2


def test_train_under_a_budget_and_retrain(cpt_nas: Shell, folder: Path) -> None:
    times = ["--set", "search.freeze=0.9", "--set", "train.epochs=2"]
    done = cpt_nas(*SEARCH, *times, "--macs-budget", "0.6", "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "budget" in done.stdout and "gates decided by force" in done.stdout
    done = cpt_nas("retrain", "run", "--set", "train.seed=1", "-o", "again", cwd=folder)
    assert done.returncode == 0, done.stderr
    structures = [(folder / run / "structure.json").read_text() for run in ("run", "again")]
    assert structures[0] == structures[1]
    done = cpt_nas("retrain", "again", "-o", "third", cwd=folder)
    assert done.returncode == 2 and "is not a finished search" in done.stderr
    done = cpt_nas("report", "run", "again", "-o", "report", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "report" / "report.html").read_text()
    assert "Budgets" in page and "How the searches settled" in page


def test_the_law_is_printed_and_stored(cpt_nas: Shell, folder: Path) -> None:
    """By the papers' law a profile needs no layer of the model: three numbers are all it says."""
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    profile = synthetic_profile(other, "board", (1, 8, 8))
    hwprofiles.save(profile, folder / "board.yaml")
    law = ["--profile", "board.yaml", "--cost", "complexity", "--log-gamma", "0.3", "--kappa", "2"]
    done = cpt_nas(*SEARCH, *law, "-o", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    numbers = "log_gamma 0.3 (given), alpha 0.5 (profile board), kappa 2 (given); L 3"
    assert f"charged: complexity (eqs. 9-13); {numbers}" in done.stderr
    stored = json.loads((folder / "run" / "result.json").read_text())["law"]
    assert stored["kappa"] == {"value": 2.0, "origin": "given"} and stored["layers"] == 3
    written = load_recipe(folder / "run" / "recipe.yaml").search
    assert written is not None and (written.cost, written.log_gamma) == ("complexity", 0.3)


def test_a_level_replaces_the_recipes_budget() -> None:
    stated = {"log_gamma": 0.25}
    search = with_search(load_recipe("digits"), stated=stated).search
    assert search is not None and search.log_gamma == 0.25 and not search.amounts()
    budget = with_search(load_recipe("digits", ["search.cost=complexity"]), stated={"alpha": 0.9})
    assert budget.search is not None and set(budget.search.amounts()) == {"macs"}


def test_a_packaged_recipe_is_trained_by_its_name(cpt_nas: Shell, tmp_path: Path) -> None:
    short = ["train.epochs=1", "data.train_limit=64", "data.input_size=[1, 8, 8]"]
    small = ["model.kwargs.layers=[1, 1, 1]", "model.kwargs.channels=[8, 8, 8]"]
    overrides = [word for change in (*short, *small) for word in ("--set", change)]
    done = cpt_nas("train", "--recipe", "digits", "--dense", *overrides, "-o", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = cpt_nas("train", "--recipe", "digitz", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2 and "cifar10_resnet20, digits, papers/" in done.stderr


def test_the_version_is_the_distributions(cpt_nas: Shell, tmp_path: Path) -> None:
    done = cpt_nas("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"cpt-nas {__version__}\n")


def test_a_piped_table_is_not_cut_off() -> None:
    """Both command lines write to the same console, which is wide where it is a file's."""
    assert options.out is console


def test_a_mistyped_option_is_named(cpt_nas: Shell, tmp_path: Path) -> None:
    done = cpt_nas("train", "--recpe", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "--recpe" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_profile_of_other_layers_lists_them_and_the_command(cpt_nas: Shell, folder: Path) -> None:
    other = {"other": torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())}
    profile = hwprofiles.measure(other, (1, 8, 8), threads=1, rounds=10, min_s=0.0)
    hwprofiles.save(profile, folder / "other.yaml")
    arguments = ["train", "--recipe", "search.yaml", "--profile", "other.yaml", "-o", "out"]
    done = cpt_nas(*arguments, cwd=folder)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    assert "conv2d(1->8" in line
    assert "hwprofiles measure MODEL --input-size 1 8 8 --batch-size 1" in line
    assert not (folder / "out").exists()
