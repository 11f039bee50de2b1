"""The commands: what they print, their exit codes, one line for a mistake."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hwprofiles import Profile, cli, load, save, terminal, trust
from hwprofiles.profile_file import parse


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "width", 300)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        terminal.run_app(cli.app, args)
    captured = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, captured.out, captured.err


@pytest.fixture
def file(tiny_profile: Profile, tmp_path: Path) -> Path:
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    content["protocol"]["verdict"] = "ok"  # whatever the machine was doing
    content["dense"]["tiny"]["explained"] = 1.0
    path = tmp_path / "tiny.yaml"
    save(parse(content), path)
    return path


def foreign(profile: Profile, path: Path) -> Path:
    content = profile.model_dump(mode="json", by_alias=True)
    content["name"] = "elsewhere"
    content["fingerprint"]["device"]["name"] = "abacus"
    content["layers"] = content["layers"][1:]
    save(parse(content), path)
    return path


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that adds a model to timm's registry."""
    (tmp_path / "extra_models.py").write_text(
        "from timm.models import register_model\n"
        "from torch import nn\n"
        "@register_model\n"
        "def extra_tiny(pretrained=False, in_chans=3, width=8, **kwargs):\n"
        "    return nn.Sequential(nn.Conv2d(in_chans, width, 3), nn.ReLU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "extra_models"


def test_measure_writes_a_profile(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, registered: str
) -> None:
    output = tmp_path / "new" / "p.yaml"
    code, out, _ = run(
        capsys, "measure", "extra_tiny", "--import", registered, "--input-size", "1", "8", "8",
        "--batch-size", "2", "--threads", "1", "--model-kwargs", "width=12", "--rounds", "10",
        "--seconds", "0", "-o", str(output),
    )  # fmt: skip
    assert code == 0 and f"wrote {output}" in out and "layer constant kappa" in out
    profile = load(output)
    assert profile.workload.input_size == (1, 8, 8) and profile.workload.batch_size == 2
    assert profile.layers[0].out_channels == 12
    assert [p.name for p in output.parent.iterdir()] == ["p.yaml"]


def test_the_output_is_tried_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    measured = []
    module = importlib.import_module("hwprofiles.measure")
    monkeypatch.setattr(module, "measure", lambda *a, **k: measured.append(a))
    output = tmp_path / "new" / "p.yaml"
    code, out, err = run(
        capsys, "measure", "resnet18", "--input-size", "3", "32", "32", "-o", str(output)
    )
    assert (code, out, err) == (2, "", f"error: {output}: No space left on device\n")
    assert measured == [] and list(tmp_path.iterdir()) == []


def test_a_time_limit(capsys: pytest.CaptureFixture[str], tmp_path: Path, registered: str) -> None:
    output = tmp_path / "p.yaml"
    words = ["measure", "extra_tiny", "--import", registered, "--input-size", "1", "8", "8"]
    words += ["--threads", "1", "--seconds", "0", "--rounds", "100000", "-o", str(output)]
    code, out, err = run(capsys, *words, "--time-limit", "1")
    assert (code, out) == (2, "") and not output.exists()
    message = r"error: time-limit: 1 s were over during '[\w ,-]+', \d+ of \d+ done; nothing was"
    assert re.match(message, err.splitlines()[-1])


def test_a_profile_whose_layers_do_not_sum_to_the_network_is_not_written(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    registered: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trust, "POSSIBLE", (1e6, 2e6))
    words = ["measure", "extra_tiny", "--import", registered, "--input-size", "1", "8", "8"]
    words += ["--threads", "1", "--seconds", "0", "-o", str(tmp_path / "p.yaml")]
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "") and not (tmp_path / "p.yaml").exists()
    assert re.search(r"error: .*the layers of extra_tiny sum to .* of the network's time", err)


def test_show(capsys: pytest.CaptureFixture[str], file: Path, tiny_profile: Profile) -> None:
    code, out, _ = run(capsys, "show", str(file))
    assert code == 0
    for layer in tiny_profile.layers:
        assert layer.signature in out
    assert f"{tiny_profile.kappa:.3f}" in out and load(file).protocol.verdict in out


def test_compare(capsys: pytest.CaptureFixture[str], file: Path, tiny_profile: Profile) -> None:
    other = foreign(tiny_profile, file.with_name("other.yaml"))
    code, out, _ = run(capsys, "compare", str(file), str(other))
    assert code == 0 and "elsewhere" in out and "compute weight alpha" in out
    assert out.count("eager, cpu, 1 thread, batch 1, float32") == 2
    assert "tiny, whole" in out and "1.00" in out
    shared = len(tiny_profile.layers) - 1
    assert f"{shared} layers in both, 1 in one only" in out


def test_check(capsys: pytest.CaptureFixture[str], file: Path, tiny_profile: Profile) -> None:
    code, out, _ = run(capsys, "check", str(file))
    assert code == 0 and tiny_profile.fingerprint_id in out
    assert "eager, cpu, 1 thread, batch 1, float32" in out
    code, out, _ = run(capsys, "check", str(foreign(tiny_profile, file.with_name("other.yaml"))))
    assert code == 1 and out.startswith("device.name: profile has abacus, here is ")


def test_check_of_a_setting(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    same = ("--device", "cpu", "--threads", "1", "--batch-size", "1", "--dtype", "float32")
    code, out, _ = run(capsys, "check", str(file), *same, "--contiguous")
    assert code == 0 and "this machine and software" in out
    code, out, _ = run(capsys, "check", str(file), "--threads", "2", "--channels-last")
    assert code == 1 and out.splitlines() == [
        "workload.threads: profile has 1, the target is 2",
        "workload.channels_last: profile has False, the target is True",
        "doubtful: it was not fitted to cut networks",
    ]
    code, out, _ = run(capsys, "check", str(file), "--runtime", "openvino")
    assert code == 1 and out.startswith("workload.runtime: profile has eager, the target is openv")
    code, _, err = run(capsys, "check", str(file), "--dtype", "int8")
    assert code == 2 and err == "error: dtype: 'int8', allowed are float32 and bfloat16\n"


def test_a_device_without_pytorch_has_a_runtime_of_its_own(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    content = load(file).model_dump(mode="json", by_alias=True)
    content["workload"]["runtime"] = content["fingerprint"]["runtime"]["name"] = "tengine"
    save(parse(content), file)
    _, out, _ = run(capsys, "check", str(file), "--runtime", "tengine")
    assert "workload.runtime" not in out
    _, out, _ = run(capsys, "check", str(file), "--runtime", "eager")
    assert "workload.runtime: profile has tengine, the target is eager" in out
    code, _, err = run(capsys, "check", str(file), "--runtime", "engine")
    assert code == 2 and err.startswith("error: runtime: 'engine', allowed are tengine, eager, ")


def test_check_and_show_repeat_what_is_doubtful(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    content = load(file).model_dump(mode="json", by_alias=True)
    content["protocol"] |= {"verdict": "noisy", "spread": 0.25, "contention": None}
    content["protocol"]["anchor"]["spread"] = 0.5
    content["dense"]["tiny"]["explained"] = 0.6
    content["cost_model"]["calibration"] |= {"verdict": "noisy", "drift": 0.08}
    save(parse(content), file)
    expected = [
        "its times are noisy (spread 25.0%, anchor 50.0%, contention not seen)",
        "its calibration is noisy (drift 8.0%)",
        "it was not fitted to cut networks",
        "the layers of tiny sum to 60.0% of its time",
    ]
    code, out, _ = run(capsys, "check", str(file))
    assert code == 0 and out.splitlines()[:4] == [f"doubtful: {line}" for line in expected]
    assert "this machine and software" in out.splitlines()[4]
    code, out, _ = run(capsys, "show", str(file))
    assert code == 0 and all(line in out for line in expected)


def test_seal(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, _ = run(capsys, "seal", str(file))
    assert code == 0 and out == f"{file}: cpu-t1-b1, as it was measured\n"
    file.write_text(file.read_text().replace("name: cpu-t1-b1", "name: mine"))
    code, _, err = run(capsys, "show", str(file))
    assert code == 2 and f"hwprofiles seal {file}" in err and err.count("\n") == 1
    code, out, _ = run(capsys, "seal", str(file))
    assert code == 0 and out == f"{file}: mine, edited by hand\n"
    code, out, _ = run(capsys, "check", str(file))
    assert code == 0 and out.startswith("doubtful: it was edited by hand\n")
    code, _, err = run(capsys, "seal", str(file.with_name("absent.yaml")))
    assert code == 2 and "absent.yaml: No such file" in err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema")
    assert code == 0 and json.loads(out)["title"] == "ProfileFile"


def test_the_page_of_the_schema_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema", "--markdown")
    assert code == 0
    page = Path(__file__).parents[2] / "docs" / "reference" / "profile_schema.md"
    assert page.read_text(encoding="utf-8") == out, "hwprofiles schema --markdown writes it"
    for field in ("contention", "left_out_p95", "speed_up_error", "peak_analytic_bytes"):
        assert f"| `{field}` |" in out


MISTAKES = [
    (["show", "absent.yaml"], "no file absent.yaml"),
    (["check", "broken.yaml"], "broken.yaml: is not YAML, line "),
    (["measure", "-o", "p.yaml"], "Missing argument"),
    (["measure", "resnet18"], "Missing option"),
    (["measure", "no_such_model", "-o", "p.yaml"], "model: 'no_such_model' is not in timm's"),
    (["measure", "resnet18", "-o", "."], "output: . is a folder"),
    (["measure", "resnet18", "-o", "p.yaml", "--device", "tpu"], "device: 'tpu'"),
    (["measure", "resnet18", "-o", "p.yaml", "--dtype", "int8"], "dtype: 'int8'"),
    (["measure", "resnet18", "-o", "p.yaml", "--threads", "100000"], "threads: 100000"),
    (["measure", "resnet18", "-o", "p.yaml", "--batch-size", "many"], "--batch-size"),
    (["measure", "resnet18", "-o", "p.yaml", "--input-size", "3", "8", "0"], "input_size"),
    (
        ["measure", "resnet18", "test_vit", "-o", "p.yaml"],
        "input-size: not given, and the models' own differ (resnet18 3x224x224, test_vit",
    ),
    (["measure", "resnet18", "-o", "p.yaml", "--rounds", "2"], "--rounds"),
    (["measure", "resnet18", "-o", "p.yaml", "--time-limit", "nan"], "--time-limit"),
    (["measure", "resnet18", "-o", "p.yaml", "--time-limit", "8"], "must be above --seconds, 8"),
    (["measure", "test_resnet", "-o", "p.yaml", "--name", "a\nb"], "name: 'a\\nb', allowed are"),
    (["measure", "resnet18", "-o", "/dev/null"], "/dev/null is not a regular file"),
    (["measure", "resnet18", "-o", "x" * 300], "File name too long"),
    (["measure", "resnet18", "-o", "p.yaml", "--import", "no.such"], "import: 'no.such'"),
    (["measure", "resnet18", "-o", "p.yaml", "--model-kwargs", "width"], "allowed is key=value"),
    (["measure", "resnet18", "-o", "p.yaml", "--model-kwargs", "wings=2"], "wings"),
    (["fly"], "No such command"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("a: [")
    code, out, err = run(capsys, *args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["broken.yaml"]


def test_every_command_has_help_with_an_example() -> None:
    commands = [c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback]
    assert commands == ["measure", "show", "compare", "check", "seal", "schema"]
    for command in commands:
        result = CliRunner().invoke(cli.app, [command, "--help"])
        assert result.exit_code == 0 and f"Example: hwprofiles {command}" in " ".join(
            result.output.replace("│", " ").split()
        )


def test_show_prints_what_readers_ask_for_and_leaves_out_what_is_not_known(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    content = load(file).model_dump(mode="json", by_alias=True)
    known = {"p90_s": 2e-3, "p99_s": None, "first_call_s": 0.05, "load_s": None}
    content["dense"]["tiny"] |= known | {"file_bytes": 2**21, "fused": ["/conv1/Conv + /act/Relu"]}
    save(parse(content), file)
    code, out, _ = run(capsys, "show", str(file), "--fused")
    assert code == 0
    assert "p90 2.00 ms, first call 50.00 ms, file 2.0 MiB, peak memory" in out
    assert "fused 1 groups" in out and "/conv1/Conv + /act/Relu" in out
    assert "p99" not in out and "made ready" not in out
    assert "/conv1/Conv + /act/Relu" not in run(capsys, "show", str(file))[1]


def test_the_table_of_networks_has_nan_for_what_is_not_known(tiny_profile: Profile) -> None:
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    content["dense"]["tiny"] |= {"p90_s": None, "calls": None, "first_call_s": 0.25}
    (row,) = parse(content).to_frame("networks").to_dict("records")
    assert row["model"] == "tiny" and row["first_call_s"] == 0.25
    assert all(row[key] != row[key] for key in ("p90_s", "calls", "file_bytes", "fused"))
    with pytest.raises(ValueError, match="of: 'models', allowed are layers and networks"):
        tiny_profile.to_frame("models")  # type: ignore[arg-type]
