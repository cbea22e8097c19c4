"""Long work is shown with its amount and the time left; quick work, and work within other work, is not."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from benchmark import longwork


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # a traceback that pytest keeps may hold a generator of `each`, and with it the lock
    monkeypatch.setattr(longwork, "_outermost", threading.Lock())
    longwork.show(True)
    yield
    longwork.show(False)
    longwork.occupy(False)


class Terminal(io.StringIO):
    """Stands in for a terminal."""

    def isatty(self) -> bool:
        return True


def wait_for(read: Callable[[], str], text: str) -> None:
    """Wait until a text is printed. The thread that prints may be delayed on a busy machine."""
    end = time.monotonic() + 30
    while text not in read() and time.monotonic() < end:
        time.sleep(0.002)
    assert text in read()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that reads standard error, which is no terminal. Lines come without delay."""
    monkeypatch.setattr(longwork, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(longwork, "LINE_SECONDS", 0.002)
    printed: list[str] = []

    def read() -> str:
        printed.append(capsys.readouterr().err)
        return "".join(printed)

    return read


def test_quick_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in longwork.each(range(3), "counting", "numbers"):
        pass
    assert capsys.readouterr().err == ""


def test_a_log_gets_lines_with_amount_and_time_left(log: Callable[[], str]) -> None:
    with longwork.task("reading the records", total=2_000, unit="records") as task:
        task.advance(500)
        wait_for(log, "reading the records: 500 of 2,000 records, 0 s, about 0 s left\n")
    assert log().endswith("reading the records: ended after 0 s\n")


def test_work_of_unknown_size_has_the_time_so_far(log: Callable[[], str]) -> None:
    with longwork.task("copying the code"):
        wait_for(log, "copying the code: 0 s so far\n")


def test_the_time_left_follows_from_the_rate() -> None:
    task = longwork.Task("hashing", 400, "files")
    task.began -= 100
    task.reach(100)
    assert task.line() == "hashing: 100 of 400 files, 2 min, about 5 min left"


def test_a_task_within_a_task_or_beside_a_bar_shows_nothing(log: Callable[[], str]) -> None:
    with longwork.task("outer"):
        with longwork.task("inner"):
            wait_for(log, "outer")
    longwork.occupy(True)
    with longwork.task("beside"):
        time.sleep(0.02)
    longwork.occupy(False)
    with longwork.task("after"):
        wait_for(log, "after")
    assert "inner" not in log() and "beside" not in log()


def test_an_error_passes_and_ends_the_task(log: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match="mine"), longwork.task("first"):
        raise ValueError("mine")
    with longwork.task("second"):
        wait_for(log, "second")


def test_a_terminal_gets_a_bar_which_does_not_take_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(longwork, "BAR_SECONDS", 0.0)
    with contextlib.redirect_stderr(Terminal()) as terminal:
        with longwork.task("building", total=10, unit="images") as task:
            task.advance(5)
            wait_for(terminal.getvalue, "5/10")
            print("a result")
    assert capsys.readouterr().out == "a result\n"


def test_a_library_prints_nothing(log: Callable[[], str]) -> None:
    longwork.show(False)
    with longwork.task("silent"):
        time.sleep(0.02)
    assert log() == ""
