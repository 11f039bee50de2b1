"""Where text goes: streams that outlive their reader, and consoles that print text as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from hwprofiles.messages import escaped

WIDE = 200  # columns: tables that are written to a file or a pipe may be wide


class PlainConsole(Console):
    """Prints names and messages as they are: nothing in them is markup, an emoji or a colour."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"markup": False, "emoji": False, "highlight": False} | options))

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)


def output_console() -> PlainConsole:
    """Of stdout."""
    seen = sys.stdout is not None and sys.stdout.isatty()
    return PlainConsole(width=None if seen else WIDE)


class LastingStream:
    """A stream whose reader may leave, as ``head`` does: what comes after is dropped.

    The work goes on, for what a command prints is rarely all that it does.

    Args:
        stream: of text.
        name: in errors.
        vital: whether a disk that is full is an error; progress may be lost.
    """

    def __init__(self, stream: TextIO, name: str, vital: bool) -> None:
        self._stream, self._name, self._vital = stream, name, vital

    def write(self, text: str) -> int:
        with self._lasting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._drop()
            if self._vital and not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, self._name) from None

    def _drop(self) -> None:
        """What the stream still holds, and all that comes, goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """stdout and stderr that can be written to whatever becomes of them.

    A closed one goes nowhere; one without a reader is dropped; a character that the terminal's
    encoding does not have is written as an escape.
    """
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    for name, stream in zip(("stdout", "stderr"), before):
        opened = stream or open(os.devnull, "w")  # noqa: SIM115, for as long as the process
        if hasattr(opened, "reconfigure"):
            opened.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast(TextIO, LastingStream(opened, name, vital=name == "stdout")))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _fill_descriptors() -> None:
    """Where 0, 1 or 2 is closed, the next file that is opened would get what C code prints."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
