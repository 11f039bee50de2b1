"""The pages under docs/, built by `make docs`: offline, and a warning is a fault."""

import sys
from pathlib import Path

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
