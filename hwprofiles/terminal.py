"""What the command lines of both packages share: the application, errors, progress."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hwprofiles._version import __version__
from hwprofiles.messages import MOST_CHARACTERS, one_line
from hwprofiles.stopping import EXIT_ABORTED, Stopped, sigterm_raises
from hwprofiles.streams import PlainConsole, lasting_streams, output_console

console = output_console()

EXIT_DIFFERENT = 1
EXIT_USER_ERROR = 2
EXIT_BUG = 70  # as sysexits.h has it; 1 is an answer of `hwprofiles check`

ERROR = "error: "
WARNING = "warning: "

PLAIN_EVERY_S = 10.0  # between two plain lines of progress

Report = Callable[[str, int, int], None]
"""(stage, done, total)"""

# The base of typer's own errors; the module that holds it has moved between typer's versions.
_UsageError: type[Exception] = next(
    c
    for c in typer.BadParameter.__mro__
    if issubclass(c, Exception) and c.__name__ == "ClickException"
)


def new_app(name: str, about: str, version: str) -> typer.Typer:
    """A typer application without commands yet, with --version; all of ours are made here.

    Args:
        name: of the program.
        about: one line of help.
        version: what --version prints beside the name.
    """

    def show_version(wanted: bool) -> None:
        if wanted:
            print(f"{name} {version}")
            raise typer.Exit

    app = typer.Typer(
        name=name,
        help=about,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    # As a default and not as an annotation, which is resolved outside this function.
    wanted = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Show the version."
    )

    @app.callback(help=about)
    def options(version: bool = wanted) -> None:
        pass

    return app


def run_app(
    application: typer.Typer,
    args: Sequence[str] | None = None,
    extras: Mapping[str, str] | None = None,
) -> NoReturn:
    """Run a typer application and exit; an error is one line on stderr, never a traceback.

    A user's mistake has exit code 2. Whatever nobody has foreseen is a bug: its traceback goes to a
    file, which the line names, and the exit code is 70.

    Args:
        application: whose commands raise ValueError or OSError for mistakes.
        args: default is the command line; none at all shows the help.
        extras: optional library -> the command that brings it.
    """
    given = list(sys.argv[1:] if args is None else args)
    with lasting_streams(), _warnings_in_one_line():
        code = _exit_code(application, given, extras or {})
    raise SystemExit(code)


def _exit_code(application: typer.Typer, args: list[str], extras: Mapping[str, str]) -> int:
    try:
        with sigterm_raises():
            code = application(args=args or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in extras:
            return _report_bug(application, args, error)
        return _refuse(missing_extra(error, extras))
    except (OSError, _UsageError) as error:
        return _refuse(error)
    except ValueError as error:
        if _is_of(application, error):
            return _refuse(error)
        return _report_bug(application, args, error)
    except typer.Abort:
        code = EXIT_ABORTED
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code
    except Exception as error:
        if _is_out_of_memory(error):
            return _refuse(f"out of memory: {one_line(error)}")
        return _report_bug(application, args, error)
    if code == EXIT_ABORTED:  # Ctrl-C: some versions of typer raise, some return
        print("stopped", file=sys.stderr)
    return code if isinstance(code, int) else 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Without the line of code that warns, which says nothing to whoever runs a command."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"{WARNING}{one_line(str(message), MOST_CHARACTERS - len(WARNING))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _refuse(error: BaseException | str) -> int:
    message = one_line(error, MOST_CHARACTERS - len(ERROR))
    print(f"{ERROR}{message}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR


def _is_of(application: typer.Typer, error: ValueError) -> bool:
    """Whether the command's own package, or this one, has raised an error.

    One of another library names no field that a user has set: nobody has foreseen it.
    """
    commands = [command.callback for command in application.registered_commands]
    own = {__name__, *(command.__module__ for command in commands if command is not None)}
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    raised_in = str(frame.f_globals.get("__name__", ""))
    return raised_in.partition(".")[0] in {name.partition(".")[0] for name in own}


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory was refused, by Python, by CUDA or by PyTorch's allocator on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _report_bug(application: typer.Typer, args: list[str], error: Exception) -> int:
    """Write the traceback to a file, and say where."""
    name = application.info.name or Path(sys.argv[0]).name
    said = f"{type(error).__name__}: {one_line(error)}"
    trace = "".join(traceback.format_exception(error))
    text = (
        f"{name} {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{shlex.join([name, *args])}\n\n{trace}"
    )
    try:
        handle, path = tempfile.mkstemp(prefix=f"{name}-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        where = f"with {path}"
    except OSError as refused:
        where = f"(no traceback could be written: {refused.strerror})"
    begin = f"{ERROR}a bug in {name}, please report it {where}: "
    print(begin + one_line(said, max(40, MOST_CHARACTERS - len(begin))), file=sys.stderr)
    return EXIT_BUG


def missing_extra(error: ModuleNotFoundError, extras: Mapping[str, str]) -> str:
    """What to install, in words.

    Raises:
        ModuleNotFoundError: the same, where it is not one of ``extras`` that is missing.
    """
    library = (error.name or "").partition(".")[0]
    if library not in extras:
        raise error
    return f"{library} is not installed; {extras[library]} brings it"


class PlainProgress:
    """Progress as plain lines, for a pipe or a file: a line at a stage's end and every so often.

    Args:
        write: of a line.
        every_s: seconds between two lines of a stage.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        every_s: float = PLAIN_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write, self.every_s, self.clock = write, every_s, clock
        self._last: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._ended: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self.clock()
        if done < self._done.get(stage, 0):  # the stage begins once more
            self._ended.discard(stage)
            self._last[stage] = now
        self._done[stage] = done
        last = self._last.setdefault(stage, now)
        ends = done >= total and stage not in self._ended
        if ends or now - last >= self.every_s:
            self._last[stage] = now
            self.write(f"{stage}: {done} of {total}")
        if ends:
            self._ended.add(stage)


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Report]:
    """Yields the ``progress`` callback (stage, done, total).

    In a terminal, and in a notebook with ipywidgets, it draws one bar a stage; elsewhere, as in a
    pipe, it prints plain lines.

    Args:
        console: default is stderr.
    """
    console = console or PlainConsole(stderr=True)
    widgets = console.is_jupyter and find_spec("ipywidgets") is not None
    if not (console.is_interactive or widgets):
        yield PlainProgress(partial(console.print, markup=False, highlight=False, soft_wrap=True))
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bars = Progress(*columns, console=console)
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            bars.start()
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()
