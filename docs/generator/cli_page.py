"""cli.md: what every command prints for --help."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from cpt_nas.cli import app
from hwprofiles.cli import app as profiles_app

EXIT_CODES = (
    "A mistake is one line on stderr, which names the field, the value and what is allowed, and "
    "exit code 2; nothing has been written then. Exit code 1 is an answer of `hwprofiles check`: "
    "it differs. 130 and 143 are Ctrl-C and SIGTERM. 70 is a bug: the line names a file with the "
    "traceback to report. Where nobody reads what a command prints, as after `| head`, its work "
    "goes on.\n"
)


def cli_page() -> str:
    """--help of every command, as it is printed at 90 characters."""
    parts = ["# Commands\n", "Generated from `--help` by `python docs/generate.py`.\n", EXIT_CODES]
    for name, application in (("hwprofiles", profiles_app), ("cpt-nas", app)):
        parts.append(f"## {name}\n")
        parts.append(help_text(name, application, []))
        for command in application.registered_commands:
            callback = command.callback
            assert callback is not None
            word = command.name or callback.__name__.replace("_", "-")
            parts += [f"### {name} {word}\n", help_text(name, application, [word])]
    return "\n".join(parts)


def help_text(name: str, application: Any, words: list[str]) -> str:
    environment = {"TERMINAL_WIDTH": "90", "COLUMNS": "90", "NO_COLOR": "1"}
    runner = CliRunner(env=environment)
    result = runner.invoke(application, [*words, "--help"], prog_name=name)
    lines = [line.rstrip() for line in result.output.strip("\n").splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"
