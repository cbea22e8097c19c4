"""The files of a table inside the report: its csv, its LaTeX and the json of its diff, as links."""

from __future__ import annotations

import html
from base64 import b64encode

from benchmark.spec.matrix import Expansion
from tables.diff import Diff
from tables.diff_text import format_diff
from tables.render import Layout, write

TYPES = {"csv": "text/csv", "tex": "application/x-tex", "json": "application/json"}


def downloads(name: str, layout: Layout, expansion: Expansion, diffs: Diff) -> str:
    """Return the links as HTML. name: of the files, without their ending."""
    texts = {
        "csv": write(layout, expansion, "csv"),
        "tex": write(layout, expansion, "tex"),
        "json": format_diff(diffs, "json"),
    }
    links = ", ".join(
        f'<a download="{html.escape(name, quote=True)}.{kind}" '
        f'href="data:{TYPES[kind]};base64,{b64encode(text.encode()).decode()}">{kind}</a>'
        for kind, text in texts.items()
    )
    return f'<p class="meta downloads">Download: {links} (csv and tex: the table; json: the diff)</p>'
