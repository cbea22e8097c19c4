"""The report in a real browser: it opens, filters, expands a cell, follows the keys, and says nothing on the console.

The page is driven from within: a copy of it gets a script that acts as a reader does and leaves what it saw in the document, which
headless Chromium then dumps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import records_kit as kit

from benchmark import matrix
from benchmark.matrix import Expansion
from results.store import Store, load
from tables import curves, report
from tables.printed import Prints

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
NO_BROWSER = "no chromium, chromium-browser or google-chrome on the PATH"

DRIVER = """
<script>
(() => {
  const seen = {};
  const errors = [];
  window.addEventListener("error", (e) => errors.push(e.message));
  const form = document.getElementById("filters");
  const set = (name, value) => { form.elements[name].value = value; form.dispatchEvent(new Event("input", { bubbles: true })); };
  const shown = (r) => !r.hidden && !r.closest("section").hidden;
  const rows = () => [...document.querySelectorAll("tbody tr[data-method]")].filter(shown).map((r) => r.cells[0].textContent);
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const cell = () => document.activeElement.closest("td").dataset.cell;
  seen.title = document.title;
  seen.sections = document.querySelectorAll("section.table[data-table]").length;
  seen.matches = document.getElementById("matches").value;
  seen.rows = rows();
  set("method", "at"); seen.method = rows(); set("method", "");
  set("pair", "wrn_40_2:wrn_16_2"); seen.pair = document.getElementById("matches").value;
  seen.off = document.querySelectorAll("td.g-delta.off").length; set("pair", "");
  set("view", "delta"); seen.view = getComputedStyle(document.querySelector("td.g-ours")).display; set("view", "all");
  for (const v of ["agrees", "missing", "not comparable"]) form.querySelector(`input[value="${v}"]`).click();
  seen.outside = rows();
  const before = getComputedStyle(document.body).backgroundColor;
  set("theme", "dark"); seen.dark = getComputedStyle(document.body).backgroundColor !== before || matchMedia("(prefers-color-scheme: dark)").matches;
  set("theme", "light"); seen.light = getComputedStyle(document.body).backgroundColor;
  form.reset();
  setTimeout(() => {
    seen.afterReset = document.getElementById("matches").value;
    const kd = [...document.querySelectorAll("td.g-delta button")].find((b) => b.getAttribute("aria-label").startsWith("KD, resnet56:resnet20"));
    kd.click();
    const panel = document.querySelector("tr.detail .panel");
    seen.expanded = kd.getAttribute("aria-expanded");
    seen.panel = panel.textContent;
    seen.lines = { mine: panel.querySelectorAll("polyline.mine").length, theirs: panel.querySelectorAll("polyline.theirs").length };
    seen.focused = document.activeElement === kd;
    press("ArrowRight"); seen.right = cell();
    press("ArrowDown"); seen.down = cell();
    press("ArrowLeft"); press("ArrowUp"); seen.back = document.activeElement === kd;
    press("Escape"); seen.closed = document.querySelectorAll("tr.detail").length;
    document.querySelector('td.g-ours[data-verdict="above"]').click();
    seen.byMean = document.querySelector("tr.detail h3").textContent;
    seen.tabStops = document.querySelectorAll('table.grid button[tabindex="0"]').length;
    seen.svgs = document.querySelectorAll("details.figure svg").length;
    seen.errors = errors;
    const out = document.createElement("pre");
    out.id = "seen";
    out.textContent = JSON.stringify(seen);
    document.body.append(out);
  });
})();
</script>
"""


def chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    profile = page.parent / "profile"
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}", "--enable-logging=stderr",
         "--virtual-time-budget=5000", *options, page.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Expansion, Path]:
    if BROWSER is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NO_BROWSER)
        pytest.skip(NO_BROWSER)
    folder = tmp_path_factory.mktemp("report")
    e = kit.small(folder)
    numbers = Prints.read("cifar100")
    records = kit.golden(e, numbers)
    at = next(c for c in e.cells if c.row.method == "at" and c.student == "resnet20")
    records = kit.move(records, at.runs, 1.0)
    kd = next(c for c in e.cells if c.row.method == "kd" and c.student == "resnet20")
    theirs = next(iter(curves.published_curves("crd", "resnet56", "resnet20", "kd").values())).assign(stage="main")
    store = Store(folder / "runs")
    kit.write(store, records, {r.key: theirs for r in kd.runs})
    return e, report.write_report([e], load(store.folder), store, folder / "out")


@pytest.fixture(scope="module")
def seen(case: tuple[Expansion, Path]) -> dict[str, Any]:
    page = case[1]
    driven = page.with_name("driven.html")
    driven.write_text(page.read_text(encoding="utf-8").replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    done = chromium(driven, "--dump-dom")
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the driver did not come to its end"
    import html

    result: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return result


def test_opens_without_an_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == [] and seen["sections"] == 1 and seen["matches"] == "10 cells"
    assert seen["rows"] == ["Teacher", "Student", "KD", "AT", "SP"]


def test_needs_no_network(case: tuple[Expansion, Path]) -> None:
    text = case[1].read_text(encoding="utf-8")
    assert (
        not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text) and "@import" not in text and "url(" not in text
    )
    assert "fetch(" not in text and "XMLHttpRequest" not in text


def test_filters(seen: dict[str, Any]) -> None:
    assert seen["method"] == ["AT"]
    assert seen["pair"] == "5 cells" and seen["off"] == 5
    assert seen["view"] == "none"
    assert seen["outside"] == ["AT"]  # the one cell that is above
    assert seen["dark"] and seen["light"] == "rgb(251, 251, 249)"
    assert seen["afterReset"] == "10 cells"


def test_a_cell_expands_to_its_details(seen: dict[str, Any], case: tuple[Expansion, Path]) -> None:
    kd = next(c for c in case[0].cells if c.row.method == "kd" and c.student == "resnet20")
    assert seen["expanded"] == "true" and seen["focused"]
    for text in ("KD, resnet56 → resnet20: agrees", "70.66", "(on the test set)", "run by this paper", "RepDistiller", "2.0 min", "c0ffee",
                 "Hyper-parameters", "method.components.kd.temperature", "1 to 240", *(r.key for r in kd.runs)):  # fmt: skip
        assert text in seen["panel"], text
    assert seen["lines"] == {"mine": 2 * len(kd.runs), "theirs": 2}
    assert seen["byMean"] == "AT, resnet56 → resnet20: above"


def test_keys(seen: dict[str, Any]) -> None:
    cells = {"KD": 4, "AT": 6}
    assert seen["right"] == f"small/{cells['KD'] + 1}" and seen["down"] == f"small/{cells['AT'] + 1}"
    assert seen["back"] and seen["closed"] == 0 and seen["tabStops"] == 1


def test_figures_are_drawn(seen: dict[str, Any]) -> None:
    assert seen["svgs"] >= 6  # two forest plots, heat map, ranks, last against best, cost


def test_prints_to_paper_and_screen(case: tuple[Expansion, Path]) -> None:
    page = case[1]
    chromium(page, f"--print-to-pdf={page.with_suffix('.pdf')}")
    assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    chromium(page, "--window-size=1500,1600", f"--screenshot={page.with_suffix('.png')}")
    assert page.with_suffix(".png").stat().st_size > 20_000


def test_every_table_of_the_product_makes_a_section(tmp_path: Path) -> None:
    names = matrix.table_names()
    text = report.page([matrix.expand(matrix.load_table(n), "quick") for n in names], kit.as_frame([]), Store(tmp_path))
    assert all(f'data-table="{n}"' in text for n in names) and "mean only that it works" in text
