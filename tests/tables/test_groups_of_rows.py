"""Rows of one method under several conditions: their published values, their ranks, and what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import records_kit as kit

from benchmark.errors import InputError
from benchmark.spec import matrix
from results.published import reader
from tables import diff, render
from tables.cells import collect, header
from tables.published_cells import PublishedCells, rows_without_cell

PUBLISHED = {
    ("KD", 25): 65.15,
    ("KD", 50): 68.61,
    ("KD", 75): 70.34,
    ("CRD", 25): 65.80,
    ("CRD", 50): 69.91,
    ("CRD", 75): 70.98,
    ("SSKD", 25): 67.82,
    ("SSKD", 50): 70.08,
    ("SSKD", 75): 70.47,
    ("HSAKD", 25): 68.50,
    ("HSAKD", 50): 72.18,
    ("HSAKD", 75): 73.26,
}
"""HSAKD's slides, page 27."""


def few_shot(**options: object) -> matrix.Expansion:
    return matrix.expand(matrix.load_table("hsakd-few-shot"), "paper", **options)  # type: ignore[arg-type]


def test_the_few_shot_table_compares_each_share_with_its_published_values() -> None:
    e = few_shot()
    records = [
        kit.record(r, PUBLISHED.get((c.row.label.split()[0], round(100 * r.recipe.share)), 69.0))
        for c in e.cells
        for r in c.runs
    ]
    cells = {d.label: d for d in diff.diff_table(e, kit.as_frame(records))}
    assert {
        (label.split()[0], int(label.split()[1].rstrip("%"))): d.published
        for label, d in cells.items()
        if d.published is not None and d.label != "Teacher"
    } == PUBLISHED
    for label, d in cells.items():
        if label.startswith(("KD", "CRD", "SSKD")):
            assert d.verdict.value == "undecided" and d.delta == pytest.approx(0), label
        elif label.startswith("HSAKD"):
            assert "not part of this suite" in d.reason
        elif label != "Teacher":
            assert d.reason == "not published"
    assert cells["Teacher"].published == 73.44


def test_a_table_without_shares_has_the_same_published_values() -> None:
    table = matrix.load_table("crd-table1")
    e = matrix.expand(table, "paper", pairs=["resnet56:resnet20"])
    numbers = list(reader.numbers())
    alone = PublishedCells([x for x in numbers if x.dataset == "cifar100"], "cifar100")
    every = PublishedCells(numbers, "cifar100")
    for c in e.cells:
        assert every.of(table, c) == alone.of(table, c) is not None
        assert every.of_paper("hsakd", c) == alone.of_paper("hsakd", c)
    assert every.papers == alone.papers


def test_ranks_are_those_of_a_group() -> None:
    e = few_shot(only_methods=["kd", "crd", "sskd"])
    value = {"KD": 0.0, "CRD": 1.0, "SSKD": 2.0, "Student": 9.0}
    records = [
        kit.record(r, value.get(c.row.label.split()[0], 70.0) + 20 * r.recipe.share)
        for c in e.cells
        for r in c.runs
    ]
    layout = render.lay_out(e, kit.as_frame(records))
    ranks = {row.label: entries[0].rank for row, entries in zip(layout.rows, layout.entries, strict=True)}
    wanted = {"KD": 0, "CRD": 2, "SSKD": 1, "Student": 0}
    assert ranks == {
        "Teacher": 0,
        **{f"{label} {share}%": rank for share in (25, 50, 75) for label, rank in wanted.items()},
    }
    assert "of the column and the group of rows" in render.write(layout, e, "plain")


def test_the_header_says_which_images_and_labels_are_trained_on() -> None:
    def conditions(e: matrix.Expansion) -> str:
        return " ".join(header(e, collect(e, kit.as_frame([]))).conditions)

    text = conditions(few_shot())
    for images in ("12,500", "25,000", "37,500"):
        assert f"{images} of 50,000 images (stratified, the same for all seeds)" in text
    assert text.endswith("teachers learn from all images and clean labels")
    table = matrix.load_table("crd-table1")
    assert "training images" not in conditions(matrix.expand(table, "paper", pairs=["resnet56:resnet20"]))
    noisy = conditions(matrix.expand(matrix.load_table("dlkd-noisy-labels"), "quick"))
    for share in (20, 40, 60):
        assert f"labels swapped among the first {share}% of the images" in noisy
    assert "labels of 40% of the images drawn from all classes" in noisy


def test_a_row_names_a_published_data_set(tmp_path: Path) -> None:
    row = '[[rows]]\nlabel = "KD"\nmethod = "kd"\npublished_dataset = "cifar100-25"\n'
    text = kit.SMALL[: kit.SMALL.index("[[rows]]")] + row
    with pytest.raises(InputError, match=r"unknown data set in `published_dataset` .*'cifar100-25'"):
        kit.small_table(tmp_path, text)
    text = text.replace('"crd"', '"hsakd"', 1).replace('"table1"', '"few-shot"')
    assert kit.small_table(tmp_path, text).rows[0].published_dataset == "cifar100-25"


def test_a_published_value_of_a_share_without_a_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = matrix.load_table("hsakd-few-shot")
    number = next(x for x in reader.numbers() if x.dataset == "cifar100-25" and x.method == "kd")
    mine = [dataclasses.replace(number, method="kdd"), dataclasses.replace(number, dataset="cifar100-10")]
    monkeypatch.setattr(reader, "numbers", lambda: [number, *mine])
    (line,) = rows_without_cell(table)
    assert "1 published value of method 'kdd'" in line
