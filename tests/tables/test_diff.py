"""Verdicts: golden records do not differ; each verdict is reached for its reason; order changes nothing."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import records_kit as kit

from benchmark.errors import InputError
from benchmark.spec import matrix
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import TeacherRef
from results.published.yardsticks import TAU
from results.store import Store, load
from tables import diff
from tables.diff import Diff, diff_table
from tables.diff_text import format_diff
from tables.published_cells import PublishedCells
from tables.verdicts import Verdict


@pytest.fixture
def expansion(tmp_path: Path) -> matrix.Expansion:
    return kit.small(tmp_path)


def run_diff(e: matrix.Expansion, records: list, numbers: PublishedCells, **options: object) -> Diff:
    return diff_table(e, kit.as_frame(records), published=numbers, **options)  # type: ignore[arg-type]


def only(e: matrix.Expansion, method: str, student: str = "resnet20") -> matrix.Cell:
    (cell,) = [c for c in e.cells if c.row.method == method and c.student == student]
    return cell


def pick(found: Diff, label: str, student: str = "resnet20") -> diff.CellDiff:
    (cell,) = [c for c in found if c.label == label and c.student == student]
    return cell


@pytest.mark.parametrize("by", [-0.003, 0.0, 0.003])
def test_no_zero_has_a_sign(expansion: matrix.Expansion, by: float) -> None:
    numbers = kit.published_cells(expansion, kit.simple_value, std=0.2, n=3)
    records = kit.golden(expansion, numbers)
    for cell in expansion.cells:
        records = kit.move(records, cell.runs, by)
    found = run_diff(expansion, records, numbers)
    assert all(c.delta == pytest.approx(by, abs=1e-9) for c in found)
    for fmt in ("plain", "md", "tex"):
        text = format_diff(found, fmt)
        assert "0.00" in text and "-0.00," not in text and "-0.00 " not in text and "+0.00 " not in text, fmt


def test_golden_records_are_the_same_and_one_moved_cell_is_named(expansion: matrix.Expansion) -> None:
    numbers = kit.published_cells(expansion, kit.simple_value, std=0.1, n=9)
    records = kit.golden(expansion, numbers)
    found = run_diff(expansion, records, numbers, tau=0.0)
    trained = [c for c in found if c.label != "Teacher"]
    assert {c.verdict for c in trained} == {Verdict.SAME} and len(found) == len(expansion.cells)
    assert diff.exit_code(found) == 0 and diff.exit_code(found, {Verdict.UNDECIDED}) == 1  # one teacher run

    for by in (1.0, -1.0):
        moved = run_diff(expansion, kit.move(records, only(expansion, "kd").runs, by), numbers, tau=0.0)
        (cell,) = [c for c in moved if c.verdict == "differs"]
        assert (cell.label, cell.pair) == ("KD", "resnet56:resnet20")
        assert diff.exit_code(moved) == 1 and diff.exit_code(moved, set()) == 0
        assert f"differs: KD resnet56:resnet20 ({by:+.2f}, p {cell.adjusted_p:.2g})" in format_diff(moved)


def test_of_another_origin_no_cell_is_shown_to_be_the_same(expansion: matrix.Expansion) -> None:
    numbers = kit.published_cells(expansion, kit.simple_value, std=0.1, n=9)
    records = kit.golden(expansion, numbers)
    found = run_diff(expansion, records, numbers)
    assert {c.verdict for c in found} == {Verdict.UNDECIDED} and {c.tau for c in found} == {TAU}
    assert all(c.needed is None for c in found) and "undecided (n -)" in format_diff(found)
    moved = run_diff(expansion, kit.move(records, only(expansion, "kd").runs, 1.6), numbers)
    kd = pick(moved, "KD")
    assert (kd.verdict, kd.with_wide_tau) == (Verdict.DIFFERS, Verdict.UNDECIDED)
    assert "With tau = 0.6 instead of 0.4: KD resnet56:resnet20 is undecided" in format_diff(moved)


def test_an_evaluation_of_the_same_weights_is_an_identity_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = "1897153734875314"  # SSKD's resnet56, in checkpoints.csv
    resolver = Resolver({("cifar100", "resnet56"): TeacherRef("resnet56", weights=weights, path="x.pth")})
    text = kit.SMALL.replace('paper = "crd"', 'paper = "sskd"')
    e = matrix.expand(kit.small_table(tmp_path, text), "paper", resolver)
    numbers = kit.published_cells(e, lambda c: 73.44)
    for by, verdict in ((0.0, "same checkpoint"), (0.02, "same checkpoint"), (-0.03, "differs")):
        records = kit.move(kit.golden(e, numbers), only(e, "teacher").runs, by)
        found = run_diff(e, records, numbers)
        cell = pick(found, "Teacher")
        assert cell.verdict == verdict and "the same weights" in cell.reason and cell.low is None
        assert diff.exit_code(found) == (verdict == "differs")
    # counted apart, and not among the cells that share the level
    found = run_diff(e, kit.golden(e, numbers), numbers)
    shown = format_diff(found)
    assert "9 cells: undecided 9. The same checkpoint, evaluated again with the same result: 1 cell." in shown
    # a checkpoint that nobody is known to have published, and another paper's number
    other = kit.published_numbers(e, lambda c: 73.44, paper="crd")
    against = pick(run_diff(e, kit.golden(e, numbers), PublishedCells([*other], "cifar100")), "Teacher")
    assert against.verdict == "missing"
    (tmp_path / "more").mkdir()
    lines = "weights,network,papers,source\nfeed,resnet56,sskd,me\n"
    (tmp_path / "more" / "checkpoints.csv").write_text(lines)
    mine = Resolver({("cifar100", "resnet56"): TeacherRef("resnet56", weights="feed", path="x.pth")})
    e = matrix.expand(kit.small_table(tmp_path, text), "paper", mine)
    assert pick(run_diff(e, kit.golden(e, numbers), numbers), "Teacher").verdict == "undecided"
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path / "more"))
    assert pick(run_diff(e, kit.golden(e, numbers), numbers), "Teacher").verdict == "same checkpoint"


@pytest.mark.parametrize("name", matrix.table_names())
def test_golden_records_of_every_table(name: str) -> None:
    e = matrix.expand(matrix.load_table(name), "paper")
    numbers = PublishedCells.read(e.table.dataset)
    records = kit.golden(e, numbers)
    found = run_diff(e, records, numbers)
    unlike = [c for c in found if c.verdict not in ("undecided", "not comparable", "missing")]
    assert unlike == [] and diff.exit_code(found) == 0
    rows = {r.label: r for r in e.table.rows}
    for c in found:
        if c.verdict == "not comparable":
            assert (
                c.label == "KD"
                or c.reason == rows[c.label].not_comparable
                or "the published number is of the" in c.reason
                or c.reason.startswith(tuple(f"no rule for top-{k} of a linear probe on " for k in (1, 5)))
            ), c
            assert c.reason
        if c.verdict == "missing":
            impossible = c.label == "CAT-KD" and c.reason.startswith("N/A: the classifiers must read")
            assert (c.published is None or rows[c.label].missing or impossible) and c.reason
    nothing_to_judge = name in (
        *("dlkd-ablation", "dlkd-entropy", "dlkd-noisy-labels", "iusp-table", "lightskd", "ssl-cifar100"),
        *("crd-transfer", "hsakd-transfer", "seed-imagenet"),  # probes have no rule
    )
    assert nothing_to_judge or any(c.verdict == "undecided" for c in found)
    some = next((c for c in e.cells if c.row.method == "sp" or c.row.method == "sp+kd"), None)
    if some is not None and not nothing_to_judge:
        moved = run_diff(e, kit.move(records, some.runs, 4.0), numbers)
        assert [(c.label, c.pair) for c in moved if c.verdict == "differs"] == [(some.row.label, some.pair)]
        assert diff.exit_code(moved) == 1


def test_reporting_rule_of_the_protocol_decides(tmp_path: Path) -> None:
    for protocol, rule, expected in (("crd", "last", "differs"), ("sskd", "best", "same within 0.5")):
        e = kit.small(tmp_path, text=kit.SMALL.replace('protocol = "crd"', f'protocol = "{protocol}"'))
        numbers = kit.published_cells(e, lambda c: 72.0, std=0.1, n=3, rule=rule)
        records = [kit.record(r, 71.0, 72.0) for c in e.cells for r in c.runs]
        cell = pick(run_diff(e, records, numbers, tau=0.0), "KD")
        assert (cell.rule, cell.verdict, cell.last, cell.best) == (rule, expected, 71.0, 72.0)


def test_unknown_rule_judges_both_epochs(tmp_path: Path) -> None:
    e = kit.small(tmp_path, text=kit.SMALL.replace('protocol = "crd"', 'protocol = "dlkd"'))
    numbers = kit.published_cells(e, lambda c: 72.0, std=0.1, n=3, rule="unknown")

    def kd(last: float, best: float, numbers: PublishedCells = numbers) -> diff.CellDiff:
        records = [kit.record(r, last, best) for c in e.cells for r in c.runs]
        return pick(run_diff(e, records, numbers, tau=0.0), "KD")

    assert kd(71.95, 72.05).verdict == "same within 0.5" and kd(71.95, 72.05).rule == "both"
    assert kd(73.0, 73.3).verdict == "differs" and kd(73.0, 73.3).delta == pytest.approx(1.0)
    between = kd(71.0, 73.0)
    assert (between.verdict, between.p) == ("undecided", 1.0)
    assert between.low is not None and between.low < -1.0 and between.high is not None and between.high > 1.0
    assert "(delta -1.00 / +1.00)" in between.reason
    known = kit.published_cells(e, lambda c: 72.0, std=0.1, n=3, rule="best")
    assert (kd(71.0, 72.05, known).rule, kd(71.0, 72.05, known).verdict) == ("best", "same within 0.5")


def test_missing_names_the_side(expansion: matrix.Expansion) -> None:
    numbers = kit.published_cells(expansion, lambda c: None if c.row.method == "at" else 70.0)
    records = [kit.record(r, 70.0) for c in expansion.cells if c.row.method != "sp" for r in c.runs]
    found = run_diff(expansion, records, numbers)
    assert pick(found, "AT").verdict == pick(found, "SP").verdict == "missing"
    assert pick(found, "AT").reason == "not published"
    assert pick(found, "SP").reason == "our runs: not run"


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"profile": "quick"}, kit.SMALL, "profile quick"),
        ({"profile": "short"}, kit.SMALL, "profile short"),
        ({"dataset": "cifar10"}, kit.SMALL, "our runs are on cifar10"),
        ({"overrides": (("kd.temperature", 8.0),)}, kit.SMALL, "kd.temperature=8.0"),
        (
            {},
            kit.SMALL.replace('label = "KD"', 'label = "KD"\nnot_comparable = "someone else ran it"'),
            "someone else ran it",
        ),
    ],
)
def test_not_comparable_for_its_reason(tmp_path: Path, options: dict, text: str, reason: str) -> None:
    e = kit.small(tmp_path, text=text, **options)
    numbers = kit.published_cells(e, lambda c: 70.0)
    found = run_diff(e, [kit.record(r, 75.0) for c in e.cells for r in c.runs], numbers)
    cell = pick(found, "KD")
    assert cell.verdict == "not comparable" and reason in cell.reason
    # of another data set a difference is not even shown
    assert cell.delta == (pytest.approx(5.0) if e.dataset == "cifar100" else None)
    assert diff.exit_code([cell]) == 0


def test_a_setting_with_the_published_value_changes_nothing(tmp_path: Path) -> None:
    e = kit.small(tmp_path, overrides=(("kd.temperature", 4.0),))
    numbers = kit.published_cells(e, lambda c: 70.0)
    assert pick(run_diff(e, kit.golden(e, numbers), numbers), "KD").verdict == "undecided"


def test_protocol_override_is_not_comparable(tmp_path: Path) -> None:
    table = dataclasses.replace(kit.small_table(tmp_path), protocol_override="sskd")
    e = matrix.expand(table, "paper")
    numbers = kit.published_cells(e, lambda c: 70.0)
    cell = pick(run_diff(e, kit.golden(e, numbers), numbers), "KD")
    assert cell.verdict == "not comparable" and "protocol sskd" in cell.reason


def test_a_number_published_for_another_epoch_is_not_comparable(expansion: matrix.Expansion) -> None:
    numbers = kit.published_cells(expansion, lambda c: 70.0, rule="best")
    cell = pick(run_diff(expansion, kit.golden(expansion, numbers), numbers), "KD")
    assert cell.verdict == "not comparable" and "best epoch" in cell.reason


def test_missing_rows_and_impossible_pairs(tmp_path: Path) -> None:
    text = kit.SMALL.replace('label = "SP"', 'label = "SP"\nmissing = "comes later"')
    found = run_diff(
        kit.small(tmp_path, text=text),
        [],
        kit.published_cells(kit.small(tmp_path, text=text), lambda c: 70.0),
    )
    assert pick(found, "SP").verdict == "missing" and pick(found, "SP").reason == "comes later"
    text = kit.SMALL.replace("resnet56:resnet20", "none:resnet20")
    e = kit.small(
        tmp_path,
        text=text.replace('[[rows]]\nlabel = "KD"\nmethod = "kd"\n', "").split('[[rows]]\nlabel = "AT"')[0],
    )
    found = run_diff(e, [], kit.published_cells(e, lambda c: 70.0))
    assert pick(found, "Teacher").reason == "N/A: no teacher"


def test_diverged_failed_and_incomplete_runs(expansion: matrix.Expansion, tmp_path: Path) -> None:
    numbers = kit.published_cells(expansion, lambda c: 70.0, std=0.2, n=3)
    store = Store(tmp_path / "runs")
    kd, at, sp = (only(expansion, m).runs for m in ("kd", "at", "sp"))
    kit.write(
        store,
        [
            kit.record(kd[0], 70.0),
            kit.record(kd[1], 70.2),
            kit.record(kd[2], None, status="diverged", reason="loss not finite"),
        ],
    )
    kit.write(store, [kit.record(r, None, status="diverged", reason="loss not finite") for r in at])
    store.write_failure(sp[0].key, "OutOfMemoryError: of memory", "", "")
    found = diff_table(expansion, load(store.folder), store=store, published=numbers)
    assert (pick(found, "KD").verdict, pick(found, "KD").n, pick(found, "KD").seeds) == ("undecided", 2, 3)
    assert pick(found, "KD").notes == ("1 of 3 diverged: not in the mean",)
    assert pick(found, "AT").reason == "our runs: diverged; loss not finite"
    assert pick(found, "SP").reason == "our runs: 2 of 3 not run, 1 of 3 failed; OutOfMemoryError: of memory"


def test_imported_teachers_are_noted(tmp_path: Path) -> None:
    resolver = Resolver(
        {("cifar100", "resnet56"): TeacherRef("resnet56", weights="abcdef0123456789", path="x.pth")}
    )
    e = matrix.expand(kit.small_table(tmp_path), "paper", resolver)
    numbers = kit.published_cells(e, lambda c: 73.44)
    found = run_diff(e, kit.golden(e, numbers), numbers)
    imported = "resnet56 (abcdef0123)"
    assert (pick(found, "Teacher").imported, pick(found, "Teacher").marks) == (imported, "‡")
    assert (pick(found, "KD").imported, pick(found, "KD").marks) == (imported, "")
    assert pick(found, "KD", "wrn_16_2").imported == ""
    line = f"an imported checkpoint, evaluated here; its students learnt from it: {imported}."
    assert f"‡ {line}" in format_diff(found) and "73.44*‡" in format_diff(found)
    students = format_diff([c for c in found if c.method != "teacher"])
    assert "‡" not in students and f"Students learnt from imported checkpoints: {imported}." in students


def test_a_users_record_takes_precedence_over_a_reference_record(expansion: matrix.Expansion) -> None:
    import pandas as pd

    from results.store import frame

    numbers = kit.published_cells(expansion, lambda c: 70.0, std=0.1, n=3)
    runs, at = only(expansion, "kd").runs, only(expansion, "at").runs
    both = pd.concat(
        [
            frame([kit.record(r, 75.0) for r in (*runs, *at)], "reference"),
            kit.as_frame([kit.record(r, 70.0) for r in runs]),
        ]
    )
    for order in (both, both.iloc[::-1]):
        found = diff_table(expansion, order, published=numbers)
        assert pick(found, "KD").ours == 70.0 and not pick(found, "KD").reference
        assert pick(found, "AT").ours == 75.0 and pick(found, "AT").reference
        text = format_diff(found)
        assert "75.00 ± 0.00† " in text and "70.00 ± 0.00† " not in text and "\n† reference records" in text


def test_against_another_paper(expansion: matrix.Expansion) -> None:
    def with_paper(paper: str, **fields: object) -> PublishedCells:
        ours = kit.published_numbers(expansion, lambda c: 70.0)
        other = kit.published_numbers(expansion, lambda c: 71.0, paper=paper, table="t", **fields)
        return PublishedCells([*ours, *other], "cifar100")

    records = [kit.record(r, 70.0, 71.0) for c in expansion.cells for r in c.runs]
    best = pick(run_diff(expansion, records, with_paper("ttm", rule="best"), against="ttm"), "KD")
    assert (best.verdict, best.rule, best.published_in) == ("undecided", "best", "ttm/t")
    assert (
        pick(run_diff(expansion, records, with_paper("ttm", recipe="480 epochs"), against="ttm"), "KD").reason
        == "another recipe: 480 epochs"
    )
    assert (
        pick(run_diff(expansion, records, with_paper("ttm", epochs=480), against="ttm"), "KD").verdict
        == "not comparable"
    )
    assert (
        "sskd has its own protocol"
        in pick(run_diff(expansion, records, with_paper("sskd"), against="sskd"), "KD").reason
    )
    with pytest.raises(InputError, match="unknown paper 'nobody'"):
        run_diff(expansion, records, with_paper("ttm"), against="nobody")


def test_published_number_of_the_table_that_the_row_names(tmp_path: Path) -> None:
    e = kit.small(tmp_path, text=kit.SMALL.replace('label = "KD"', 'label = "KD"\nfrom = "crd/appendix"'))
    table1 = kit.published_numbers(e, lambda c: None if c.row.method == "kd" else 70.0)
    appendix = kit.published_numbers(e, lambda c: 72.0, table="appendix")
    numbers = PublishedCells([*table1, *appendix], "cifar100")
    cell = pick(run_diff(e, kit.golden(e, numbers), numbers), "KD")
    assert (cell.verdict, cell.published, cell.published_in) == ("undecided", 72.0, "crd/appendix")


def test_published_numbers_of_several_tables_are_taken_in_their_order() -> None:
    """The other methods in LightSKD's table: one code's ResNet18, another paper's DenseNet121."""
    e = matrix.expand(matrix.load_table("lightskd"), "paper")
    found = run_diff(e, [], PublishedCells.read("cifar100"))
    bake = {c.student: (c.published, c.published_in) for c in found if c.label == "BAKE" and c.published}
    assert bake == {"ResNet18": (76.93, "selfkdlib/readme"), "DenseNet121": (79.26, "bake/readme")}
    assert not any(c.published for c in found if c.label in ("DRG", "DSR", "DRG+DSR")), (
        "LightSKD's numbers are blank"
    )


def test_every_verdict_is_reached_in_one_table_and_every_format_shows_it(tmp_path: Path) -> None:
    resolver = Resolver(
        {("cifar100", "resnet56"): TeacherRef("resnet56", weights="1897153734875314", path="x.pth")}
    )
    text = kit.SMALL.replace('label = "Student"', 'label = "Student"\nnot_comparable = "other students"')
    text = text.replace('paper = "crd"', 'paper = "sskd"').replace("seeds = 3", "seeds = 9")
    e = matrix.expand(kit.small_table(tmp_path, text), "paper", resolver)
    values = {("at", "resnet20"): 69.0, ("sp", "resnet20"): 69.75, ("at", "wrn_16_2"): None}

    def value(c: matrix.Cell) -> float | None:
        return values.get((c.row.method, c.student), 70.0)

    # one published run of SP on wrn_16_2, without a std
    numbers = [
        replace(x, std=None, n=None) if (x.student, x.method) == ("wrn_16_2", "sp") else x
        for x in kit.published_numbers(e, value, std=0.1, n=30)
    ]
    records = [kit.record(r, 70.0 + 0.01 * r.seed) for c in e.cells for r in c.runs]
    found = run_diff(e, records, PublishedCells(numbers, "cifar100"), tau=0.0)
    assert {c.verdict for c in found} == set(Verdict) and all(found.counts().values())
    for fmt in ("plain", "md", "tex"):
        text = " ".join(format_diff(found, fmt).split())
        for word in (
            *Verdict,
            "between -0.5 and +0.5",
            "chosen on the test set",
            "other students",
            "not published",
            "made for tests",
        ):
            assert word in text.replace("$<$", "<").replace("\\", ""), (fmt, word)
    rows = list(csv.DictReader(io.StringIO(format_diff(found, "csv"))))
    assert [r["verdict"] for r in rows] == [c.verdict for c in found]
    data = json.loads(format_diff(found, "json"))
    assert data["counts"] == found.counts() and len(data["cells"]) == len(found)
    assert "Benjamini" in data["rule"]
    with pytest.raises(InputError, match="unknown format 'html'"):
        format_diff(found, "html")


def test_colours_only_when_asked(expansion: matrix.Expansion) -> None:
    """The colour of the delta is its sign, whatever the verdict."""
    numbers = kit.published_cells(expansion, lambda c: 70.0)
    values = {"kd": 70.5, "at": 69.0}
    records = [kit.record(r, values.get(c.row.method, 70.0)) for c in expansion.cells for r in c.runs]
    found = run_diff(expansion, records, numbers)
    coloured = format_diff(found, color=True)
    assert "\x1b[" not in format_diff(found)
    assert "\x1b[34m+0.50\x1b[0m" in coloured and "\x1b[31m-1.00\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == format_diff(found)


def test_an_assumed_std_is_marked_and_never_printed(expansion: matrix.Expansion) -> None:
    numbers = kit.published_cells(expansion, lambda c: 70.0)
    found = run_diff(expansion, kit.golden(expansion, numbers), numbers)
    assert pick(found, "KD").assumed
    for fmt in ("plain", "md", "tex"):
        text = format_diff(found, fmt).replace("\\*", "*")
        assert "70.00*" in text and "1*" in text and "±" not in text.replace("70.00 ± 0.00", "")
        assert "pm" not in text.replace(r"70.00{\tiny$\pm$0.00}", "")
    # the std of one run, which a file may have, is no measurement
    one = kit.published_cells(expansion, lambda c: 70.0, std=0.7, n=1)
    assert "0.70" not in format_diff(run_diff(expansion, kit.golden(expansion, one), one))


def test_permuting_records_changes_nothing(expansion: matrix.Expansion) -> None:
    numbers = kit.published_cells(expansion, kit.simple_value, std=0.2, n=3)
    rng = random.Random(0)
    records = [
        kit.record(r, rng.uniform(69, 72), rng.uniform(72, 73)) for c in expansion.cells for r in c.runs
    ]
    expected = list(run_diff(expansion, records, numbers))
    for _ in range(5):
        rng.shuffle(records)
        assert list(run_diff(expansion, records, numbers)) == expected
    # seeds exchange their numbers: means, spreads and verdicts stay
    at = {r.key: r for r in only(expansion, "kd").runs}
    own = [r for r in records if r["key"] in at]
    turned = [
        {**r, "top1_last": o["top1_last"], "top1_best": o["top1_best"]}
        for r, o in zip(own, own[1:] + own[:1], strict=True)
    ]
    assert list(run_diff(expansion, [r for r in records if r["key"] not in at] + turned, numbers)) == expected


def test_wrong_fail_on(expansion: matrix.Expansion) -> None:
    with pytest.raises(InputError, match="cannot fail a diff"):
        diff.exit_code([], {"missing"})


def test_a_narrow_terminal_gets_a_block_for_each_pair(
    monkeypatch: pytest.MonkeyPatch, expansion: matrix.Expansion
) -> None:
    runs = [r for c in expansion.cells for r in c.runs]
    records = [kit.record(r, 70.0 + i / 8) for i, r in enumerate(runs)]
    found = run_diff(expansion, records, PublishedCells.read("cifar100"))
    monkeypatch.setenv("COLUMNS", "400")
    wide = format_diff(found)
    monkeypatch.setenv("COLUMNS", "80")
    for color in (False, True):
        lines = [re.sub(r"\x1b\[\d*m", "", line) for line in format_diff(found, color=color).splitlines()]
        assert max(map(len, lines)) <= 80
        for pair in {c.pair for c in found}:
            assert any(line.startswith(f"{pair}, ") for line in lines)
    for c in found:  # nothing is lost: every number of the wide form is in the narrow one
        if c.ours is not None:
            assert f"{c.ours:.2f}" in wide and any(f"{c.ours:.2f}" in line for line in lines)
    half = next((c.high - c.low) / 2 for c in found if c.low is not None and c.high is not None)
    assert any(f"{half:.2f}" in line.split() for line in lines)
