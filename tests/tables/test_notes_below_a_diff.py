"""The lines below a diff: what all cells share is said once, what one cell has is a numbered note."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import records_kit as kit

from benchmark.spec import matrix
from benchmark.spec.matrix import Cell
from results.store import Store, frame
from tables import cells, render, report
from tables.diff import diff_table
from tables.diff_text import format_diff
from tables.published_cells import PublishedCells


def test_a_reason_that_all_cells_share_stands_in_the_counts(tmp_path: Path) -> None:
    e = kit.small(tmp_path, profile="short")
    numbers = kit.published_cells(e, lambda c: 70.0)
    records = [kit.record(r, 65.0) for r in e.runs]
    text = format_diff(diff_table(e, kit.as_frame(records), published=numbers))
    assert "10 cells: not comparable 10 (profile short is not the published schedule)." in text
    assert "Rule:" not in text, "no cell was judged"
    assert not re.search(r"\[\d+\]", text)
    # two verdicts, each with one reason
    some = [x for x in records if x["method"] != "at"]
    text = format_diff(diff_table(e, kit.as_frame(some), published=numbers))
    assert "missing 2 (our runs: not run), not comparable 8 (profile short" in text
    # two reasons of one verdict stay numbered notes
    blank = kit.published_cells(e, lambda c: None if c.row.method == "sp" else 70.0)
    text = format_diff(diff_table(e, kit.as_frame(some), published=blank))
    assert "missing 4, not" in text and "] our runs: not run\n" in text and "] not published\n" in text


def test_published_values_that_are_copies_are_named_once(tmp_path: Path) -> None:
    e = kit.small(tmp_path)

    def text(copied: set[str]) -> str:
        origins = {True: "copied from sskd/table3", False: "run by this paper"}
        numbers = [
            replace(x, origin=origins[x.method in copied])
            for x in kit.published_numbers(e, lambda c: 70.0 if c.row.method != "sp" else None)
        ]
        return format_diff(diff_table(e, kit.as_frame([]), published=PublishedCells(numbers, "cifar100")))

    assert "Published values copied from sskd/table3: KD, AT.\n" in text({"kd", "at"})
    assert "Published values copied from sskd/table3: all.\n" in text({"teacher", "student", "kd", "at"})
    assert "copied" not in text(set())


def test_errata_are_notes_of_their_own_and_not_of_blank_numbers(tmp_path: Path) -> None:
    e = kit.small(tmp_path)

    def value(c: Cell) -> float | None:
        return None if c.row.method == "sp" else 70.0

    errata = [
        {"paper": "crd", "table": "", "teacher": "", "student": "", "method": m, "what": what, "source": ""}
        for m, what in (("kd", "a"), ("kd", "b"), ("at", "a"), ("sp", "a"))
    ]
    numbers = [
        replace(x, note="" if x.value else "blank: not at hand") for x in kit.published_numbers(e, value)
    ]
    records = [kit.record(r, 70.0) for r in e.runs]
    published = PublishedCells(numbers, "cifar100", errata)
    found = diff_table(e, kit.as_frame(records), published=published)
    notes = {c.label: c.notes for c in found}
    assert notes["KD"] == ("erratum: a", "erratum: b") and notes["AT"] == ("erratum: a",)
    assert notes["SP"] == () and {c.reason for c in found if c.label == "SP"} == {"blank: not at hand"}
    text = format_diff(found)
    assert text.count("erratum: a") == 1 and "missing 2 (blank: not at hand)" in text


def test_an_unknown_epoch_shows_both_differences(tmp_path: Path) -> None:
    e = kit.small(tmp_path, text=kit.SMALL.replace('protocol = "crd"', 'protocol = "dlkd"'))
    numbers = kit.published_cells(e, lambda c: 70.0, rule="unknown")
    records = [kit.record(r, 69.5, 70.25) for r in e.runs]
    found = diff_table(e, kit.as_frame(records), published=numbers)
    text, coloured = format_diff(found), format_diff(found, color=True)
    assert text.count("-0.50 / +0.25") == len(found) and "both = it is not known" in text
    assert "(delta " not in text, "the column says it"
    assert "\x1b[31m-0.50" not in coloured and "\x1b[34m-0.50" not in coloured


def test_what_is_measured_is_said_in_words() -> None:
    e = matrix.expand(matrix.load_table("seed-imagenet"), "paper")
    layout = render.lay_out(e, frame([], "runs"))
    (line,) = [x for x in layout.header.conditions if x.startswith("measured")]
    assert "size 0" not in line and "(protocol seed, images at their own size)" in line
    assert cells.what_is_shown(e.table) == "linear probe: top1_best, top5_best, knn_top1 in %"
    below = render.explanations(layout, e)
    assert "top1_best, top5_best: of the classifier's best epoch, chosen on the test set." in below


def measured(name: str) -> str:
    """Return the small table, with a third pair, as one of this measure of the last epoch's networks."""
    text = kit.SMALL.replace('protocol = "crd"', 'protocol = "sskd"')
    text = text.replace('"wrn_40_2:wrn_16_2"]', '"wrn_40_2:wrn_16_2", "vgg13:vgg8"]')
    return text.replace("[[rows]]", f'[measure]\nname = "{name}"\nepoch = "last"\n[[rows]]', 1)


def test_a_rank_of_measured_numbers_is_of_no_epoch(tmp_path: Path) -> None:
    """The measured networks are of one epoch, whichever one the protocol reports."""
    e = kit.small(tmp_path, text=measured("knn"))
    runs = [r for r in e.runs if r.measure is not None]
    records = [kit.record(r, 50.0 + i) for i, r in enumerate(runs)]
    (ranks,) = [x for x in render.explanations(render.lay_out(e, kit.as_frame(records)), e) if "Bold" in x]
    assert "both by the mean. " in ranks and "epoch" not in ranks


def test_what_has_no_better_side_has_no_gain(tmp_path: Path) -> None:
    """A lower entropy is no better one: no card, figure or power of top-1 may rank it."""
    for name, gains in (("entropy", False), ("knn", True)):
        e = kit.small(tmp_path, text=measured(name))
        runs = [r for r in e.runs if r.measure is not None]
        frame_of = kit.as_frame([kit.record(r, 1.0 + i) for i, r in enumerate(runs)])
        page = report.page([e], frame_of, Store(tmp_path / "runs"))
        assert ("mean gain over the student" in page) == gains
        assert ("Gain over the plain student, by pair" in page) == gains
        assert "Power: " not in page and "Top-1 accuracy" not in page
