"""Messages: one line of at most 300 characters that a terminal only shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.messages import MOST_CHARACTERS, escaped, naming, one_line


@given(st.text(st.characters(), max_size=2000))
def test_any_message_is_one_short_printable_line(text: str) -> None:
    line = one_line(ValueError(text))
    assert 0 < len(line) <= MOST_CHARACTERS
    assert line.isprintable()
    line.encode()  # a surrogate, as undecodable file names have, could not be written


def test_of_a_long_message_beginning_and_end_are_told() -> None:
    line = one_line(f"field: {'x' * 6000}, allowed is y")
    assert line.startswith("field: xxx") and line.endswith("xxx, allowed is y")
    assert " [...] " in line


def test_what_acts_on_a_terminal_is_shown() -> None:
    assert escaped("a\x1b[31mb\udcff\u202e\n") == "a\\x1b[31mb\\udcff\\u202e\n"
    assert escaped("größe γ") == "größe γ"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), "x.yaml: No such file or"),
        (ValueError("two\nlines"), "two lines"),
        (KeyError("macs"), "no 'macs'"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_errors_in_words(error: Exception, line: str) -> None:
    assert one_line(error).startswith(line)


@pytest.mark.parametrize("error", [TypeError("bad"), ZeroDivisionError("bad"), KeyError("bad")])
def test_a_librarys_error_becomes_one_that_names_the_field(error: Exception) -> None:
    message = rf"^train.opt: 'x': {type(error).__name__}: .*bad"
    with pytest.raises(ValueError, match=message), naming("train.opt: 'x'"):
        raise error
    with pytest.raises(ValueError, match=r"^train.opt: bad$"), naming("train.opt"):
        raise ValueError("bad")
    with pytest.raises(KeyboardInterrupt), naming("train.opt"):
        raise KeyboardInterrupt
