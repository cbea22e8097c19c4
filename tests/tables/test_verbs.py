"""The verbs of `benchmark/cli/tables.py`, called as a user does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import records_kit as kit

from benchmark.__main__ import main
from benchmark.cli import selection
from benchmark.spec import matrix
from results.store import Store


def test_table_and_diff_tell_failed_from_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    e = kit.small(tmp_path)
    kd = next(c for c in e.cells if c.row.method == "kd" and c.student == "resnet20")
    store = Store(tmp_path / "runs")
    store.write_failure(kd.runs[0].key, "out of memory", "a traceback", "2026-01-01T00:00:00")
    choice = [str(tmp_path / "small.toml"), "--profile", "paper", "--results", str(store.folder)]
    assert main(["diff", *choice, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    reason = next(c["reason"] for c in cells if c["method"] == "kd" and c["student"] == "resnet20")
    assert reason == "our runs: 2 of 3 not run, 1 of 3 failed; out of memory"
    assert main(["table", *choice, "--out", str(tmp_path / "out"), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 3 failed" in printed and "out of memory" in printed
    assert (tmp_path / "out" / "small-paper.md").read_text(encoding="utf-8") == printed.rstrip("\n") + "\n"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'paper = "crd"',
            'paper = "crdd"',
            "small: the registry has no published numbers of paper 'crdd' (did you mean crd?); name folders",
        ),
        (
            'table = "table1"',
            'table = "tabel1"',
            "small: the registry has no published numbers of table 'tabel1' of crd (did you mean table1?); ",
        ),
        (
            'paper = "crd"',
            'paper = "my-own-work"',
            "paper 'my-own-work'; name folders with more in KD_PUBLISHED=",
        ),
        ("", "", ""),
    ],
)
def test_a_table_without_published_numbers_is_noted(
    old: str, new: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be intended or a misspelt name, so the diff continues."""
    kit.small_table(tmp_path, kit.SMALL.replace(old, new) if old else kit.SMALL)
    (tmp_path / "runs").mkdir()
    choice = [str(tmp_path / "small.toml"), "--profile", "paper", "--results", str(tmp_path / "runs")]
    for verb in (["diff", *choice], ["report", *choice, "--out", str(tmp_path / "out")]):
        assert main(verb) == 0
        notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
        assert [expected in n for n in notes] == ([True] if expected else [])
    assert main(["diff", *choice, "--against", "sskd"]) == 0
    assert "note: " not in capsys.readouterr().err


def test_table_writes_the_static_figures_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    e = kit.small(tmp_path)
    kd = next(c for c in e.cells if c.row.method == "kd" and c.student == "resnet20")
    store = Store(tmp_path / "runs")
    kit.write(store, [kit.record(r, 70.0) for r in kd.runs], {r.key: kit.curve(r, 12) for r in kd.runs})
    choice = [
        "table",
        str(tmp_path / "small.toml"),
        "--profile",
        "paper",
        "--results",
        str(store.folder),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(choice) == 0
    plain = {p.name for p in (tmp_path / "out").iterdir()}
    assert main([*choice, "--figures"]) == 0
    more = sorted({p.name for p in (tmp_path / "out").iterdir()} - plain)
    stems = ("curves-KD-resnet56-resnet20", "delta", "forest")
    assert more == [f"small-paper-{x}.{kind}" for x in stems for kind in ("pdf", "png", "svg")]
    errors = capsys.readouterr().err
    assert all(str(tmp_path / "out" / name) in errors for name in more)
    assert main([*choice, "--out", os.devnull]) == 0  # only printed, as docs/generate.py asks for it
    out, errors = capsys.readouterr()
    assert "A small table" in out and errors == "wrote nothing\n"


def test_a_table_of_other_settings_is_not_taken_for_the_published_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    e = kit.small(tmp_path)
    other = kit.small(tmp_path, overrides=(("recipe.epochs", 1),))
    store, out = Store(tmp_path / "runs"), tmp_path / "out"
    kit.write(store, [kit.record(r, 70.0) for r in e.runs] + [kit.record(r, 5.0) for r in other.runs])
    choice = [str(tmp_path / "small.toml"), "--profile", "paper", "--results", str(store.folder)]
    for verb in ("table", "report"):
        assert main([verb, *choice, "--out", str(out)]) == 0
    files = {p: p.read_bytes() for p in out.iterdir()}
    capsys.readouterr()
    for verb in ("table", "report"):
        assert main([verb, *choice, "--out", str(out), "--set", "recipe.epochs=1"]) == 0
    assert "SETTINGS CHANGED: recipe.epochs=1. " in capsys.readouterr().out
    assert {p: p.read_bytes() for p in files} == files and len(list(out.iterdir())) == 2 * len(files)
    assert main(["diff", *choice, "--set", "recipe.epochs=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(line.startswith("SETTINGS CHANGED: recipe.epochs=1. ") for line in found["head"])
    assert {c["profile"] for c in found["cells"]} == {"paper-set-recipe.epochs=1"}


@pytest.mark.parametrize(
    ("pair", "more", "shown"),
    [
        ("ResNet34:ResNet18", (), ("kd on imagenet", "70.66", "= crd-line/imagenet")),
        ("ResNet34:ResNet18", ("--metric", "top5"), ("kd on imagenet", "89.88")),
        ("vgg13:MobileNetV2_hsakd", (), ("75.21 ± 0.24",)),
        (
            "resnet56:resnet20",
            (),
            ("kd on cifar100\n", "kd on cifar100-25\n", "70.66 ± 0.24", "65.15 ± 0.23"),
        ),
        (
            "resnet56:resnet20",
            ("--dataset", "cifar100-25"),
            ("65.15 ± 0.23", "1 published value of 1 result"),
        ),
    ],
)
def test_published_shows_every_value_of_a_cell(
    pair: str, more: tuple[str, ...], shown: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """It also shows pairs that cannot be trained here: ImageNet's, and networks that share only the name."""
    assert main(["published", "--pair", pair, "--method", "kd", *more]) == 0
    text = capsys.readouterr().out
    assert [s for s in shown if s not in text] == []
    assert main(["published", "--pair", pair, "--method", "kd", *more, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) >= 1


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_published_knows_the_names_of_imagenet_networks_in_tables(
    more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for pair in ("ResNet34:ResNet18", "resnet34_imagenet:resnet18_imagenet"):
        assert main(["published", "--pair", pair, "--method", "kd", "--dataset", "imagenet", *more]) == 0
        outputs.append(capsys.readouterr().out)
    assert main(["published", "--pair", pair, "--method", "kd", *more]) == 0
    outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2] and "71.37" in outputs[0]


def test_published_without_a_value_names_those_of_the_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--pair", "ResNet34:ResNet18", "--method", "nst"]) == 0
    assert (
        "nst on imagenet: no published top1; published of this pair: at, cat-kd, cc, "
        in capsys.readouterr().out
    )


def test_published_of_one_network_names_the_pairs_with_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    """A plain student is published in the columns of all its pairs, and alone only in a few tables."""
    assert main(["published", "--pair", "none:resnet20", "--method", "student"]) == 0
    text = capsys.readouterr().out
    assert (
        "68.92" in text and "also published in the columns of resnet110:resnet20, resnet56:resnet20\n" in text
    )
    for pair, method, shown in (
        ("none:resnet20", "kd", "resnet56:resnet20"),
        ("resnet56:none", "teacher", "resnet56:resnet20"),
    ):
        assert main(["published", "--pair", pair, "--method", method]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{pair} {method} on cifar100: no published top1; ") and shown in line


@pytest.mark.parametrize(
    "wrong",
    [
        ("resnet56", "kd"),
        ("resnet57:resnet20", "kd"),
        ("resnet56:resnet20", "nope"),
        ("resnet56:resnet20", "kd+nope"),
        ("resnet56:resnet20", "kd", "--dataset", "mnist"),
        ("resnet56:resnet20", "kd", "--metric", "f1"),
    ],
    ids=" ".join,
)
def test_published_of_unknown_names_is_one_line_and_exit_code_2(
    wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pair, method, *more = wrong
    assert main(["published", "--pair", pair, "--method", method, *more]) == 2
    out, errors = capsys.readouterr()
    assert (
        out == ""
        and len(errors.strip().splitlines()) == 1
        and errors.startswith("error: ")
        and "allowed: " in errors
    )


def test_report_shows_the_profile_that_has_records_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "table_names", lambda: ("crd-table1", "sskd-table3"))
    monkeypatch.setattr(selection, "has_gpu", lambda: False)
    e = matrix.expand(matrix.load_table("sskd-table3"), "paper", seeds=[0])
    store = Store(tmp_path / "runs")
    kit.write(store, [kit.record(e.cells[-1].runs[0], 70.0)])
    choice = ["report", "--results", str(store.folder), "--out", str(tmp_path / "out")]
    assert main(choice) == 0
    assert "no record of profile quick; showing paper, short instead" in capsys.readouterr().err
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert 'data-table="sskd-table3"' in page and 'data-table="crd-table1"' not in page and "70.00" in page
    assert main([*choice, "--profile", "quick"]) == 0
    assert "no record of profile quick in " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["table", "report", "diff", "status", "run"])
def test_a_file_where_a_folder_should_be_is_one_line_and_exit_code_2(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    kit.small_table(tmp_path)
    table = str(tmp_path / "small.toml")
    places = ["--out"] if verb in ("table", "report") else []
    for option in (*places, "--results"):
        assert main([verb, table, "--profile", "quick", option, str(tmp_path / "file" / "below")]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert (
            last.startswith("error: ")
            and "file is not a folder; give a folder, or a path where one can be made" in last
        )


def test_bibtex_of_a_users_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit.small_table(tmp_path)
    assert main(["methods", str(tmp_path / "small.toml"), "--bibtex"]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("@")]
    assert len(found) == 3 and "hinton2015distilling" in found[0]
    assert main(["methods", str(tmp_path / "none.toml"), "--bibtex"]) == 2
