"""Optional packages that formats need."""

from __future__ import annotations

import importlib
from typing import Any

from benchmark.errors import InputError


def need(module: str, format_name: str, extra: str = "") -> Any:
    """Import an optional package. Raises `InputError` with the command that installs it.

    extra: the extra of kd-tables that has it, if it is not named after the format.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"--to {format_name} needs the package {package}, which cannot be imported ({error}); "
            f"pip install 'kd-tables[{extra or format_name}]', or pip install {package}"
        ) from None
