"""The command line of cpt-nas: a file a group of commands."""

from cpt_nas.cli.app import app, main

__all__ = ["app", "main"]
