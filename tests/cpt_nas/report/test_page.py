"""The page: its sections, its pictures, promises that are kept or not."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import hwprofiles
from cpt_nas.report.report import report
from tests.support.run_folders import (
    BUDGET,
    MODEL,
    QUIET,
    add_export,
    allocations,
    dense,
    trace,
    write_run,
)

SECTIONS = [
    "Runs",
    "Latency: every model in every setting",
    "Structures side by side",
    "Layers before and after",
    "Units left in every group",
    "Training load",
    "Accuracy and expected cost",
]


def test_the_page_holds_everything(runs, profile, stopwatch, tmp_path):
    for folder in runs:
        add_export(folder)
    path = report(runs, tmp_path / "out", [profile("home"), profile("away")], True, QUIET)
    assert path == tmp_path / "out" / "report.html"
    page = path.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    names = ["latency", "accuracy_latency", f"structures_{MODEL}", "layers_searched"]
    names += [f"units_{MODEL}", "training_load", "progress"]
    files = [tmp_path / "out" / "figures" / f"{name}.png" for name in names]
    assert len(encoded) == len(names)
    for content, file in zip(encoded, files, strict=True):
        data = base64.b64decode(content)
        assert data == file.read_bytes()
        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert np.ptp(grey) > 100  # something is drawn
    assert len(re.findall("<table", page)) == 3  # runs, predicted, measured
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from elsewhere
    assert "prefers-color-scheme: dark" in page
    assert ">nan<" not in page.lower()
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    first = ["allocations.csv", "budgets.csv", "cross.csv", "figures", "history.csv"]
    first += ["latency.csv", "layers.csv"]
    assert left == [*first, "report.html", "runs.csv", "search.csv", "structures.csv"]


def test_names_are_escaped(tmp_path):
    folder = write_run(tmp_path / "<b>&run")
    page = report([folder], tmp_path / "out", console=QUIET).read_text()
    assert "&lt;b&gt;&amp;run" in page
    assert "<b>" not in page


def test_runs_of_other_models_get_their_own_figures(runs, tmp_path):
    structure = dense({"num_classes": 2, "in_chans": 1}, "resnet18")
    other = write_run(tmp_path / "other", structure=structure, searching=False)
    report([*runs, other], tmp_path / "out", console=QUIET)
    figures = {p.stem for p in (tmp_path / "out" / "figures").iterdir()}
    assert {f"structures_{MODEL}", "structures_resnet18", "units_resnet18"} <= figures


@pytest.mark.parametrize(("reached_ms", "kept"), [(1.98, True), (1.5, False)])
def test_a_promise_that_is_not_kept_is_said(
    tmp_path, stopwatch, profile, reached_ms: float, kept: bool
) -> None:
    reached = {"latency": 1e-3 * reached_ms, "params": 30.0}
    folder = add_export(write_run(tmp_path / "searched", reached=reached, **BUDGET))
    trace().to_csv(folder / "search.csv", index=False)
    allocations().to_csv(folder / "allocations.csv", index=False)
    out = tmp_path / "out"
    page = report([folder], out, [profile("home")], True, QUIET).read_text()
    table = pd.read_csv(out / "budgets.csv").set_index("measure")
    latency = table.loc["latency"]
    assert (latency["dense"], latency["budget"], latency["forced"]) == (8e-3, 2e-3, 3)
    assert latency["measured_s"] == pytest.approx(2e-3)
    assert latency["off"] == pytest.approx(2 / reached_ms - 1)
    assert table["binding"].tolist() == [True, False] and pd.isna(table.loc["params", "off"])
    assert ("is not within 5%" in page) != kept
    assert ("Every measured latency is within 5%" in page) == kept
    row = pd.read_csv(out / "runs.csv").iloc[0]
    assert row["budget:params"] == 60 and row["reached:params"] == 30 and row["forced"] == 3
    cross = pd.read_csv(out / "cross.csv").set_index("run")
    assert cross.loc["searched", "measured_ms:home"] == pytest.approx(2.0)
    assert len(pd.read_csv(out / "search.csv")) == 3
    assert (out / "figures" / "search_searched.png").exists()
    assert (out / "figures" / "importance_searched.png").exists()
    assert len(pd.read_csv(out / "allocations.csv")) == len(allocations())


def test_a_noisy_measurement_neither_keeps_nor_breaks_a_promise(tmp_path, stopwatch, profile):
    stopwatch.noisy = True
    reached = {"latency": 1e-3, "params": 30.0}
    folder = add_export(write_run(tmp_path / "searched", reached=reached, **BUDGET))
    out = tmp_path / "out"
    page = report([folder], out, [profile("home")], True, QUIET).read_text()
    assert "searched: measured on a noisy machine, which says nothing of the promise." in page
    assert "within 5%" not in page and "2.00, noisy" in page
    assert pd.read_csv(out / "budgets.csv")["verdict"].tolist()[0] == "noisy"


def test_a_doubtful_profile_is_said(runs, profile, tmp_path):
    path = profile("home")
    content = hwprofiles.load(path).model_dump(mode="json", by_alias=True)
    content["protocol"] |= {"verdict": "noisy", "spread": 0.25}
    hwprofiles.save(hwprofiles.profile_file.parse(content), path)
    page = report(runs, tmp_path / "out", [path], console=QUIET).read_text()
    assert "home is doubtful: its times are noisy (spread 25.0%" in page
