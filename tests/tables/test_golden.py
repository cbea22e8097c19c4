"""Golden records give a golden diff and a golden report (the golden tables are in test_render.py): every verdict, every kind of cell.

`GOLDEN=write` writes the files anew; look at the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import records_kit as kit
from test_render import GOLDEN, golden_case

from benchmark.spec.matrix import Cell, Expansion
from results.store import Store
from tables import diff, diff_text, report
from tables.published_cells import PublishedCells


def case(folder: Path) -> tuple[Expansion, list[dict[str, Any]], PublishedCells]:
    """The records of the golden tables, and printed numbers with which all five verdicts occur."""
    e, records = golden_case(folder)
    print_of = {"teacher": 75.1, "student": 69.0, "kd": 70.6, "sp": 71.2, "crd": None}

    def value(c: Cell) -> float | None:
        if c.row.method == "at":
            return 69.9 if c.student == "resnet20" else 71.5
        return 72.2 if (c.row.method, c.student) == ("kd", "wrn_16_2") else print_of[c.row.method]

    printed = kit.published_numbers(e, value, std=0.2, n=3)
    printed.loc[(printed["method"] == "kd") & (printed["student"] == "wrn_16_2"), "rule"] = "best"
    printed.loc[printed["method"] == "sp", "rule"] = "unknown"
    printed.loc[printed["method"] == "student", ["std", "n"]] = None
    return e, records, PublishedCells(printed, "cifar100")


def check(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("fmt", diff_text.FORMATS)
def test_golden_diff(tmp_path: Path, fmt: str) -> None:
    e, records, published = case(tmp_path)
    found = diff.diff_table(e, kit.as_frame(records), published=published)
    assert {c.verdict for c in found} == set(diff.VERDICTS) and diff.exit_code(found) == 1
    check(f"diff.{ {'plain': 'txt'}.get(fmt, fmt) }", diff.format_diff(found, fmt).rstrip("\n") + "\n")


def test_golden_report(tmp_path: Path) -> None:
    """What the page says: the text of its tables and figures, and of each cell the details (keys without their hashes, no settings)."""
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
    check("report.txt", "\n".join([*lines, "", *details]) + "\n")
