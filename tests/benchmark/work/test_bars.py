"""The bars of a training fit the terminal, and the time left of all packs follows from what was measured."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from benchmark import longwork
from benchmark.spec import cost, matrix, plan
from benchmark.work import bars, progress, total


def packs() -> list[plan.Pack]:
    expansion = matrix.expand(matrix.load_table("dlkd-table1"), "quick")
    return list(plan.make_plan(expansion.runs, None, max_pack=16).packs)


def rendered(what: object, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(what)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 120, 160])
def test_bars_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    planned = packs()
    largest = max(planned, key=lambda pack: len(pack.runs))
    shown = bars.Bars()
    shown.all.plan([pack.runs for pack in planned], "cpu")
    shown.begin(largest.runs, steps_total=1000, steps_done=0)
    now = 130.0
    shown.step(steps=250, images=16_000)
    shown.epoch(largest.runs[0], {"epoch": 3, "test_acc": 56.78, "stage": "main"})
    lines = rendered(shown, width)
    assert len(lines) == 2, "this pack, and all packs"
    assert max(map(len, lines)) <= width
    pack, everything = lines
    assert "25%" in pack
    assert "2 min left" in pack  # 30 s for a quarter: 90 s are left
    bar = {40: 8}.get(width, 20)
    assert "━" * (bar // 4) + "─" * (bar - bar // 4) in pack
    assert "─" * (bar - 1) in everything
    assert " left" in everything and "%" in everything
    assert largest.runs[0].teacher[:8] in pack
    assert ("img/s" in pack) == (width >= 90), "the speed gives way to the title"
    assert ("top-1 56.78" in pack) == (width >= 120), "the last epoch goes first"
    if width >= 80:
        runs = sum(len(p.runs) for p in planned)
        number = planned.index(largest) + 1
        assert f"all: 0 of {runs} runs done, pack {number} of {len(planned)}" in everything


def test_the_time_left_of_all_packs_is_what_the_first_took_times_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    first, *rest = packs()
    everything = total.Total()
    everything.plan([first.runs, *(p.runs for p in rest)], "cpu")
    assert everything.seconds_left() is None
    everything.begin(first.runs, steps_total=40, steps_done=10)
    now = 6.0
    everything.step(30)  # three quarters of the pack in 6 seconds
    for run in first.runs:
        everything.outcome(run)
    modelled = cost.pack_seconds(first.runs, "cpu"), sum(cost.pack_seconds(p.runs, "cpu") for p in rest)
    assert everything.seconds_left() == pytest.approx(8.0 * modelled[1] / modelled[0])
    assert everything.fraction == pytest.approx(modelled[0] / sum(modelled))


def test_a_title_has_the_room_that_it_is_given() -> None:
    runs = max(packs(), key=lambda pack: len(pack.runs)).runs
    titles = [total.pack_title(runs, room) for room in range(1, 121)]
    assert all(len(title) <= room for room, title in enumerate(titles, 1))
    assert f"{len(runs)} runs (seed 0)" in total.pack_title(runs, 50)
    assert "kd" in titles[-1]


def test_lines_say_how_much_of_all_packs_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    planned = packs()
    lines = progress.Lines()
    lines.plan([pack.runs for pack in planned], "cpu")
    lines.begin(planned[0].runs, steps_total=10, steps_done=0)
    runs = sum(len(p.runs) for p in planned)
    assert f"all: 0 of {runs} runs done, pack 1 of {len(planned)}" in capsys.readouterr().err


@pytest.mark.parametrize("width", [50, 80])
def test_a_bar_of_long_work_fits_the_terminal(width: int) -> None:
    work = longwork.Task("reading " + "a long name " * 20, total=12_345, unit="files")
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress_bar = longwork._progress(work, console)
    progress_bar.add_task(longwork._title(work, width), total=work.total, completed=6_000)
    lines = rendered(progress_bar.get_renderable(), width)
    assert len(lines) == 1 and len(lines[0]) <= width
    assert "6000/12345" in lines[0] and "files" in lines[0] and "━" in lines[0]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress.reporter(), progress.Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(progress.reporter(), bars.Live)
