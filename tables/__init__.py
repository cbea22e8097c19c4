"""Tables made from records: collected, rendered, drawn, and compared with the published numbers.

The `*.toml` files in this folder describe the tables.
"""

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
