"""A kit from end to end: timed where there is nothing but onnxruntime and numpy, and back."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest
import timm

import hwprofiles
from cpt_nas.calibration.from_times import profile_from_times
from cpt_nas.calibration.kit import TIMES, write_kit
from tests.packaging.environments import Environment

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime")

NAME, KWARGS, SIZE = "cpt_resnet20", {"layers": [2, 2, 2], "in_chans": 1}, (1, 16, 16)


def test_a_device_with_onnxruntime_and_numpy_alone(tmp_path: Path) -> None:
    model = timm.create_model(NAME, **KWARGS)
    write_kit(tmp_path / "kit", NAME, model, SIZE, KWARGS, networks=24, unseen=6)
    device = Environment(tmp_path / "device")
    device.install(*(f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "numpy")))
    shutil.copytree(tmp_path / "kit", tmp_path / "device" / "kit")
    said = device.python("import importlib.util as u; print(u.find_spec('torch'))")
    assert said == "None"
    device.call("python", "run.py", "--rounds", "10", cwd=tmp_path / "device" / "kit")
    shutil.copy(tmp_path / "device" / "kit" / TIMES, tmp_path / "kit" / TIMES)
    profile = profile_from_times(tmp_path / "kit" / TIMES)
    hwprofiles.save(profile, tmp_path / "device.yaml")
    assert hwprofiles.load(tmp_path / "device.yaml") == profile
    assert profile.fingerprint.runtime.version == metadata.version("onnxruntime")
    # Not how good it is: other tests may run beside this one.
    assert profile.validation[0].aligned.n == 6 and profile.calibration.n == 25
