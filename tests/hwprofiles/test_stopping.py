"""SIGTERM raises where the program stands, unless somebody has another use for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
import typer

from hwprofiles.stopping import Stopped, sigterm_raises
from hwprofiles.terminal import new_app, run_app


@pytest.fixture
def default() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_raises_and_is_itself_again_afterwards(default: None) -> None:
    with pytest.raises(Stopped) as caught, sigterm_raises():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_ignores_it_goes_on_ignoring_it(default: None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with sigterm_raises():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_threads_leave_signals_alone(default: None) -> None:
    seen = []

    def look() -> None:
        with sigterm_raises():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_says_so(
    default: None, capsys: pytest.CaptureFixture[str], sent: signal.Signals, code: int
) -> None:
    app: typer.Typer = new_app("program", "For a test.", "0")
    app.command("stop")(lambda: signal.raise_signal(sent))
    app.command("other")(lambda: None)
    with pytest.raises(SystemExit) as left:
        run_app(app, ["stop"])
    assert left.value.code == code
    assert "stopped" in capsys.readouterr().err
