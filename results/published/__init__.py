"""The printed numbers of the papers, with provenance, and their training curves where somebody left them.

`load()` gives all of them, `value` one, `cells` a choice, `disagreements` every printed value of a cell and how they differ.
See README.md beside this file for the columns and for adding a table of your own.
"""

from results.published.curves import curves
from results.published.evidence import disagreements, format_cell
from results.published.reader import add_folder, cells, errata, errata_of, load, papers, tables, value
from results.published.schema import COLUMNS, PublishedError, PublishedNumber
from results.published.validate import validate

__all__ = [
    "COLUMNS",
    "PublishedError",
    "PublishedNumber",
    "add_folder",
    "cells",
    "curves",
    "disagreements",
    "errata",
    "errata_of",
    "format_cell",
    "load",
    "papers",
    "tables",
    "validate",
    "value",
]
