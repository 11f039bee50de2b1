"""Two runs, a dense one and a search, and profiles and times for them."""

from __future__ import annotations

import numpy as np
import pytest

import hwprofiles
from tests.support.run_folders import synthetic_profile, write_run


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    monkeypatch.setattr("cpt_nas.report.report.DPI", 40)


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "dense", searching=False), write_run(tmp_path / "searched")]


@pytest.fixture
def profile(tmp_path):
    """Writes a synthetic profile and returns its file."""

    def write(name, per_in_out_s=1e-6, **workload):
        path = tmp_path / f"{name}.yaml"
        hwprofiles.save(synthetic_profile(name, per_in_out_s, **workload), path)
        return path

    return write


class Calls(list):
    """What time_models was called with, and whether its times are noisy."""

    noisy = False


@pytest.fixture
def stopwatch(monkeypatch):
    """Fake times in place of hwprofiles.time_models; the list holds what it was called with."""
    calls = Calls()
    milliseconds = {"dense": 8.0, "searched": 2.0}

    def time_models(models, threads, min_s, channels_last, progress, runtime):
        assert min_s >= len(models)  # seconds
        calls.append((models, threads, channels_last))
        progress("round", 1, 1)
        spread = np.linspace(0.99, 1.01, 11)
        return {
            label: hwprofiles.Measurement(tuple(1e-3 * milliseconds[label] * spread), calls.noisy)
            for label in models
        }

    monkeypatch.setattr(hwprofiles, "time_models", time_models)
    return calls
