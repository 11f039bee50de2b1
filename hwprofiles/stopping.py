"""How a program is asked to stop: Ctrl-C and SIGTERM leave in the same way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_ABORTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class Stopped(BaseException):
    """The program was asked to stop; nothing but cleaning up and a message is left to do.

    Args:
        message: for the person at the terminal.
        code: of the exit, 128 more than the signal's number, as shells have it.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within, SIGTERM raises :class:`Stopped` where the program stands.

    Only in the main thread, and where nobody has said before what SIGTERM shall do.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise Stopped("stopped by SIGTERM", EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
