"""The user's own methods, networks, data sets and protocols: files in the folders of KD_PLUGINS.

    export KD_PLUGINS=mine:/home/me/kd

- `*.py` may define methods (benchmark/methods/base.py), networks (benchmark/plugins/networks.py) and data
  sets. Names that start with an underscore are left alone.
- `*.toml` are protocols, and `teachers.toml` names checkpoints.

KD_METHODS is the old name of the variable and does the same. Nothing is read before it is asked for. A file
is imported once in a process.
"""

from benchmark.plugins._files import (
    VARIABLES,
    cached,
    clear_cache,
    environment_variables,
    folders,
    folders_of,
    modules,
    python_files,
    remark_if_none,
    source_hash,
    toml_files,
)

__all__ = [
    "VARIABLES",
    "cached",
    "clear_cache",
    "environment_variables",
    "folders",
    "folders_of",
    "modules",
    "python_files",
    "remark_if_none",
    "source_hash",
    "toml_files",
]
