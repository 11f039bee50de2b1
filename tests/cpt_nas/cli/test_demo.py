"""The demo: two settings that differ, and tables that fit a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from cpt_nas.cli import demo
from hwprofiles.runtimes import RUNTIMES, base


def test_the_settings_are_two_runtimes_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not RUNTIMES["onnxruntime"].missing():
        assert [*demo.settings(None)] == ["eager", "onnxruntime"]
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda package: None)
    lean = demo.settings(None)
    assert [s.runtime for s in lean.values()] == ["eager", "eager"]
    assert len({s.batch_size for s in lean.values()}) == 2
    with pytest.raises(ValueError, match=r"onnxruntime needs onnxruntime, .* extra \[onnx\]"):
        demo.settings(["eager", "onnxruntime"])


def test_an_unknown_runtime_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runtime: 'onnx', allowed are eager"):
        demo.run(tmp_path / "new", 2, Console(), ["onnx"])
    assert not (tmp_path / "new").exists()


def test_the_tables_fit_80_columns_and_nothing_is_cut(tmp_path: Path) -> None:
    names = ["dense", "onnxruntime-tensorrt-with-all-threads-b256", "executorch"]
    sizes = {"accuracy": 98.76, "macs": 123_456_789_012, "params": 123_456_789}
    rows = [{"name": n, **sizes, "layers": 123, "layers_left": 100} for n in names]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv")
    times = [
        {"run": run, "profile": name, "predicted_s": 12.345, "measured_s": float("nan")}
        for run in names
        for name in names[1:]
    ]
    pd.DataFrame(times).to_csv(tmp_path / "latency.csv")
    out = io.StringIO()
    for table in demo.summary(tmp_path):
        Console(file=out, width=80).print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    # A name that goes on in the next line is whole in its column.
    first = ["".join(line.split("│")[1:2]).strip() for line in lines]
    assert names[1] in "".join(first)
    assert "123 of 123" not in out.getvalue() and "100 of 123" in out.getvalue()
    assert "nan (12345.00)" in out.getvalue()
