"""The printed numbers of the papers, with provenance, and their training curves where somebody left them.

`load()` gives all of them, `value` one, `cells` a choice, `disagreements` every printed value of a cell and how they differ.
See README.md beside this file for the columns and for adding a table of your own.
"""

from results.published.curves import curves
from results.published.reader import (
    COLUMNS,
    PublishedError,
    PublishedNumber,
    cells,
    disagreements,
    errata,
    format_cell,
    load,
    papers,
    tables,
    value,
)
from results.published.validate import validate

__all__ = [
    "COLUMNS",
    "PublishedError",
    "PublishedNumber",
    "cells",
    "curves",
    "disagreements",
    "errata",
    "format_cell",
    "load",
    "papers",
    "tables",
    "validate",
    "value",
]
