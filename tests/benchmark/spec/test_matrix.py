"""Table files and their expansion to runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InputError
from benchmark.spec import matrix
from tables.published_cells import PublishedCells


@pytest.mark.parametrize("name", matrix.table_names())
def test_every_table_expands_and_every_empty_cell_has_a_reason(name: str) -> None:
    table = matrix.load_table(name)
    expansion = matrix.expand(table, "paper")
    assert len(expansion.cells) == len(table.columns) * len(table.rows)
    assert all(c.runs or c.reason for c in expansion.cells)
    ordered = [r.key for r in expansion.runs]
    assert all(ordered.index(n.key) < ordered.index(r.key) for r in expansion.runs for n in r.needs_runs)


def test_the_columns_of_self_distillation_have_no_teacher() -> None:
    table = matrix.load_table("lightskd")
    e = matrix.expand(table, "paper")
    assert {c.teacher for c in e.cells} == {"none"} and {r.teacher for r in e.runs} == {"none"}
    (recipe,) = {(r.recipe.epochs, r.recipe.batch_size, r.recipe.drop_last, r.recipe.augment) for r in e.runs}
    assert recipe == (200, 128, True, "resized-crop-flip")


def test_profile_quick_has_the_quick_columns_unless_pairs_are_chosen() -> None:
    table = matrix.load_table("lightskd")
    assert {c.pair for c in matrix.expand(table, "quick").cells} == {"none:ResNet18"}
    chosen = matrix.expand(table, "quick", pairs=["none:ResNet101"])
    assert {c.pair for c in chosen.cells} == {"none:ResNet101"}


def test_quick_columns_must_be_columns(tmp_path: Path) -> None:
    text = (matrix.FOLDER / "lightskd.toml").read_text()
    text = text.replace('quick_columns = ["none:', 'quick_columns = ["none:resnet8", "none:')
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(InputError, match=r"quick_columns has none:resnet8; allowed: none:ResNet18, "):
        matrix.load_table("t", tmp_path)


def test_tables_of_one_protocol_share_runs() -> None:
    tables = ("dlkd-table1", "sskd-table3", "crd-table1")
    keys = {n: {r.key for r in matrix.expand(matrix.load_table(n), "paper").runs} for n in tables}
    assert len(keys["dlkd-table1"] & keys["sskd-table3"]) > 100
    assert not keys["crd-table1"] & keys["sskd-table3"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title = ", "not valid TOML"),
        ('title = "x"', "paper is missing; required: title, paper"),
        ('colour = "x"', "unknown field"),
        ("title = 3", "title = 3 is not a string"),
        ('seeds = "3"', "seeds = '3' is not a whole number"),
        ('title = "a\\nb"', "title contains a line break or control character; remove it"),
        ('title = "a\\u001b[2Jb"', "title contains a line break or control character; remove it"),
    ],
)
def test_an_error_in_a_table_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        matrix.load_table(str(tmp_path / "mine.toml"))
    assert "\n" not in str(caught.value).strip()


def test_a_setting_reaches_a_combination_written_with_spaces(tmp_path: Path) -> None:
    text = (matrix.FOLDER / "crd-table1.toml").read_text().replace('method = "crd+kd"', 'method = "crd + kd"')
    (tmp_path / "t.toml").write_text(text)
    table = matrix.load_table("t", tmp_path)
    expansion = matrix.expand(table, "paper", seeds=[0], overrides=(("kd.temperature", 8.0),))
    runs = [r for r in expansion.runs if r.method == "crd+kd"]
    assert runs and all(r.settings["method"]["components"]["kd"]["temperature"] == 8.0 for r in runs)


def test_settings_that_change_no_run_leave_no_suffix() -> None:
    table = matrix.load_table("crd-table1")
    pairs, only_methods = ["resnet56:resnet20"], ["kd"]
    default, other = (
        matrix.expand(
            table,
            "paper",
            pairs=pairs,
            only_methods=only_methods,
            overrides=matrix.parse_overrides([f"kd.temperature={t}"]),
        )
        for t in (4, 8)
    )
    assert (default.overrides, default.suffix) == ((), "")
    assert other.suffix == "-set-kd.temperature=8.0"


def test_settings_are_parsed() -> None:
    assert matrix.parse_overrides(["kd.temperature=8", "recipe.epochs=3", "ce=0.5"]) == (
        ("ce", 0.5),
        ("kd.temperature", 8.0),
        ("recipe.epochs", 3),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kd.temperature", "is not written method.field=value"),
        ("kd.tau=3", "unknown setting of kd 'tau'"),
        ("nope.x=1", "unknown method 'nope'"),
        ("kd.temperature=warm", "kd.temperature='warm' is not a finite number"),
        ("kd.temperature=nan", "kd.temperature='nan' is not a finite number"),
        ("recipe.epochs=0", "recipe.epochs=0; allowed: 1 to "),
        ("recipe.wings=2", "unknown setting of recipe 'wings'"),
    ],
)
def test_a_wrong_setting_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        matrix.parse_overrides([text])


def test_a_method_without_a_row_gets_one() -> None:
    table = matrix.load_table("crd-table1")
    options = {"pairs": ["resnet56:resnet20"], "seeds": [0]}
    e = matrix.expand(table, "quick", only_methods=["kd", "DIST", "dist+kd"], **options)  # type: ignore[arg-type]
    assert [row.label for row in e.table.rows[len(table.rows) :]] == ["DIST", "DIST+KD"]
    shown = {c.row.method: c for c in e.cells}
    assert set(shown) == {"teacher", "student", "kd", "dist", "dist+kd"}
    assert [r.method for r in shown["dist"].runs] == ["dist"]
    assert {r.protocol for c in e.cells for r in c.runs} == {"crd"}
    published = PublishedCells.read(table.dataset)
    assert published.of(e.table, shown["kd"]) is not None and published.of(e.table, shown["dist"]) is None
    usual = matrix.expand(table, "quick", only_methods=["kd"], **options)  # type: ignore[arg-type]
    assert {r.key for r in usual.runs} < {r.key for r in e.runs}, "the other rows are as without it"
    with pytest.raises(InputError, match="did you mean kd"):
        matrix.expand(table, "quick", only_methods=["kdd"], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown method"):
        matrix.expand(table, "quick", only_methods=["plain"], **options)  # type: ignore[arg-type]
