"""Sphinx: the docstrings are its dialect already (roles and math), so that the reference needs no second copy."""

import re

import graphcorrect

project = "graphcorrect"
copyright = "2026, the graphcorrect developers"
release = version = graphcorrect.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx-mathjax-offline",  # the site asks no other host for anything
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Cost", "notes_style"), ("Shapes", "notes_style")]
# graphcorrect.nodes and the like are documented under their public names only
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "graphcorrect"
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]


def escape_lone_letters(app, what, name, obj, options, lines):
    """`num_classes: C.` describes an argument; to docutils, "C." alone begins a list."""
    lines[:] = [re.sub(r"^(\s+\w+: )([A-Za-z])\.$", r"\1\\\2.", line) for line in lines]


def skip_what_repr_calls(app, what, name, obj, skip, options):
    """`extra_repr` is for torch's `repr`, and not for readers."""
    return True if name == "extra_repr" else None


def setup(app):
    """The letters before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", escape_lone_letters, priority=400)
    app.connect("autodoc-skip-member", skip_what_repr_calls)
