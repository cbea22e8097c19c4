"""Golden records give a golden diff and a golden report, with every verdict and every kind of cell.

The golden tables are in test_render.py. `GOLDEN=write` rewrites the golden files of both; check their changes
before a commit.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import records_kit as kit
from test_render import golden_case

from benchmark.spec.matrix import Cell, Expansion
from results.published.schema import PublishedNumber
from results.store import Store
from tables import diff, diff_text, report
from tables.published_cells import PublishedCells
from tables.verdicts import Verdict


def case(folder: Path) -> tuple[Expansion, list[dict[str, Any]], PublishedCells]:
    """Return the records of the golden tables, and published numbers with which most verdicts occur."""
    e, records = golden_case(folder)
    value_of = {"teacher": 75.1, "student": 69.0, "kd": 70.6, "sp": 71.2, "crd": None}

    def value(c: Cell) -> float | None:
        if c.row.method == "at":
            return 69.9 if c.student == "resnet20" else 73.0
        return 72.2 if (c.row.method, c.student) == ("kd", "wrn_16_2") else value_of[c.row.method]

    def published(x: PublishedNumber) -> PublishedNumber:
        if (x.method, x.student) == ("kd", "wrn_16_2"):
            return replace(x, rule="best")
        if x.method == "sp":
            return replace(x, rule="unknown")
        return replace(x, std=None, n=None) if x.method == "student" else x

    numbers = [published(x) for x in kit.published_numbers(e, value, std=0.2, n=3)]
    return e, records, PublishedCells(numbers, "cifar100")


SEEN = {Verdict.DIFFERS, Verdict.UNDECIDED, Verdict.MISSING, Verdict.NOT_COMPARABLE}
"""The verdicts that runs of another origin can have."""


@pytest.mark.parametrize("fmt", diff_text.FORMATS)
def test_golden_diff(tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.fix_s0(monkeypatch)
    e, records, published = case(tmp_path)
    found = diff.diff_table(e, kit.as_frame(records), published=published)
    assert {c.verdict for c in found} == SEEN and diff.exit_code(found) == 1
    kit.check_golden(
        f"diff.{ {'plain': 'txt'}.get(fmt, fmt) }", diff_text.format_diff(found, fmt).rstrip("\n") + "\n"
    )


def test_golden_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the text of the page, and each cell's details without hashes and settings."""
    kit.fix_s0(monkeypatch)
    e, records, published = case(tmp_path)
    page = report.page([e], kit.as_frame(records), Store(tmp_path / "runs"), published)
    blob = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert blob is not None
    cells = json.loads(blob[1].replace("<\\/", "</"))["cells"]
    for c in cells.values():
        assert c.pop("settings") or not c["runs"]
        for r in c["runs"]:
            assert r["key"].endswith(f"seed{r['seed']}-" + r["key"][-10:])
            for field in ("key", "teacher_key"):
                r[field] = re.sub(r"-[0-9a-f]{10}(?=$|@)", "", r[field])
    body = page[page.index("<main>") : page.index("</main>")]
    lines = [
        line for line in re.sub(r"<(?!text)[^>]*>|</?text[^>]*>", "\n", body).splitlines() if line.strip()
    ]
    details = [f"{name} {json.dumps(c, ensure_ascii=False)}" for name, c in cells.items()]
    kit.check_golden("report.txt", "\n".join([*lines, "", *details]) + "\n")
