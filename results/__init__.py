"""Records of finished runs, and the published numbers.

`results.load()` returns all records as one tidy DataFrame.
"""

from results.store import COLUMNS, SCHEMA, Store, default_folder, load

__all__ = ["COLUMNS", "SCHEMA", "Store", "default_folder", "load"]

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
