"""Collect records into tables, render and draw them, and compare them with the published numbers.

The `*.toml` files in this folder describe the tables.
"""

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
