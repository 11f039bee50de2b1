"""A profile that is damaged, edited or impossible is refused in one line, or says the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwprofiles import Profile, ProfileError
from hwprofiles.layer_table import COEFFICIENTS
from hwprofiles.profile_file import load, parse, save, seal
from hwprofiles.yaml_file import dump_yaml

Content = dict[str, Any]


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
