"""Tables, rows and settings that make no sense are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_kit import FAST, SMALL, TABLE, refused

from benchmark.__main__ import main

pytestmark = pytest.mark.usefixtures("untrained")


@pytest.mark.parametrize(
    "setting",
    ["kd.temperature=0", "crd.temperature=0", "crd.negatives=0", "crd.momentum=1.5", "crd.dim=0", "ft.k=0"],
)
def test_settings_that_no_loss_can_use(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert setting.partition("=")[0] in refused(["plan", "crd-table1", "--set", setting], capsys)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds = 1", "seeds = 300000", "1 to 1000"),
        (
            '["none:resnet8"]',
            '["none:resnet8", "none:resnet8"]',
            "repeated columns: none:resnet8; keep one of each",
        ),
        (
            'method = "student"',
            'method = "student"\n[[rows]]\nlabel = "Student"\nmethod = "student"',
            "repeated labels: Student; keep one of each",
        ),
        ('["none:resnet8"]', "[]", "columns is empty; a table has at least one"),
        (
            '[[rows]]\nlabel = "Student"\nmethod = "student"',
            "rows = []",
            "rows is empty; a table has at least one",
        ),
        (
            '"none:resnet8"',
            '"resnet14:none"',
            "pair 'resnet14:none' has no student; write for example resnet56:resnet20",
        ),
        (
            '"none:resnet8"',
            '"none:none"',
            "pair 'none:none' has no student; write for example resnet56:resnet20",
        ),
    ],
)
def test_tables_with_duplicate_too_many_or_missing_entries(
    old: str, new: str, said: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(table).write_text(TABLE.replace(old, new))
    assert said in refused(["plan", table], capsys)


KD_ROW = """
[[rows]]
label = "The row"
method = "kd"
"""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            KD_ROW + 'set = { "crd.temperature" = 0.3 }',
            "('The row'): set has crd.temperature, which no run of the row uses; allowed: settings of kd",
        ),
        (
            KD_ROW.replace("kd", "teacher") + 'set = { "recipe.epochs" = 3 }',
            "('The row'): set has recipe.epochs; rows of method teacher have no settings",
        ),
        (
            KD_ROW.replace("kd", "student") + "set = { ce = 0.5 }",
            "('The row'): set has ce; rows of method student have no settings but recipe.FIELD",
        ),
        (
            KD_ROW + 'from = "crd/tabel1"',
            "('The row'): from = 'crd/tabel1' is not a published table (did you mean crd/table1?); allowed: ",
        ),
        (
            KD_ROW + 'from = "crd/table1, crdd/table1"',
            "from = 'crdd/table1' is not a published table (did you mean crd/table1?); allowed: ",
        ),
        (KD_ROW + 'from = "crd"', "from = 'crd' is not a published table"),
        (
            KD_ROW + 'published = "kdd"',
            "unknown name in `published` of mini.toml, row 2 ('The row'): 'kdd' (did you mean kd?); "
            "allowed: ",
        ),
    ],
)
def test_rows_that_name_something_unknown(
    row: str, said: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(table).write_text(TABLE + row)
    assert said in refused(["plan", table], capsys)


@pytest.mark.parametrize(
    "row",
    [
        KD_ROW
        + 'set = { "kd.temperature" = 3.0, ce = 0.5, "recipe.epochs" = 3 }\n'
        + 'from = "crd/table2"\npublished = "kd"',
        KD_ROW.replace('"kd"', '"sskd"') + 'set = { "sskd_head.weight" = 2.0 }',
        KD_ROW.replace('"kd"', '"kd + at"') + 'set = { "kd.weight" = 2.0 }',
        KD_ROW.replace('"kd"', '"hkd"') + 'missing = "no file of it"\nset = { "hkd.weight" = 2.0 }',
    ],
)
def test_rows_with_known_names_are_accepted(row: str, table: str) -> None:
    Path(table).write_text(TABLE.replace("none:", "resnet14:") + row)
    assert main(["plan", table, "--set", "kd.temperature=8"] if '"kd' in row else ["plan", table]) == 0


def test_an_unknown_paper_is_accepted(table: str) -> None:
    """Its values may be in a folder of KD_PUBLISHED that is not set now, or nowhere."""
    Path(table).write_text(
        TABLE.replace("none:", "resnet14:").replace('"crd"\ntable', '"mine"\ntable')
        + KD_ROW
        + 'published = "kdd"'
    )
    assert main(["plan", table]) == 0


NO_LOSS = "every term of the loss has weight 0; give at least one term another weight"


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        ("kd", ["ce=0", "kd.weight=0"], f"'kd': {NO_LOSS}"),
        ("dkd", ["ce=0", "dkd.alpha=0", "dkd.beta=0"], f"'dkd': {NO_LOSS}"),
        ("fsp", ["ce=0"], f"'fsp': {NO_LOSS}"),
        ("sskd", ["sskd_head.weight=0"], f"'sskd_head': {NO_LOSS}"),
        ("kd", ["kd.weight=-4"], "'kd': the term kd has weight -4.0; allowed: 0 and more"),
        ("kd+reviewkd", ["reviewkd.weight=-1"], "the term reviewkd has weight -1.0; allowed: 0 and more"),
        ("kd", ["ce=-4"], "'kd': the term ce has weight -4.0; allowed: 0 and more"),
        ("kd", ["recipe.momentum=2"], "recipe.momentum=2.0; allowed: 0 and more, below 1"),
        ("kd", ["recipe.momentum=1"], "recipe.momentum=1.0; allowed: 0 and more, below 1"),
    ],
)
def test_losses_and_optimisers_that_make_no_sense(
    row: str, settings: list[str], said: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(table).write_text(TABLE.replace("none:", "resnet14:") + KD_ROW.replace('"kd"', f'"{row}"'))
    assert said in refused(["run", table, *FAST, *(w for s in settings for w in ("--set", s))], capsys)


@pytest.mark.parametrize("settings", [["ce=0"], ["kd.weight=0"], ["recipe.momentum=0"]], ids=" ".join)
def test_a_loss_with_one_term_is_accepted(settings: list[str], table: str) -> None:
    Path(table).write_text(TABLE.replace("none:", "resnet14:") + KD_ROW)
    assert main(["plan", table, *SMALL, *(w for s in settings for w in ("--set", s))]) == 0


def test_a_missing_table_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no file nowhere.toml" in refused(["plan", "nowhere.toml"], capsys)
