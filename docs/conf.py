"""Builds the documentation: sphinx-build -W docs build/docs, after pip install '.[docs]'."""

import re
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "weightscale_fast"
copyright = "the weightscale_fast developers"
release = metadata.version("weightscale_fast")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "weightscale_fast"

myst_heading_anchors = 3
nb_execution_mode = "off"  # a test runs the notebook; the page shows the outputs that are stored in it

default_role = "literal"  # docstrings write `code` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the Args of a docstring say types and shapes
napoleon_use_ivar = True
napoleon_use_rtype = False

TABLE_ROW = re.compile(r"^\s*\|.*\|\s*$")
OUTSIDE_CODE = re.compile(r"(`[^`]*`)")


def setup(app):
    """Docstrings are Markdown where they hold tables, and Sphinx reads reStructuredText."""
    app.connect("autodoc-process-docstring", translate, priority=100)  # before napoleon


def translate(app, what, name, obj, options, lines):
    """Turn Markdown tables into list-tables, and take the special meaning from bars in the text."""
    done, table = [], []
    for line in [*lines, ""]:
        if TABLE_ROW.match(line):
            table.append(line)
            continue
        if table:
            done += list_table(table)
            table = []
        done.append(line if line.lstrip().startswith((">>>", "...")) else escape_bars(line))
    lines[:] = done


def list_table(rows):
    """A Markdown table as the lines of a list-table."""
    indent = " " * (len(rows[0]) - len(rows[0].lstrip()))
    made = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        made += [f"{indent}   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(cells)]
    return ["", *made, ""]


def escape_bars(line):
    """The line with its bars escaped, but not those in `code`."""
    parts = OUTSIDE_CODE.split(line)
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)
