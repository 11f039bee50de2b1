"""The file format: round trips, look-ups, and what is refused."""

from __future__ import annotations

import errno
import html
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hwprofiles import MissingLayers, Profile, ProfileError, trace, trust
from hwprofiles.layer_table import COEFFICIENTS
from hwprofiles.profile_file import SHIPPED, json_schema, load, parse, save

Content = dict[str, Any]


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
