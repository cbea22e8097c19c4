"""Texts of table files and records cannot break the page, a row of a table, or a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import records_kit as kit

from results.store import Store
from tables import diff, diff_text, render, report
from tables.text import escape_md

LABEL = "<!--<script>"
REASON = "</script><script>alert(1)</script>\x1b[2J\nsecond line"
TABLE = kit.SMALL.replace('label = "KD"', f'label = "{LABEL}"').replace('label = "AT"', 'label = "=1+1"')


def test_the_pages_data_has_no_tags(tmp_path: Path) -> None:
    """`<!--<script>` inside a script hides the end of the script, and the page stays empty."""
    e = kit.small(tmp_path, text=TABLE)
    records = [
        kit.record(run, None if run.method == "sp" else 70.0, status="diverged", reason=REASON)
        for run in e.runs
    ]
    page = report.page([e], kit.as_frame(records), Store(tmp_path / "runs"))
    blob = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert blob is not None and "<" not in blob[1]
    cells = json.loads(blob[1])["cells"]
    assert {LABEL, "=1+1"} <= {c["label"] for c in cells.values()}
    assert page.count("<script") == 2 and LABEL not in page and "alert(1)</script>" not in page


def test_a_label_that_looks_like_a_formula(tmp_path: Path) -> None:
    e = kit.small(tmp_path, text=TABLE)
    frame = kit.as_frame([kit.record(run, 70.0) for run in e.runs])
    texts = render.render(e, frame, "csv"), diff_text.format_diff(diff.diff_table(e, frame), "csv")
    for text in texts:
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert "'=1+1" in cells and not any(re.match(r"[=@+\t]|-(?![0-9.])", cell) for cell in cells)


def test_a_reason_stays_in_its_line(tmp_path: Path) -> None:
    e = kit.small(tmp_path, text=TABLE)
    frame = kit.as_frame([kit.record(run, None, status="diverged", reason=REASON) for run in e.runs])
    for fmt in ("plain", "md", "tex"):
        text = render.render(e, frame, fmt)
        assert "\x1b" not in text and not re.search(r"^second line", text, re.MULTILINE)


def test_markdown_has_no_links_and_no_code_of_a_text() -> None:
    """A backslash before a bar would open a new cell, and a link could lead anywhere."""
    for text, escaped in (
        ("a \\| b", "a \\\\\\| b"),
        ("[here](http://example.org)", "[here]\\(http://example.org)"),
        ("`a_b`", "\\`a\\_b\\`"),
        ("? undecided [1] [2]", "? undecided [1] [2]"),
    ):
        assert escape_md(text) == escaped


def test_a_title_of_two_lines_stays_in_the_comment_of_latex(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    e = replace(e, table=replace(e.table, title="first\n\\input{secret}"))
    frame = kit.as_frame([])
    for text in (render.render(e, frame, "tex"), diff_text.format_diff(diff.diff_table(e, frame), "tex")):
        assert "% first \\input{secret}" in text and not re.search(r"^\\input", text, re.MULTILINE)
