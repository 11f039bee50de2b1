"""Kits: networks as files for another device, and the table that comes back."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from cpt_nas.calibration import kit as kits
from cpt_nas.calibration.kit import Manifest, read_manifest, write_kit
from cpt_nas.calibration.kit_table import Row, read_times
from cpt_nas.pruning.structure import cut_to
from hwprofiles.runtimes.onnx_file import INPUT

onnxruntime = pytest.importorskip("onnxruntime")

NAME, KWARGS = "cpt_resnet20", {"layers": [2, 2, 2], "channels": [8, 16, 16], "in_chans": 1}
SIZE = (1, 8, 8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, **KWARGS).eval()


@pytest.fixture(scope="module")
def kit(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kits") / "kit"
    write_kit(folder, NAME, model, SIZE, KWARGS, networks=6, unseen=3, channel_divisor=4)
    return folder


@pytest.fixture
def manifest(kit: Path) -> Manifest:
    return read_manifest(kit)


@pytest.fixture
def table(manifest: Manifest, tmp_path: Path) -> Path:
    """As any harness might fill it in."""
    rows = [
        f"{n.name},{(i + 1) * 1e-4},{(i + 1) * 1e-4},{(i + 1) * 2e-4},15"
        for i, n in enumerate(manifest.networks)
    ]
    path = tmp_path / "times.csv"
    path.write_text(
        "\n".join(
            [
                f"# kit: {manifest.id}",
                "# device: abacus",
                "network,seconds,q25_s,q75_s,n",
                *rows,
                "",
            ]
        )
    )
    return path


def test_the_files_are_the_networks_of_the_manifest(
    kit: Path, manifest: Manifest, model: nn.Module
) -> None:
    x = torch.rand(1, *SIZE)
    for network in manifest.networks:
        session = onnxruntime.InferenceSession(str(kit / f"{network.name}.onnx"))
        got = torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])
        with torch.no_grad():
            wanted = cut_to(copy.deepcopy(model), network.structure)(x)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert [n.unseen for n in manifest.networks] == [False] * 7 + [True] * 3
    looks = [n.structure.model_dump_json() for n in manifest.networks]
    assert len(set(looks)) == len(looks)


def test_the_same_request_is_the_same_kit(
    model: nn.Module, manifest: Manifest, tmp_path: Path
) -> None:
    again = write_kit(
        tmp_path / "a", NAME, model, SIZE, KWARGS, networks=6, unseen=3, channel_divisor=4
    )
    assert again.id == manifest.id
    assert [n.structure for n in again.networks] == [n.structure for n in manifest.networks]
    other = write_kit(
        tmp_path / "b", NAME, model, SIZE, KWARGS, networks=6, unseen=3, channel_divisor=4, seed=1
    )
    assert other.id != manifest.id
    assert other.networks[1].structure != manifest.networks[1].structure


def test_run_py_times_it_with_onnxruntime_and_numpy_alone(kit: Path, manifest: Manifest) -> None:
    source = (kit / kits.RUN).read_text()
    # -I: nothing of this project can be imported.
    command = [sys.executable, "-I", kits.RUN, "--rounds", "3", "--group", "4"]
    done = subprocess.run(command, cwd=kit, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "group 3 of 3: the dense network and 1" in done.stdout
    times = read_times(kit / kits.TIMES, manifest)
    assert list(times.rows) == [n.name for n in manifest.networks]
    assert times.device["kit"] == manifest.id and times.device["threads"] == "1"
    assert times.device["runtime"] == f"onnxruntime {onnxruntime.__version__}"
    dense, cut = (times.rows[manifest.networks[i].name] for i in (0, 1))
    assert dense.n == 9 and "cpt_nas" not in source
    # 27 calls of the dense network, 9 of another one: a tenth, and no hundredth of them, is a call.
    assert dense.p90_s is not None and dense.p99_s is None and cut.p90_s is None
    assert dense.first_call_s is not None and cut.first_call_s is not None
    (kit / kits.TIMES).unlink()


def test_a_filled_in_table_is_read(table: Path, manifest: Manifest) -> None:
    times = read_times(table, manifest)
    assert times.device == {"kit": manifest.id, "device": "abacus"}
    assert times.rows[manifest.networks[2].name] == Row(
        pytest.approx(3e-4), pytest.approx(3e-4), pytest.approx(6e-4), 15
    )


def test_what_is_known_of_single_calls_may_be_there(table: Path, manifest: Manifest) -> None:
    head, rows = table.read_text().split("n\n", 1)
    lines = [f"{line},0.02,{'' if i else 0.01}" for i, line in enumerate(rows.splitlines())]
    # With a byte order mark and line breaks as a spreadsheet writes them.
    text = "\ufeff" + head + "n,first_call_s,p90_s\n" + "\n".join(lines) + "\n"
    table.write_bytes(text.replace("\n", "\r\n").encode())
    times = read_times(table, manifest)
    first, second = (times.rows[manifest.networks[i].name] for i in (0, 1))
    assert (first.first_call_s, first.p90_s, first.p99_s) == (0.02, 0.01, None)
    assert (second.first_call_s, second.p90_s) == (0.02, None)  # never 0


def test_run_py_refuses_a_file_that_is_not_the_kits(kit: Path, tmp_path: Path) -> None:
    shutil.copytree(kit, tmp_path / "kit")
    broken = sorted((tmp_path / "kit").glob("*.onnx"))[2]
    broken.write_bytes(broken.read_bytes()[:-1])
    command = [sys.executable, "-I", kits.RUN, "--rounds", "1"]
    done = subprocess.run(
        command, cwd=tmp_path / "kit", capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0 and not (tmp_path / "kit" / kits.TIMES).exists()
    assert done.stderr == f"{broken.name}: is not as it was written; copy the kit once more\n"


Rows = list[str]


def _cells(cells: str) -> Callable[[Rows], Rows]:
    """Other cells in the line of the second cut network."""
    return lambda rows: [*rows[:5], f"{rows[5].split(',')[0]},{cells}", *rows[6:]]


def _line(at: int, text: str) -> Callable[[Rows], Rows]:
    return lambda rows: [*rows[:at], text, *rows[at + 1 :]]


WRONG: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "truncated": (lambda rows: rows[:-2], r"line 12: the end of the file, expected is network"),
    "cut in a line": (lambda rows: [*rows[:-1], rows[-1][:14]], r"line 13: .* are 5 cells"),
    "reordered": (lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]], r"line 4: network '.*-1?"),
    "a row twice": (lambda rows: [*rows, rows[-1]], r"line 14: .*, expected is the end"),
    "no header": (lambda rows: [*rows[:2], *rows[3:]], r"line 3: .*, expected is the header"),
    "other columns": (_line(2, "network,seconds"), r"line 3: .*expected is the header"),
    "of another kit": (_line(0, "# kit: 0a1b2c"), r"is of kit 0a1b2c, the manifest"),
    "another kit's row": (_line(5, "0a1b2c-002,1,1,1,9"), r"line 6: network '0a1b2c-002'"),
    "two devices": (lambda rows: [*rows[:2], *rows[1:]], r"line 3: .*each key once"),
    "milliseconds": (_cells("5000,4000,6000,9"), r"line 6: .*expected is 0 < q25_s"),
    "negative": (_cells("-1,-1,1,9"), r"line 6: .*expected is 0 < q25_s"),
    "not a number": (_cells("nan,nan,nan,9"), r"line 6: .*expected is 0 < q25_s"),
    "a word": (_cells("fast,1,1,9"), r"line 6: .*numbers in all but the first"),
    "no line break at the end": (lambda rows: [*rows[:-1], rows[-1] + "\r"], r"line 13: the last"),
    "a column twice": (_line(2, "network,seconds,q25_s,q75_s,n,p90_s,p90_s"), r"line 3: .*header"),
    "an unknown column": (_line(2, "network,seconds,q25_s,q75_s,n,ms"), r"line 3: .*the header"),
    "nothing in a line": (_line(7, ""), r"line 8: network '', expected is"),
    "a quote that is left open": (_cells('"1,1,1,9'), r"line 6: .*numbers in all but the first"),
    "a long device": (_line(1, f"# device: {'x' * 5000}"), r"line 2: .*at most 200 printable"),
    "empty": (lambda rows: [], r"line 1: 'the end of the file', expected is the header"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_table_is_refused_by_its_line(what: str, table: Path, manifest: Manifest) -> None:
    damage, message = WRONG[what]
    rows = damage(table.read_text().splitlines())
    table.write_text("".join(f"{row}\n" for row in rows).removesuffix("\r\n"))
    with pytest.raises(ValueError, match=message) as caught:
        read_times(table, manifest)
    assert "\n" not in str(caught.value) and str(table) in str(caught.value)


def test_tables_and_manifests_that_cannot_be_read(
    kit: Path, manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"times: .*none\.csv cannot be read"):
        read_times(tmp_path / "none.csv", manifest)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"times: .*binary\.csv cannot be read"):
        read_times(tmp_path / "binary.csv", manifest)
    with pytest.raises(ValueError, match=r"kit: .*manifest\.json cannot be read"):
        read_manifest(tmp_path)
    content = json.loads((kit / kits.MANIFEST).read_text())
    del content["networks"][1]["structure"]
    (tmp_path / kits.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json: networks\.1\.structure: Field required"):
        read_manifest(tmp_path)


def test_a_folder_with_anything_else_is_refused(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"output: .* is not empty and is not a kit without times"):
        write_kit(tmp_path, NAME, model, SIZE, KWARGS, networks=2, unseen=1, channel_divisor=4)
    assert (tmp_path / "times.csv").read_text() == "mine"


def test_what_a_killed_one_left_is_replaced(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / ".unfinished-manifest.json").mkdir()
    (tmp_path / ".unfinished-manifest.json" / "0a1b2c-001.onnx.tmp").write_text("half")
    made = write_kit(tmp_path, NAME, model, SIZE, KWARGS, networks=2, unseen=1, channel_divisor=4)
    files = {f"{n.name}.onnx" for n in made.networks}
    assert {f.name for f in tmp_path.iterdir()} == files | {kits.RUN, kits.MANIFEST}


class _Odd(nn.Module):
    """An activation that no exporter takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.linalg.eigvals(x.flatten(1)[:, :1, None]).real.sum()


def test_a_model_that_cannot_be_exported_leaves_what_was_there(
    model: nn.Module, tmp_path: Path
) -> None:
    old = write_kit(tmp_path, NAME, model, SIZE, KWARGS, networks=2, unseen=1, channel_divisor=4)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    odd = copy.deepcopy(model)
    odd.layer2[0].act1 = _Odd()
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(ValueError, match=r"because of layer2\.0\.act1 \(_Odd\): "):
            write_kit(folder, NAME, odd, SIZE, KWARGS, networks=3, unseen=1, channel_divisor=4)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before
    assert read_manifest(tmp_path) == old
