"""Reports written and refused: faulty folders and arguments, where they may go."""

from __future__ import annotations

import html
import io
import re

import pandas as pd
import pytest
import torch
import yaml

from cpt_nas.report.report import file_names, report
from cpt_nas.train.run_folder import load_runs
from tests.support.run_folders import QUIET, add_export, history, trace, write_run


def refuse(message, out, *arguments, **kwargs):
    with pytest.raises(ValueError, match=message) as caught:
        report(*arguments, console=QUIET, **kwargs)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", None, "has no result.json; is it a run folder"),
        ("result.json", "{", "result.json is not JSON"),
        ("result.json", "[]", "result.json: status is None, must be finished or running"),
        ("result.json", '{"status": "done"}', "status is 'done', must be"),
        (
            "result.json",
            '{"status": "finished", "kind": "dense"}',
            "result.json has no model, test",
        ),
        ("recipe.yaml", None, "recipe.yaml: recipe: no such file"),
        ("recipe.yaml", "model: {name: x}\nextra: 1", "recipe.yaml: extra: unknown key"),
        ("structure.json", None, "structure.json: structure: no such file"),
        ("structure.json", "{}", "structure.json: structure: .*architecture"),
        ("layers.csv", None, "has no layers.csv, although it is finished"),
        (
            "layers.csv",
            "name,type\na,b\n",
            "layers.csv has no column branch, projection",
        ),
        ("history.csv", None, "has no history.csv"),
        ("history.csv", "", "history.csv is not a CSV table"),
        ("history.csv", "epoch\nx\n", "history.csv has no column step, lr"),
    ],
)
def test_a_faulty_run_folder_is_named(runs, tmp_path, file, content, message):
    if content is None:
        (runs[1] / file).unlink()
    else:
        (runs[1] / file).write_text(content)
    refuse(f"^run: {re.escape(str(runs[1]))}.*{message}", tmp_path / "out", runs, tmp_path / "out")


def test_text_in_a_column_of_numbers_is_named(runs, tmp_path):
    table = history(3, True).astype({"test_acc": object})
    table.loc[1, "test_acc"] = "good"
    table.to_csv(runs[1] / "history.csv", index=False)
    message = "history.csv: column test_acc must hold numbers"
    refuse(message, tmp_path / "out", runs, tmp_path / "out")


def test_faulty_arguments_are_named(runs, profile, tmp_path, monkeypatch):
    out = tmp_path / "out"
    refuse("runs: none given", out, [], out)
    refuse("run: no such folder: nowhere", out, [*runs, "nowhere"], out)
    refuse("runs: .*dense is given twice", out, [*runs, tmp_path / "." / "dense"], out)
    refuse("--measure: needs a profile", out, runs, out, measure=True)
    with pytest.raises(FileNotFoundError, match="profile: no file nosuch"):
        report(runs, out, ["nosuch"])
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"name": "x"}))
    refuse("broken.yaml: ", out, runs, out, [broken])
    first = profile("home")
    again = first.rename(tmp_path / "again.yaml")
    refuse("profile: two are named 'home'", out, runs, out, [again, profile("home", 5e-6)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = profile("gpu", device="cuda")
    refuse("profile gpu: .*no CUDA device here", out, runs, out, [gpu], measure=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_broken_export_is_named(runs, profile, tmp_path, file):
    for folder in runs:
        add_export(folder)
    (runs[1] / "export" / file).write_bytes(b"broken")
    out = tmp_path / "out"
    refuse("searched/export cannot be loaded", out, runs, out, [profile("home")], measure=True)
    (runs[1] / "export" / file).unlink()
    refuse(f"searched has no export/{file}", out, runs, out, [profile("home")], measure=True)


def test_an_output_that_is_a_file_is_named(runs, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match=r"output: .* is a file, must be a folder"):
        report(runs, tmp_path / "out", console=QUIET)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_report_can_be_made_again(runs, tmp_path):
    report(runs, tmp_path / "out", console=QUIET)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    report(runs[:1], tmp_path / "out", console=QUIET)
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 1
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_broken_trace_is_named(tmp_path) -> None:
    folder = write_run(tmp_path / "a")
    trace().drop(columns="theta_3").to_csv(folder / "search.csv", index=False)
    with pytest.raises(ValueError, match=r"search.csv has no column theta_3"):
        load_runs([folder])


NAMES = ["$x^{2$", "_a b\udcff", "_a-b\udcff", "total"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_runs_may_have_any_names(tmp_path, monkeypatch):
    drawn = {}

    def png(figure):
        figure.savefig(io.BytesIO(), format="png", dpi=10)
        drawn[id(figure)] = figure
        return str(id(figure)).encode()

    monkeypatch.setattr("cpt_nas.report.report._png", png)
    folders = [write_run(tmp_path / name) for name in NAMES]
    out = tmp_path / "out"
    page = report(folders, out, console=QUIET).read_text()

    shown = [name.replace("\udcff", "\\udcff") for name in NAMES]
    shown[NAMES.index("total")] = f"{tmp_path.name}/total"
    table = pd.read_csv(out / "runs.csv", dtype=str, keep_default_na=False)
    assert table["name"].tolist() == shown
    structures = pd.read_csv(out / "structures.csv")
    assert list(structures.columns) == ["model", "branch", "group", "total", *shown]
    assert (structures["total"] == [4, 8, 8]).all()
    assert all(html.escape(name) in page for name in shown)
    files = [path for path in (out / "figures").iterdir() if path.name.startswith("layers_")]
    assert len({path.read_text() for path in files}) == len(NAMES)
    (legend,) = (f.legends[0] for f in drawn.values() if "training load" in f.axes[0].get_ylabel())
    assert [literally(text).strip() for text in legend.get_texts()] == shown


def literally(text):
    """What matplotlib draws."""
    line, formula = text._preprocess_math(text.get_text())
    assert not formula
    return line


def test_figures_of_any_names_have_files_of_their_own():
    names = ["a b", "a-b", "A-B", "x" * 300, "x" * 301, "..", "/", ""]
    files = file_names(names)
    assert list(files) == names
    assert len({name.lower() for name in files.values()}) == len(names)
    assert max(map(len, files.values())) < 100
    assert not any("/" in name for name in files.values())
