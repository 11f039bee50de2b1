"""What users hand in as YAML: plain data within limits, or one line that says what it is not."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles import yaml_file
from hwprofiles.yaml_file import YamlError, dump_yaml, parse_yaml, read_yaml

text = st.text(st.characters(codec="utf-8"))
# Texts that look like something else.
looks = st.sampled_from(["1e-3", "2020-01-01", "0x_", "<<", "=", "no", "null", "1_0", "~", "*a"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | looks
data = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(text | looks | st.integers(), inner),
    max_leaves=20,
)


@given(data)
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_back_equal(content: Any) -> None:
    assert parse_yaml(dump_yaml(content)) == content
    assert parse_yaml(dump_yaml([content, content])) == [content, content]


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%,? \n\t01e.<=~"), max_size=60) | text)
@settings(max_examples=200, deadline=None)
def test_any_text_is_data_or_one_line(content: str) -> None:
    try:
        parse_yaml(content)
    except YamlError as error:
        assert "\n" not in str(error) and len(str(error)) < 200


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("1e-3", 1e-3),
        ("-2E+4", -2e4),
        ("1.e3", 1e3),
        ("1.5", 1.5),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-01", "2020-01-01"),
        ("'1e-3'", "1e-3"),
        ("a: =", {"a": "="}),
        ("", None),
    ],
)
def test_what_a_text_stands_for(content: str, value: Any) -> None:
    assert parse_yaml(content) == value and type(parse_yaml(content)) is type(value)
    assert math.isinf(parse_yaml(".inf"))


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("{x: {1: 2, 1: 3}}", "line 1: the key 1 stands twice"),
        ("<<: {a: 1}\n<<: {b: 1}", "line 2: the key '<<' stands twice"),
        (f"? {'k' * 5000}\n: 1\n? {'k' * 5000}\n: 2", "line 3: the key 'kkk"),
        (BOMB, "line 2: an alias is not allowed"),
        ("a: &a [*a]", "line 1: an alias is not allowed"),
        ("[" * 25, "line 1: is deeper than 20 levels"),
        ("[" * 100_000, "line 1"),
        ("{a: " * 100_000, "line 1"),
        ("- " * 5_000, "line 1: is deeper than 20 levels"),
        ("".join(f"{' ' * i}a:\n" for i in range(500)), "is deeper than 20 levels"),
        ("? [1]\n: 2", "line 1: a key must be a name or a number"),
        ("!!python/object/apply:os.getcwd []", "line 1: the tag 'tag:yaml.org,2002:python"),
        ("a: !!int b", "line 1: the tag"),
        ("a: !!set {b}", "line 1: the tag"),
        ("a:\n  b: 0x_", "line 2: '0x_' is not a number"),
        ("9" * 5000, "line 1: '999"),
        ("a: [1", "is not YAML, line "),
        ("a\x00", "is not YAML"),
        ("--- 1\n--- 2", "is not YAML, line 2"),
    ],
)
def test_what_is_refused(content: str, message: str) -> None:
    begin = time.process_time()
    with pytest.raises(YamlError) as caught:
        parse_yaml(content)
    assert message in str(caught.value) and len(str(caught.value)) < 200
    assert time.process_time() - begin < 2


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: ä", encoding="utf-8")
    assert read_yaml(path) == {"a": "ä"}
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(YamlError, match="is not a text file"):
        read_yaml(path)
    monkeypatch.setattr(yaml_file, "MAX_BYTES", 2**20)
    monkeypatch.setattr(yaml, "load", lambda *a, **k: pytest.fail("built before it was bounded"))
    with path.open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(YamlError, match="is longer than the 1 MiB"):
        read_yaml(path)
    with pytest.raises(YamlError, match="is longer than the 1 MiB"):
        parse_yaml("a" * (2**20 + 1))
