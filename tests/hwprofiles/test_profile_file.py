"""The file format: round trips, look-ups, and what is refused."""

from __future__ import annotations

import copy
import errno
import html
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hwprofiles import MissingLayers, Profile, ProfileError, trace, trust
from hwprofiles.layer_table import COEFFICIENTS
from hwprofiles.profile_file import SHIPPED, json_schema, load, parse, save, seal
from hwprofiles.yaml_file import dump_yaml

Content = dict[str, Any]


@pytest.fixture
def content(tiny_profile: Profile) -> Content:
    return copy.deepcopy(tiny_profile.model_dump(mode="json", by_alias=True))


def test_round_trip(tiny_profile: Profile, tmp_path: Path) -> None:
    save(tiny_profile, tmp_path / "deep" / "p.yaml")
    assert load(tmp_path / "deep" / "p.yaml") == tiny_profile
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["p.yaml"]


seconds = st.floats(0, 1e6)
shares = st.floats(0, 1)
text = st.text(st.characters(codec="utf-8"), max_size=100)
name = st.text(min_size=1, max_size=100).filter(str.isprintable)


@given(
    name=name,
    command=text,
    scale=st.floats(0.5, 2),
    offset=seconds,
    coefficients=st.lists(seconds, min_size=4, max_size=4),
    kappa=st.floats(0, 1000),
    drift=st.floats(-1, 1e6),
    share=shares,
    seed=st.integers(-(2**63), 2**64 - 1),
    signature=text.filter(bool),
)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_values_survive_yaml(
    tiny_profile: Profile,
    tmp_path: Path,
    name: str,
    command: str,
    scale: float,
    offset: float,
    coefficients: list[float],
    kappa: float,
    drift: float,
    share: float,
    seed: int,
    signature: str,
) -> None:
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    content["name"] = name
    content["created"] |= {"command": command, "seed": seed}
    content["cost_model"]["calibration"] |= {"scale": scale, "left_out_error": offset}
    content["cost_model"]["calibration"]["drift"] = drift
    content["protocol"]["contention"] = coefficients[2]
    content["weights"] |= {"kappa": kappa, "alpha": share}
    fields = ("const_s", "per_in_s", "per_out_s", "per_in_out_s")
    content["layers"][0]["alone"]["coefficients"] = dict(zip(fields, coefficients, strict=True))
    content["layers"][0]["signature"] = signature
    profile = parse(content)
    save(profile, tmp_path / "p.yaml")
    assert load(tmp_path / "p.yaml") == profile


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def put(path: str, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key) if key.isdigit() else key]
        content[last] = value

    return change


def drop(path: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        *parents, last = path.split(".")
        for key in parents:
            content = content[key]
        del content[last]

    return change


def list_a_layer_twice(content: Content) -> None:
    content["layers"].append(content["layers"][0])


FREE = dict.fromkeys(COEFFICIENTS, 0.0)


def cost_nothing(content: Content) -> None:
    for layer in content["layers"]:
        layer["alone"]["coefficients"] = dict(FREE)


FAULTS: list[tuple[Callable[[Content], None], str]] = [
    (put("nonsense", 1), "nonsense"),
    (put("workload.colour", "red"), "workload.colour"),
    (put("schema.version", "1.2"), "schema.version ('1.2'): this program reads version 2.0"),
    (put("schema.name", "other"), "schema.name"),
    (put("weights.kappa", float("nan")), "weights.kappa (nan)"),
    (put("weights.kappa", float("inf")), "weights.kappa (inf)"),
    (put("weights.alpha", 1.5), "weights.alpha (1.5)"),
    (put("weights.seconds_per_mac", -1e-12), "weights.seconds_per_mac"),
    (put("layers.0.alone.coefficients.const_s", -1e-9), "layers.0.alone.coefficients.const_s"),
    (put("layers.0.alone.dense.median_s", -1.0), "layers.0.alone.dense.median_s"),
    (put("layers.0.alone.dense.q75_s", 1e-12), "quartiles must enclose the median"),
    (put("layers.0.form", "cubic"), "layers.0.form ('cubic')"),
    (put("layers", []), "layers"),
    (list_a_layer_twice, "is listed twice"),
    (put("units.time", "ms"), "units.time ('ms')"),
    (drop("units.memory"), "units.memory: field required"),
    (drop("weights"), "weights: field required"),
    (put("workload.batch_size", 0), "workload.batch_size (0)"),
    (put("workload.batch_size", "8"), "workload.batch_size ('8')"),
    (put("workload.models", ["other"]), "dense: holds ['tiny'], workload.models ['other']"),
    (put("workload.input_size", [3, 8]), "workload.input_size"),
    (put("cost_model.calibration.scale", 0.0), "cost_model.calibration.scale (0.0)"),
    (put("cost_model.calibration.scale", None), "layers have no cost, alone or in networks"),
    (put("layers.0.alone", None), "layers have no cost, alone or in networks"),
    (put("cost_model.calibration.layers", {"conv": FREE}), "layers: not the signatures of layers"),
    (put("cost_model.calibration.left_out_p95", -1e-9), "calibration.left_out_p95"),
    (put("protocol.contention", -0.1), "protocol.contention (-0.1)"),
    (put("validation", [{"model": "tiny"}]), "validation.0.utc: field required"),
    (put("fingerprint.id", "../../etc"), "fingerprint.id"),
    (put("protocol.verdict", "great"), "protocol.verdict ('great')"),
    (put("layers.0.alone.dense.median_s", 1e300), "layers.0.alone.dense.median_s"),
    (put("layers.0.alone.coefficients.per_in_s", 1e300), "alone.coefficients.per_in_s"),
    (put("layers.0.count.tiny", 2**63), "layers.0.count.tiny (9223372036854775808)"),
    (cost_nothing, "layers: all of them cost nothing"),
    (put("layers.0.count.other", 1), "layers: count names ['other'], not in workload.models"),
    (put("layers.0.fit_range.in_channels", [3, 2]), "layers.0.fit_range: 3 .. 2 must not fall"),
    (put("dense.tiny.memory.parameter_bytes", 2**70), "dense.tiny.memory.parameter_bytes"),
    (put("cost_model.calibration.unknowns", -1), "cost_model.calibration.unknowns (-1)"),
    (put("created.seed", 10**4000), "created.seed (1000"),
    (put("name", "a\nb"), "name ('a\\nb'): must be printable characters in one line"),
    (put("created.tool_version", "x" * 6000), "created.tool_version ('xxx"),
    (put("x" * 6000, 1), "xxx"),
    (put("fingerprint.host.cores", 10**9), "fingerprint.host.cores (1000000000)"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_a_malformed_profile_gives_one_clear_line(
    content: Content, tmp_path: Path, change: Callable[[Content], None], message: str
) -> None:
    change(content)
    path = tmp_path / "p.yaml"
    path.write_text(dump_yaml(content))
    with pytest.raises(ProfileError) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line
    assert len(line) - len(str(path)) < 280


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not YAML, line"),
        ("- 1", "holds list, a profile is a mapping"),
        ("", "holds NoneType"),
        ("!!python/object/apply:os.getcwd []", "line 1: the tag .* is not allowed"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="is not a text file"):
        load(path)


def test_several_faults_are_named_at_once(content: Content) -> None:
    for key in ("kappa", "alpha", "share_macs", "share_params"):
        content["weights"][key] = -1.0
    with pytest.raises(ProfileError, match=r"kappa.*alpha.*; and 1 more"):
        parse(content)


def places(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to every value in plain data."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


numbers = st.sampled_from([-1, 0, 2**63, 10**4000, -0.0, 1e300, 5e-324, math.nan, math.inf])
texts = st.sampled_from(["", "x" * 6000, "a\nb", "\ud800", "1e-3", b"x"])
others = st.sampled_from([None, True, [], {}, [[[]]], {"a": 1}, {1: 2}, (1, 2)])


@given(st.floats(0, 1, exclude_max=True), numbers | texts | others)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_anywhere_is_refused_in_one_line_or_can_be_saved(
    tiny_profile: Profile, tmp_path: Path, where: float, value: Any
) -> None:
    content = tiny_profile.model_dump(mode="json", by_alias=True)
    paths = list(places(content))
    *parents, last = paths[int(where * len(paths))]
    inner: Any = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    try:
        profile = parse(content)
    except ProfileError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    save(profile, tmp_path / "p.yaml")
    assert load(tmp_path / "p.yaml") == profile


@pytest.fixture(scope="module")
def written(tiny_profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("written") / "p.yaml"
    save(tiny_profile, path)
    return path.read_text(encoding="utf-8")


# (where in the file 0..1, how many characters go, what comes in their place)
damage = st.tuples(
    st.floats(0, 1),
    st.sampled_from([0, 1, 2, 30, 10**6]),
    st.sampled_from(["", "0", "9", "e9", "-", ": ", "\n", "  ", "x", "#", "&", "\x00", "é"]),
)


@given(st.lists(damage, min_size=1, max_size=3))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_file_is_refused_in_one_line_or_says_the_same(
    written: str, tiny_profile: Profile, tmp_path: Path, damages: list[tuple[float, int, str]]
) -> None:
    found = written
    for share, gone, instead in damages:
        at = round(share * len(found))
        found = found[:at] + instead + found[at + gone :]
    refused_or_equal(found, tiny_profile, tmp_path / "p.yaml")


def test_a_file_cut_after_any_line_or_without_any_is_refused_or_equal(
    written: str, tiny_profile: Profile, tmp_path: Path
) -> None:
    lines = written.splitlines(keepends=True)
    for i in range(0, len(lines), 23):
        refused_or_equal("".join(lines[:i]), tiny_profile, tmp_path / "p.yaml")
        refused_or_equal("".join([*lines[:i], *lines[i + 1 :]]), tiny_profile, tmp_path / "p.yaml")
        twice = [*lines[: i + 1], *lines[i:]]
        refused_or_equal("".join(twice), tiny_profile, tmp_path / "p.yaml")


def refused_or_equal(content: str, profile: Profile, path: Path) -> None:
    path.write_text(content, encoding="utf-8")
    try:
        assert load(path) == profile
    except ProfileError as error:
        assert "\n" not in str(error) and len(str(error)) - len(str(path)) < 300


def test_an_edited_profile_is_refused_until_it_is_sealed(written: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(written.replace("  in_channels: 16\n", "  in_channels: 12\n", 1))
    with pytest.raises(ProfileError, match="is not as it was measured: cut, damaged or edited"):
        load(path)
    path.write_text(written.replace("name: cpu-t1-b1", "name: mine", 1))
    with pytest.raises(ProfileError, match=rf"use an edited profile: hwprofiles seal {path}$"):
        load(path)
    assert seal(path) == load(path) and load(path).name == "mine"
    assert load(path).created.edited and "it was edited by hand" in load(path).doubts()
    sealed = path.read_text()
    seal(path)
    assert path.read_text() == sealed


def test_what_was_not_edited_stays_as_measured(written: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"# from the workshop\n{written}")
    assert not seal(path).created.edited and path.read_text().startswith("# from the workshop")


def test_layers_that_do_not_sum_to_the_network_are_no_profile(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content["dense"]["tiny"]["explained"] = 1.0
    content["cost_model"]["calibration"]["scale"] = 60.0
    strange = parse(content)
    monkeypatch.setattr(trust, "POSSIBLE", (0.5, 2.0))
    for use in (lambda: parse(content), lambda: save(strange, tmp_path / "p.yaml")):
        with pytest.raises(ProfileError, match=r"networks take 60 times the sum of their layers"):
            use()
    content["cost_model"]["calibration"]["scale"] = 1.0
    content["dense"]["tiny"]["explained"] = 0.017
    with pytest.raises(ProfileError, match=r"layers of tiny sum to 0.017 of the network's time"):
        parse(content)
    content["dense"]["tiny"] |= {"explained": 1.0, "calibrated_error": -0.9}
    with pytest.raises(ProfileError, match=r"it predicts 0.1 times what tiny took"):
        parse(content)
    assert not list(tmp_path.iterdir())


def test_no_such_profile() -> None:
    with pytest.raises(FileNotFoundError, match="no file absent, shipped profiles: "):
        load("absent")


def test_shipped_profiles_load_by_name(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwprofiles.profile_file.SHIPPED", tmp_path)
    save(tiny_profile, tmp_path / "some-device.yaml")
    assert load("some-device") == tiny_profile


COMMITTED = [
    *SHIPPED.glob("*.yaml"),
    *(Path(__file__).parents[2] / "docs" / "results" / "hardware").glob("*.yaml"),
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_profiles_are_as_they_were_measured(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "POSSIBLE", (0.5, 2.0))
    assert not load(path).created.edited


def test_a_failed_write_leaves_the_old_file(
    tiny_profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        save(tiny_profile, path)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_costs_and_what_is_missing(tiny_profile: Profile, tiny: nn.Module) -> None:
    specs = trace(tiny, torch.rand(1, 3, 8, 8))
    assert tiny_profile.missing(specs) == []
    total = sum(tiny_profile.cost(s.signature).at(s.in_channels, s.out_channels) for s in specs)
    alone = tiny_profile.dense["tiny"].sum_of_layers_s
    scale = tiny_profile.calibration.scale
    assert alone is not None and scale is not None and total == pytest.approx(scale * alone)
    others = trace(nn.Conv2d(3, 5, 1), torch.rand(1, 3, 8, 8))
    assert tiny_profile.missing(others * 2) == [others[0].signature]
    with pytest.raises(MissingLayers) as caught:
        tiny_profile.cost(others[0].signature)
    assert caught.value.signatures == [others[0].signature]
    assert "hwprofiles measure MODEL --input-size 3 8 8 --batch-size 1" in str(caught.value)
    with pytest.raises(MissingLayers):
        tiny_profile.predict_s([*specs, *others])


def test_the_dense_network_is_predicted_as_measured(tiny_profile: Profile, tiny: nn.Module) -> None:
    specs = trace(tiny, torch.rand(1, 3, 8, 8))
    dense = tiny_profile.dense["tiny"]
    assert tiny_profile.predict_s(specs) == pytest.approx(dense.median_s)
    assert dense.calibrated_error == pytest.approx(0, abs=1e-9)


def test_widths_outside_the_measured_range_are_refused(tiny_profile: Profile) -> None:
    layer = next(x for x in tiny_profile.layers if x.signature.startswith("conv2d(16->16"))
    low, high = layer.fit_range.in_channels
    assert high == 16 and low < high
    assert tiny_profile.latency_s(layer.signature, low, 16) > 0
    for field, widths in (("in_channels", (17, 16)), ("out_channels", (16, 1000))):
        with pytest.raises(ProfileError, match=rf"{field}: \d+ of conv2d.* allowed is"):
            tiny_profile.latency_s(layer.signature, *widths)


def test_check_lists_the_differences(tiny_profile: Profile, content: Content) -> None:
    assert tiny_profile.check() == []
    content["fingerprint"]["device"]["name"] = "abacus"
    content["fingerprint"]["software"]["torch"] = "0.1"
    found = parse(content).check()
    assert [d.field for d in found] == ["device.name", "software.torch"]
    assert found[0].profile_value == "abacus"
    assert found[1].here == str(torch.__version__)


def test_json_schema_describes_the_file(content: Content) -> None:
    schema = json_schema()
    json.dumps(schema)
    assert set(schema["required"]) <= {*content, "checksum"} == set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_a_profile_says_in_three_lines_what_it_is(tiny_profile: Profile) -> None:
    lines = repr(tiny_profile).split("\n")
    assert len(lines) == 3 and max(map(len, lines)) < 200
    assert tiny_profile.name in lines[0] and tiny_profile.fingerprint_id in lines[0]
    assert f"{len(tiny_profile.layers)} layers" in lines[2]
    assert str(tiny_profile) == repr(tiny_profile)


def test_a_profile_as_a_table(tiny_profile: Profile) -> None:
    table = tiny_profile.to_frame()
    assert list(table["signature"]) == [layer.signature for layer in tiny_profile.layers]
    assert table["dense_s"].tolist() == [
        x.alone.dense.median_s for x in tiny_profile.layers if x.alone is not None
    ]
    assert (table["q25_s"] <= table["q75_s"]).all() and table.notna().all(axis=None)
    first, row = tiny_profile.layers[0], table.iloc[0]
    assert (row["type"], row["runs"], row["macs"]) == (first.type, 1, first.macs)
    assert (row["params"], row["activation_bytes"]) == (first.params, first.activation_bytes)
    assert row["spread"] == (row["q75_s"] - row["q25_s"]) / row["dense_s"]
    assert first.alone is not None and row["fit_error"] == first.alone.fit_error
    c = tiny_profile.cost(first.signature)
    assert [row[n] for n in COEFFICIENTS] == [c.const, c.per_in, c.per_out, c.per_in_out]


def test_a_page_of_a_profile_is_escaped(tiny_profile: Profile) -> None:
    renamed = tiny_profile.model_copy(update={"name": "<b>"})
    page = renamed._repr_html_()
    for profile in (tiny_profile, load("resnet18-onnxruntime")):
        page_of = profile._repr_html_()
        assert all(html.escape(layer.signature) in page_of for layer in profile.layers)
    assert "<table" in page and "<b>" not in page and "&lt;b&gt;" in page
