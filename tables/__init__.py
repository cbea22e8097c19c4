"""Tables out of records: collected, rendered, drawn, and laid beside the printed numbers. The `*.toml` files
here say which tables there are.
"""
