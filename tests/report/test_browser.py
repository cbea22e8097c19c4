"""The report in a real browser: it opens, filters, expands a cell, obeys the keys, and logs no error.

A copy of the page gets a script that acts like a reader and writes what it observed into the document.
Headless Chromium then dumps the document.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import records_kit as kit

from benchmark.spec import matrix
from benchmark.spec.matrix import Expansion
from results.store import Store, load
from tables import curves, report, report_figures
from tables.published_cells import PublishedCells

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
NO_BROWSER = "no chromium, chromium-browser or google-chrome on the PATH"

READER_SCRIPT = """
<script>
(() => {
  const seen = {};
  const errors = [];
  window.addEventListener("error", (e) => errors.push(e.message));
  const form = document.getElementById("filters");
  const set = (name, value) => { form.elements[name].value = value;
    form.dispatchEvent(new Event("input", { bubbles: true })); };
  const shown = (r) => !r.hidden && !r.closest("section").hidden;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const rows = () => all("tbody tr[data-method]").filter(shown).map((r) => r.cells[0].textContent);
  const press = (key) =>
    document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const cell = () => document.activeElement.closest("td").dataset.cell;
  seen.title = document.title;
  seen.sections = document.querySelectorAll("section.table[data-table]").length;
  seen.matches = document.getElementById("matches").value;
  seen.rows = rows();
  const stops = () => all('table.grid button[tabindex="0"]').map((b) => b.getAttribute("aria-label"));
  set("method", "at"); seen.method = rows(); seen.stopsFiltered = stops(); set("method", "");
  set("pair", "wrn_40_2:wrn_16_2"); seen.pair = document.getElementById("matches").value;
  seen.off = document.querySelectorAll("td[data-cell].off").length; seen.stopsOfPair = stops();
  set("pair", "");
  const display = (name) => getComputedStyle(document.querySelector(`td .${name}`)).display;
  seen.views = {};
  for (const view of ["ours", "all", "published", "delta"]) {
    set("view", view);
    seen.views[view] = ["ours", "published", "delta"].filter((name) => display(name) !== "none");
  }
  set("view", "ours");
  for (const v of ["undecided", "missing", "not comparable"])
    form.querySelector(`input[value="${v}"]`).click();
  seen.outside = rows();
  const before = getComputedStyle(document.body).backgroundColor;
  set("theme", "dark");
  seen.dark = getComputedStyle(document.body).backgroundColor !== before
    || matchMedia("(prefers-color-scheme: dark)").matches;
  set("theme", "light"); seen.light = getComputedStyle(document.body).backgroundColor;
  form.reset();
  setTimeout(() => {
    seen.afterReset = document.getElementById("matches").value;
    const isKd = (b) => b.getAttribute("aria-label").startsWith("KD, resnet56:resnet20");
    const kd = all("td[data-cell] button").find(isKd);
    kd.click();
    const panel = document.querySelector("tr.detail .panel");
    seen.expanded = kd.getAttribute("aria-expanded");
    seen.panel = panel.textContent;
    const count = (selector) => panel.querySelectorAll(selector).length;
    seen.lines = { mine: count("polyline.mine"), theirs: count("polyline.theirs") };
    seen.focused = document.activeElement === kd;
    press("ArrowRight"); seen.right = cell();
    press("ArrowDown"); seen.down = cell();
    press("ArrowLeft"); press("ArrowUp"); seen.back = document.activeElement === kd;
    press("Escape"); seen.closed = document.querySelectorAll("tr.detail").length;
    document.querySelector('td[data-verdict="differs"] .ours').click();
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


PAPER_SCRIPT = """
<script>
(() => {
  // the layout on paper: landscape A4 without its margins at 96 dots per inch
  const asPrinted = (rules) => {
    for (const r of rules) {
      const media = r.media ? r.media.mediaText : "";
      if (media.includes("print")) r.media.mediaText = "all";
      else if (media.includes("screen")) r.media.mediaText = "not all";
      if (r.cssRules) asPrinted(r.cssRules);
    }
  };
  const form = document.getElementById("filters");
  form.elements.theme.value = "dark";
  form.dispatchEvent(new Event("input", { bubbles: true }));
  [...document.querySelectorAll("td[data-cell] button")][0].click();
  asPrinted(document.styleSheets[0].cssRules);
  window.dispatchEvent(new Event("beforeprint"));
  document.body.style.width = "1054px";
  const all = (selector) => [...document.querySelectorAll(selector)];
  const right = (selector) => Math.max(...all(selector).map((n) => n.getBoundingClientRect().right));
  const folded = () => document.querySelectorAll("details:not([open])").length;
  const seen = { table: right("table.grid"), panel: right(".panel, .panel *"), figures: right("svg") };
  seen.notes = folded();
  seen.background = getComputedStyle(document.body).backgroundColor;
  seen.head = getComputedStyle(document.querySelector('.grid th[scope="row"]')).position;
  window.dispatchEvent(new Event("afterprint"));
  seen.after = folded();
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
})();
</script>
"""


LAYOUT_SCRIPT = """
<script>
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const right = (selector) => Math.max(...all(selector).map((n) => n.getBoundingClientRect().right));
  const first = document.querySelector("td[data-cell]");
  const seen = { width: innerWidth, folded: !document.getElementById("fold").open };
  seen.view = new FormData(document.getElementById("filters")).get("view");
  seen.shown = ["ours", "published", "delta"].filter(
    (name) => getComputedStyle(first.querySelector("." + name)).display !== "none");
  seen.grid = right("table.grid");
  const withCurves = all("td[data-cell]").find((td) => td.dataset.cell === "CELL");
  withCurves.querySelector("button").click();
  seen.page = document.documentElement.scrollWidth;
  const plots = all(".plots > div").map((n) => n.getBoundingClientRect());
  seen.sideBySide = plots[0].top === plots[1].top;
  const within = (text) => {
    const a = text.getBoundingClientRect(), b = text.closest("svg").getBoundingClientRect();
    return a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  };
  seen.clipped = all(".plots svg text").filter((t) => !within(t)).map((t) => t.textContent);
  seen.ticks = all(".plots svg").map((s) => [...s.querySelectorAll("text")].map((t) => t.textContent));
  seen.files = all(".downloads a").map((a) => [a.download, atob(a.href.split("base64,")[1])]);
  const body = document.querySelector("details.body");
  body.open = false;
  document.querySelector("a.card").click();
  setTimeout(() => {
    seen.unfolded = body.open;
    const out = document.createElement("pre");
    out.id = "seen";
    out.textContent = JSON.stringify(seen);
    document.body.append(out);
    parent.postMessage(out.textContent, "*");
  }, 200);
})();
</script>
"""


FRAME = """<!DOCTYPE html>
<iframe src="driven.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
<script>
window.addEventListener("message", (event) => {
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = event.data;
  document.body.append(out);
});
</script>
"""


def chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    profile = page.parent / "profile"
    return subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Expansion, Path]:
    if BROWSER is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NO_BROWSER)
        pytest.skip(NO_BROWSER)
    folder = tmp_path_factory.mktemp("report")
    e = kit.small(folder)
    numbers = PublishedCells.read("cifar100")
    records = kit.golden(e, numbers)
    at = next(c for c in e.cells if c.row.method == "at" and c.student == "resnet20")
    records = kit.move(records, at.runs, 2.0)
    kd = next(c for c in e.cells if c.row.method == "kd" and c.student == "resnet20")
    theirs = next(iter(curves.published_curves("crd", "resnet56", "resnet20", "kd").values())).assign(
        stage="main"
    )
    store = Store(folder / "runs")
    kit.write(store, records, {r.key: theirs for r in kd.runs})
    return e, report.write_report([e], load(store.folder), store, folder / "out")


def drive(page: Path, script: str, width: int | None = None) -> dict[str, Any]:
    """Run a script in a copy of the page, and return what it observed.

    width: of the page in pixels. It is shown in a frame then, because windows are at least 500 wide.
    """
    driven = page.with_name("driven.html")
    driven.write_text(
        page.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8"
    )
    shown = driven if width is None else driven.with_name("frame.html")
    if width is not None:
        shown.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    done = chromium(shown, "--dump-dom", "--window-size=1600,1000")
    assert [line for line in done.stderr.splitlines() if ":CONSOLE" in line] == []
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the driver did not come to its end"
    import html

    result: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return result


@pytest.fixture(scope="module")
def seen(case: tuple[Expansion, Path]) -> dict[str, Any]:
    return drive(case[1], READER_SCRIPT)


def test_opens_without_an_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == [] and seen["sections"] == 1 and seen["matches"] == "10 cells"
    assert seen["rows"] == ["Teacher", "Student", "KD", "AT", "SP"]


def test_needs_no_network(case: tuple[Expansion, Path]) -> None:
    text = case[1].read_text(encoding="utf-8")
    assert (
        not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
        and "@import" not in text
        and "url(" not in text
    )
    assert "fetch(" not in text and "XMLHttpRequest" not in text


def test_filters(seen: dict[str, Any]) -> None:
    assert seen["method"] == ["AT"]
    assert seen["pair"] == "5 cells" and seen["off"] == 5
    assert seen["views"] == {
        "ours": ["ours", "delta"],
        "all": ["ours", "published", "delta"],
        "published": ["published"],
        "delta": ["delta"],
    }
    assert seen["outside"] == ["AT"]  # the one cell that differs
    assert seen["dark"] and seen["light"] == "rgb(251, 251, 249)"
    assert seen["afterReset"] == "10 cells"


def test_a_cell_expands_to_its_details(seen: dict[str, Any], case: tuple[Expansion, Path]) -> None:
    kd = next(c for c in case[0].cells if c.row.method == "kd" and c.student == "resnet20")
    assert seen["expanded"] == "true" and seen["focused"]
    for text in (
        "KD, resnet56 → resnet20: undecided",
        "70.66",
        "(on the test set)",
        "run by this paper",
        "RepDistiller",
        "2.0 min",
        "60.3 s",
        "c0ffee",
        "Hyper-parameters",
        "method.components.kd.temperature",
        "1 to 240",
        *(r.key for r in kd.runs),
    ):
        assert text in seen["panel"], text
    assert seen["lines"] == {"mine": 2 * len(kd.runs), "theirs": 2}
    assert seen["byMean"] == "AT, resnet56 → resnet20: differs"


def test_keys(seen: dict[str, Any]) -> None:
    cells = {"KD": 4, "AT": 6}
    assert seen["right"] == f"small/{cells['KD'] + 1}" and seen["down"] == f"small/{cells['AT'] + 1}"
    assert seen["back"] and seen["closed"] == 0 and seen["tabStops"] == 1
    # Tab reaches a table whose first rows or columns a filter has taken away
    assert [s.split(":")[0] for s in seen["stopsFiltered"]] == ["AT, resnet56"]
    assert len(seen["stopsOfPair"]) == 1 and ", wrn_40_2:wrn_16_2: " in seen["stopsOfPair"][0]


def test_figures_are_drawn(seen: dict[str, Any]) -> None:
    assert seen["svgs"] >= 6  # two forest plots, heat map, ranks, last against best, cost


def test_prints_to_paper_and_screen(case: tuple[Expansion, Path]) -> None:
    page = case[1]
    chromium(page, f"--print-to-pdf={page.with_suffix('.pdf')}")
    assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    chromium(page, "--window-size=1500,1600", f"--screenshot={page.with_suffix('.png')}")
    assert page.with_suffix(".png").stat().st_size > 20_000


def test_paper_holds_the_widest_table_whole_and_light(case: tuple[Expansion, Path], tmp_path: Path) -> None:
    e = matrix.expand(matrix.load_table("crd-table1"), "paper", seeds=[0, 1])
    records = kit.golden(e, PublishedCells.read("cifar100"))
    varied = [{**r, "top1_last": r["top1_last"] + 0.1 * r["seed"]} for r in records]
    store = Store(tmp_path / "runs")
    page = report.write_report([e], kit.as_frame(varied), store, tmp_path / "out")
    seen = drive(page, PAPER_SCRIPT)
    assert seen["table"] <= 1054 and seen["panel"] <= 1054 and seen["figures"] <= 1054, seen
    assert seen["background"] == "rgb(255, 255, 255)" and seen["head"] == "static"
    assert (
        seen["notes"] == 0 and seen["after"] >= 1
    )  # folded notes are printed with the table that points to them


def test_the_cost_of_a_row_is_its_runs_share_of_their_packs() -> None:
    rows = [
        (7200.0, 1800.0),
        (3600.0, 0.0),
        (3600.0, None),
    ]  # in a pack of four; a measurement; a record without a share
    runs = [
        SimpleNamespace(run=SimpleNamespace(key=str(i)), row={"seconds": a, "share_seconds": b})
        for i, (a, b) in enumerate(rows)
    ]
    cell = SimpleNamespace(row=SimpleNamespace(label="KD"))
    assert report_figures._costs([SimpleNamespace(cell=cell, runs=runs)]) == [("KD", 2.5)]  # type: ignore[list-item]


def test_every_table_of_the_product_makes_a_section(tmp_path: Path) -> None:
    names = matrix.table_names()
    text = report.page(
        [matrix.expand(matrix.load_table(n), "quick") for n in names], kit.as_frame([]), Store(tmp_path)
    )
    assert all(f'data-table="{n}"' in text for n in names) and "only show that the program works" in text


@pytest.fixture(scope="module")
def wide_page(case: tuple[Expansion, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a page with a table of seven pairs, and the name of a cell with curves."""
    folder = tmp_path_factory.mktemp("wide")
    e = matrix.expand(matrix.load_table("crd-table1"), "paper", seeds=[0, 1])
    numbers = PublishedCells.read("cifar100")
    records = [{**r, "top1_last": r["top1_last"] + 0.1 * r["seed"]} for r in kit.golden(e, numbers)]
    index = next(i for i, c in enumerate(e.cells) if c.row.method == "fsp" and c.runs)
    store = Store(folder / "runs")
    kit.write(store, records, {r.key: kit.curve(r) for r in e.cells[index].runs})
    return report.write_report([e], load(store.folder), store, folder / "out"), f"crd-table1/{index}"


@pytest.mark.parametrize("width", [1400, 390])
def test_fits_wide_and_narrow_windows(wide_page: tuple[Path, str], width: int) -> None:
    page, cell = wide_page
    seen = drive(page, LAYOUT_SCRIPT.replace("CELL", cell), width)
    narrow = width < 600
    assert seen["width"] == width and seen["page"] <= width  # the page itself does not scroll
    assert seen["folded"] == narrow and seen["shown"] == (["delta"] if narrow else ["ours", "delta"])
    assert narrow or seen["grid"] <= width  # seven pairs and the averages, without scrolling
    assert seen["sideBySide"] != narrow and seen["clipped"] == []
    top1, loss = ([float(t) for t in ticks if t != "epoch"] for ticks in seen["ticks"])
    # round steps that reach over the curves: accuracy 22 to 71.8, loss 10 to 1.04, 240 epochs
    assert top1 == [20, 30, 40, 50, 60, 70, 80, 0, 50, 100, 150, 200, 250]
    assert loss == [0, 2, 4, 6, 8, 10, 0, 50, 100, 150, 200, 250]
    assert seen["unfolded"]
    files = dict(seen["files"])
    assert [name.rpartition(".")[2] for name in files] == ["csv", "tex", "json"]
    assert files["crd-table1-paper.csv"].startswith("table,profile,") and json.loads(
        files["crd-table1-paper.json"]
    )
