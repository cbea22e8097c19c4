"""For any records: nothing crashes, every cell has one verdict, nothing depends on the order."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import records_kit as kit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from results.store import Store, load, problems
from tables import diff, diff_text, render, report
from tables.verdicts import JUDGED, Verdict

FOLDER = Path(tempfile.mkdtemp())
TEXTS = [
    kit.SMALL,
    kit.SMALL.replace('protocol = "crd"', 'protocol = "sskd"'),
    kit.SMALL.replace('label = "SP"', 'label = "SP"\nprotocol = "dlkd"'),
]
EXPANSIONS = [kit.small(FOLDER, profile=p, text=t) for t in TEXTS for p in ("paper", "short", "quick")]

TOP1 = some.one_of(some.none(), some.floats(0, 100), some.integers(0, 100), some.just(70.0))
NUMBER = some.one_of(
    some.none(), some.floats(allow_nan=False, allow_infinity=False, width=32), some.integers(-5, 10**9)
)
TEXT = some.one_of(some.none(), some.text(max_size=8))


@some.composite
def cases(draw: Any) -> tuple[Any, list[dict], Any]:
    e = draw(some.sampled_from(EXPANSIONS))
    records = []
    for run in {r.key: r for c in e.cells for r in c.runs}.values():
        if not draw(some.booleans()):
            continue
        fields = {
            "status": draw(some.sampled_from(["done", "done", "done", "diverged"])),
            "best_epoch": draw(some.sampled_from([None, 0, 240])),
            "seconds": draw(NUMBER),
            "images_per_second": draw(NUMBER),
            "reason": draw(TEXT),
            "device": draw(TEXT),
            "precision": draw(TEXT),
            "host": draw(TEXT),
            "teacher_info": draw(
                some.sampled_from([None, {}, {"identity": "x", "weights": None, "top1": None}])
            ),
            "git": draw(some.sampled_from([None, {}, {"commit": "abc"}])),
            "versions": draw(some.sampled_from([None, {}, {"torch": "2"}])),
        }
        r = kit.record(run, draw(TOP1), None, **fields)
        r["top1_best"] = draw(TOP1)
        assert problems(r, run.key) == ""
        records.append(r)
    values = iter(
        draw(
            some.lists(
                some.one_of(some.none(), some.floats(0, 100)), min_size=len(e.cells), max_size=len(e.cells)
            )
        )
    )
    fields = {
        "std": draw(some.one_of(some.none(), some.floats(0, 5))),
        "n": draw(some.one_of(some.none(), some.integers(1, 9))),
        "rule": draw(some.sampled_from(["last", "best", "unknown"])),
        "note": draw(TEXT) or "",
        "recipe": draw(some.sampled_from(["", "other"])),
    }
    return e, records, kit.published_cells(e, lambda c: next(values), **fields)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases(), some.randoms(use_true_random=False))
def test_any_records(case: tuple[Any, list[dict], Any], rng: Any) -> None:
    e, records, numbers = case
    found = diff.diff_table(e, kit.as_frame(records), published=numbers)
    assert len(found) == len(e.cells)
    for c in found:
        assert c.verdict in set(Verdict)
        assert (c.reason != "") or c.verdict in JUDGED
        assert (c.low is not None) == (c.verdict in JUDGED)
        if c.low is not None:
            assert c.delta is not None and c.high is not None and c.low < c.delta < c.high
            assert c.adjusted_p is not None and c.p is not None and c.p <= c.adjusted_p <= 1
            assert (c.adjusted_p < 0.05) == c.verdict.startswith("differs")
            assert not (c.low > -0.5 and c.high < 0.5), "not within the margin by another origin's runs"
    texts = [diff_text.format_diff(found, fmt) for fmt in ("plain", "md", "tex", "csv", "json")]
    assert json.loads(texts[-1])["counts"] == found.counts()
    tables = [render.render(e, kit.as_frame(records), fmt) for fmt in render.FORMATS]
    rng.shuffle(records)
    again = diff.diff_table(e, kit.as_frame(records), published=numbers)
    assert (
        list(again) == list(found)
        and [diff_text.format_diff(again, f) for f in ("plain", "md", "tex", "csv", "json")] == texts
    )
    assert [render.render(e, kit.as_frame(records), fmt) for fmt in render.FORMATS] == tables


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases())
def test_any_records_make_a_report(case: tuple[Any, list[dict], Any]) -> None:
    e, records, numbers = case
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        kit.write(store, records)
        text = report.page([e], load(store.folder), store, numbers)
    assert text.startswith("<!DOCTYPE html>") and text.count('class="cell v-') == len(e.cells)
