"""What a user is told of an error: one line of bounded length, which a terminal only shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MOST_CHARACTERS = 300
LEFT_OUT = " [...] "


def escaped(text: str) -> str:
    """Text with what cannot be printed, line breaks apart, as an escape such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def one_line(error: BaseException | str, most: int = MOST_CHARACTERS) -> str:
    """The message of an error in one line; of a long one the beginning and the end.

    Args:
        error: an exception, or the message itself.
        most: characters.
    """
    text = error if isinstance(error, str) else _message(error)
    text = escaped(" ".join(text.split()))
    if not text:
        return type(error).__name__
    if len(text) <= most:
        return text
    end = (most - len(LEFT_OUT)) // 3  # what is allowed often stands at the end
    return text[: most - end - len(LEFT_OUT)] + LEFT_OUT + text[-end:]


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyError) and error.args:  # its text is the key's repr
        return f"no {error.args[0]!r}"
    # typer's own errors name the option in format_message only.
    return str(getattr(error, "format_message", error.__str__)())


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Around a library that is given a user's value: its errors become one that names the field.

    Args:
        field: and the value, such as "train.opt: 'adam'".

    Raises:
        ValueError: whatever the library raised.
    """
    try:
        yield
    except Exception as error:
        reason = one_line(error)
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        raise ValueError(f"{field}: {kind}{reason}") from error
