"""Tables out of records: collected, rendered, drawn, and laid beside the printed numbers. The `*.toml` files here say which tables there are."""

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
