"""The published numbers of the papers, with their provenance, and training curves that others published.

`load()` returns all numbers, `value` one, `cells` a selection. `disagreements` returns every published value
of a cell. README.md in this folder describes the columns and how to add your own table.
"""

from results.published.curves import curves
from results.published.evidence import disagreements, format_cell
from results.published.reader import add_folder, cells, errata, errata_of, load, papers, tables, value
from results.published.schema import COLUMNS, PublishedError, PublishedNumber
from results.published.spread import origin_spreads, seed_stds
from results.published.spread_text import format_spread
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
    "format_spread",
    "load",
    "origin_spreads",
    "papers",
    "seed_stds",
    "tables",
    "validate",
    "value",
]
