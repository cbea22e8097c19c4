"""What `reproduce` prints is one screen, and nothing is wider than the terminal."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import records_kit as kit

from benchmark.__main__ import main
from benchmark.spec import matrix
from benchmark.text import command_name
from results.store import Store
from tables import overview, plain, render
from tables.text import terminal_width


@pytest.fixture
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def digits_table(folder: Path, fail: bool = False) -> Store:
    """Write made-up records of a quick DLKD Table 1, which has ties, as 256 test images give."""
    store, draw = Store(folder), random.Random(0)
    expansion = matrix.expand(matrix.load_table("dlkd-table1"), "quick")
    runs = list(expansion.runs)
    if fail:
        store.write_failure(runs.pop().key, "out of memory", "a traceback", "2026-01-01T00:00:00")
        diverged = runs.pop()
        kit.write(store, [kit.record(diverged, None, status="diverged", reason="NaN in epoch 1")])
    kit.write(store, [kit.record(run, draw.choice([96.0, 96.5, 97.25, 98.0])) for run in runs])
    return store


@pytest.mark.usefixtures("eighty")
@pytest.mark.parametrize("fail", [False, True])
def test_reproduce_ends_in_one_screen(fail: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = digits_table(tmp_path / "runs", fail)
    out = tmp_path / "out"
    argv = ["reproduce", "dlkd-table1", "--profile", "quick", "--results", str(store.folder)]
    assert main([*argv, "--out", str(out)]) == int(fail)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    paths = (str(tmp_path), "dlkd-table1-quick.{")  # a path is not broken, however long it is
    assert max(len(line) for line in lines if not any(p in line for p in paths)) <= 80
    assert lines[0].startswith("DLKD Table 1: ") and lines[0].endswith("; profile quick")
    text = "\n".join(lines)
    total = len(matrix.expand(matrix.load_table("dlkd-table1"), "quick").runs)
    ended = f"{total - 2} done, 1 diverged, 1 failed" if fail else f"{total} done, 0 diverged, 0 failed"
    assert f"runs: {ended}; " in text
    assert "vs. published: not comparable in profile quick; every cell:" in text
    command = f"    {command_name()} diff dlkd-table1 --profile quick --results {store.folder}"
    assert command in lines, "in one piece, to be copied"
    assert "dlkd-table1-quick.{md,tex,csv,png,pdf,svg}" in text
    assert ("`retry`" in text) == fail
    assert "[1]" not in text or fail, "the reasons of every cell are those of `diff`"


@pytest.mark.parametrize("width", [40, 60, 80, 118])
def test_a_table_is_not_wider_than_the_terminal(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    e = matrix.expand(matrix.load_table("dlkd-table1"), "quick")
    records = [kit.record(run, 70 + i / 100) for i, run in enumerate(e.runs)]
    layout = render.lay_out(e, kit.as_frame(records))
    lines = render.plain_lines(layout)
    assert max(map(len, lines)) <= width
    heads = sum(line.count(" resnet20") + line.startswith("resnet20") for line in lines)
    assert heads == 1, "each column once"
    labels = [line for line in lines if line.startswith("FitNet")]
    assert (len(labels) > 1) == (width < 80), "each part has the labels"
    numbers = [word for line in lines for word in line.replace("*", "").replace("_", "").split()]
    means = {f"{r.sample('best').mean:.2f}" for r in layout.results if r.cell.row.method != "dlkd"}  # type: ignore[union-attr]
    assert means <= set(numbers)


def test_a_column_wider_than_the_terminal_stands_alone() -> None:
    lines = plain.plain_table(["a"], ["x" * 50, "y"], [["1", "2"]], width=40)
    assert [line.split() for line in lines if line.startswith("a")] == [["a", "1"], ["a", "2"]]


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() == 118, "a file or a pipe has no width"
    for columns, width in {"80": 80, "500": 118, "1": 40, "": 118, "wide": 118}.items():
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal_width() == width


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ([98.0, 98.0, 98.0, 98.0], [0, 0, 0, 0]),
        ([98.0, 98.0, 98.0, 96.0], [0, 0, 0, 0]),
        ([98.0, 98.0, 97.0, 96.0], [1, 1, 2, 0]),
        ([98.0, 97.0, 97.0, 97.0], [1, 0, 0, 0]),
        ([98.0, 97.0, 96.0, 95.0], [1, 2, 0, 0]),
    ],
)
def test_a_rank_that_many_methods_share_is_not_marked(
    values: list[float], ranks: list[int], tmp_path: Path
) -> None:
    text = kit.SMALL + '[[rows]]\nlabel = "PKT"\nmethod = "pkt"\n'
    e = kit.small(tmp_path, text=text, pairs=["resnet56:resnet20"], seeds=[0])
    value = dict(zip(("kd", "at", "sp", "pkt"), values, strict=True))
    records = [kit.record(run, value.get(run.method, 60.0)) for cell in e.cells for run in cell.runs]
    layout = render.lay_out(e, kit.as_frame(records))
    by_method = {row.method: line[0].rank for row, line in zip(layout.rows, layout.entries, strict=True)}
    assert [by_method[m] for m in value] == ranks


def test_files_that_differ_in_their_ending_are_one() -> None:
    assert overview.files_line(["o/a.md", "o/a.png", "o/b.md"]) == ["wrote o/a.{md,png}", "wrote o/b.{md}"]


@pytest.mark.usefixtures("eighty")
def test_published_values_are_not_wider_than_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["published", "--pair", "resnet32x4:resnet8x4", "--method", "kd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "top-1 73.33 ± 0.25" in lines and "  epoch: last" in lines
