"""The commands of cpt-nas, a module of this package a group."""

from __future__ import annotations

from cpt_nas.cli.export import export
from cpt_nas.cli.inspect import inspect
from cpt_nas.cli.kit import kit
from cpt_nas.cli.options import EXTRAS
from cpt_nas.cli.profile import profile, validate_profile
from cpt_nas.cli.report import demo, report
from cpt_nas.cli.train import retrain, train
from hwprofiles._version import __version__
from hwprofiles.terminal import new_app, run_app

app = new_app(
    "cpt-nas", "Structure discovery for timm models that listens to the hardware.", __version__
)
for command in (train, retrain, inspect, export, report, demo, profile, validate_profile, kit):
    app.command()(command)


def main() -> None:
    """Console entry point: a user's mistake is one line on stderr and exit code 2."""
    run_app(app, extras=EXTRAS)
