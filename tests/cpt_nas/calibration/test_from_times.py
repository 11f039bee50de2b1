"""A profile from a kit's table: a device whose times are made up, so that the truth is known."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch

import hwprofiles
from cpt_nas.calibration.from_times import profile_from_times
from cpt_nas.calibration.kit import TIMES, Manifest, read_manifest, write_kit
from cpt_nas.calibration.kit_table import COLUMNS, OPTIONAL
from cpt_nas.calibration.random_structures import candidate
from cpt_nas.costs.cost_model import build_cost, predict_latency
from cpt_nas.pruning.search_space import find_branches
from tests.support.profiles import synthetic_profile
from tests.support.shell import Shell

pytest.importorskip("onnx")

NAME, KWARGS = "cpt_resnet20", {"layers": [2, 2, 2], "channels": [8, 16, 16], "in_chans": 1}
SIZE = (1, 8, 8)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit that a device has answered: it charges what a made-up profile says."""
    folder = tmp_path_factory.mktemp("kits") / "kit"
    model = timm.create_model(NAME, **KWARGS)
    truth = synthetic_profile(model, NAME, SIZE)
    manifest = write_kit(
        folder, NAME, model, SIZE, KWARGS, networks=30, unseen=6, channel_divisor=4
    )
    cost = build_cost(model, torch.zeros(1, *SIZE), find_branches(model))
    rows = []
    for network in manifest.networks:
        seconds = candidate(model, cost, network.structure).predict_s(truth)
        tail = f"{1.02 * seconds},,{3 * seconds}"
        rows.append(f"{network.name},{seconds},{0.99 * seconds},{1.01 * seconds},15,{tail}")
    head = ["# kit: " + manifest.id, "# runtime: tengine 2.1", "# provider: npu", "# threads: 2"]
    head += ["# device: Board Q", "# cores: 4", ",".join([*COLUMNS, *OPTIONAL])]
    (folder / TIMES).write_text("\n".join([*head, *rows, ""]))
    return folder


@pytest.fixture
def manifest(kit: Path) -> Manifest:
    return read_manifest(kit)


def test_the_device_and_its_costs_are_in_the_profile(kit: Path, tmp_path: Path) -> None:
    profile = profile_from_times(kit / TIMES)
    hwprofiles.save(profile, tmp_path / "p.yaml")
    assert hwprofiles.load(tmp_path / "p.yaml") == profile
    assert profile.name == "board-q-tengine-2.1" and profile.fingerprint.device.name == "Board Q"
    assert profile.workload.runtime == "tengine" and profile.workload.threads == 2
    assert profile.fingerprint.runtime.provider == "npu" and profile.channel_divisor == 4
    assert all(layer.alone is None for layer in profile.layers)
    c = profile.calibration
    assert c.n == 31 and c.scale is None and c.left_out_error is not None
    assert c.left_out_error < 0.03
    (v,) = profile.validation
    assert v.aligned.n == 6 and v.aligned.mape < 0.02 and v.noise_floor is None
    assert profile.dense[NAME].calibrated_error == pytest.approx(0, abs=0.02)
    dense = profile.dense[NAME]
    assert dense.p90_s == pytest.approx(1.02 * dense.median_s) and dense.p99_s is None
    assert dense.first_call_s == pytest.approx(3 * dense.median_s)
    assert dense.file_bytes == (kit / f"{read_manifest(kit).networks[0].name}.onnx").stat().st_size
    assert profile.doubts() == []
    assert profile.check()  # it is not this machine


def test_networks_that_the_kit_does_not_hold_are_predicted(kit: Path) -> None:
    model = timm.create_model(NAME, **KWARGS)
    truth = synthetic_profile(model, NAME, SIZE)
    profile, x = profile_from_times(kit / TIMES, "board"), torch.zeros(1, *SIZE)
    structure = copy.deepcopy(read_manifest(kit).networks[0].structure)
    for branch in list(structure.branches.values())[::2]:
        branch.kept = False
        for units in branch.units.values():
            units.kept = []
    wanted = predict_latency(structure, truth, model, x)
    assert predict_latency(structure, profile, model, x) == pytest.approx(wanted, rel=0.05)


def test_first_lines_need_not_be_there(kit: Path, manifest: Manifest, tmp_path: Path) -> None:
    lines = (kit / TIMES).read_text().splitlines()
    (tmp_path / "manifest.json").write_bytes((kit / "manifest.json").read_bytes())
    bare = [line for line in lines if not line.startswith("#")]
    (tmp_path / TIMES).write_text("\n".join([*bare, ""]))
    profile = profile_from_times(tmp_path / TIMES, "device")
    assert profile.fingerprint.device.name == "not told" and profile.workload.threads == 1
    (tmp_path / TIMES).write_text("\n".join(["# threads: many", *bare, ""]))
    with pytest.raises(ValueError, match="times: # threads: many, allowed is 1 or more"):
        profile_from_times(tmp_path / TIMES)


def test_the_command(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(monkeypatch, capfd)
    done = shell("profile", "--from", str(kit / TIMES), "-o", "board.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tengine 2.1, npu" in done.stdout
    assert hwprofiles.load(tmp_path / "board.yaml").validation
    done = shell("profile", NAME, "--from", str(kit / TIMES), "-o", "b.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "model: cpt_resnet20 given beside --from" in done.stderr
    done = shell("profile", "-o", "b.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "model: none given" in done.stderr
    assert not (tmp_path / "b.yaml").exists()
