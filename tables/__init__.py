"""Tables made from records: collected, rendered, drawn, and compared with the published numbers.

The `*.toml` files in this folder describe the tables.
"""
