"""The pages under docs/, built by `make docs`: offline, and a warning is a fault."""

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))

import hwprofiles

project = "cpt-nas"
author = "The cpt-nas maintainers"
release = hwprofiles.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"cpt-nas {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_use_ivar = True

# Every cross-reference must lead somewhere. The build has no network, so those that lead out of
# this project are named here; the fields of a profile have a page of their own.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|pandas|pathlib|collections\.abc)\..*"),
    ("py:class", "Tensor"),
    ("py:class", r"hwprofiles\.schema(_\w+)?\..*"),
    ("py:class", r"hwprofiles\.device\.Fingerprint"),
    # Types that the public ones are made of, and that nobody makes by hand.
    ("py:class", r"hwprofiles\.timing\.Rounds"),
    ("py:class", r"hwprofiles\.operations\..*"),
    ("py:class", r"cpt_nas\.costs\.cost_model\.CostModel"),
    ("py:class", r"cpt_nas\.gates\.gated_model\.HasModule"),
    ("py:class", r"cpt_nas\.pruning\.structure\.BranchStructure"),
    ("py:class", r"(cpt_nas\.search\.settings\.)?SearchSettings"),
    ("py:class", r"cpt_nas\.search\.law\.Law"),
    ("py:func", r"cpt_nas\.search\.records\..*"),
]


def without_fields(
    _app: Any, what: str, _name: str, item: Any, _options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Models that are read from files are not called: their fields are listed, no signature is."""
    if what == "class" and issubclass(item, BaseModel):
        return "", ""
    return None


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", without_fields)
