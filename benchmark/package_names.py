"""Check that the packages of kd-tables are not hidden by other packages of the same name.

The import names are common words, and another distribution may use one of them: PyTables installs a package
`tables`, and a script beside yours may be called `results.py`. Importing the wrong one leads to an obscure
error much later, so the command line checks first. This module imports only the standard library.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("benchmark", "models", "results", "slurm", "tables")
MARK = "# Belongs to kd-tables"
"""A line in the `__init__.py` of each package.

It shows that the file is ours: distributions in one environment can overwrite each other's files."""


def conflict() -> str:
    """Return what is wrong with the first package that is not ours, and what to do; "" if all are."""
    root = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        ours = root / name / "__init__.py"
        spec = importlib.util.find_spec(name)
        imported = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if imported is None or not ours.is_file():
            return f"the package `{name}` of kd-tables is missing in {root}; install kd-tables again"
        if imported != ours or MARK not in ours.read_text(encoding="utf-8", errors="replace"):
            return (
                f"`import {name}` finds {imported}, which is not part of kd-tables; use a virtual "
                f"environment and a working folder without another `{name}` (PyTables is one for `tables`)"
            )
    return ""


def exit_on_conflict() -> None:
    """End the process with one line and exit code 2 if one of the packages is not ours."""
    if problem := conflict():
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
