"""A claim has one holder. It ends with its process, and is taken over by one process only."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from results import claims, holders
from results.claims import Claim, ClaimError, ClaimLost
from results.files import atomic, read_json, write_json
from results.holders import STALE_SECONDS
from results.store import Store

ROOT = Path(__file__).resolve().parents[2]
DEAD = {"started": "0"}
"""Makes a claim of this process one of an earlier process with the same number."""


def write(path: Path, age: float = 0.0, **changes: Any) -> Path:
    """Write a claim of this process with changes. age: seconds since its last heartbeat."""
    path.write_text(json.dumps({**holders.identity("t"), **changes}), encoding="utf-8")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def refuse(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int) -> None:
    """Make a function of the file system fail, as on a file system without it."""

    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, name, refused)


# --- one process after the other ----------------------------------------------------------------------------


def test_a_dead_holders_claim_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys,time; sys.path.insert(0, sys.argv[1]); "
        "from pathlib import Path; from results.claims import Claim; "
        "assert Claim.take(Path(sys.argv[2])); print('ok', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path / "claim")], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"ok\n"
    assert Claim.take(tmp_path / "claim") is None, "its holder lives"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    claim = Claim.take(tmp_path / "claim")
    assert claim is not None and claim.mine() and os.listdir(tmp_path) == ["claim"]
    claim.release()
    assert not os.listdir(tmp_path)


def test_a_claim_of_another_machine_ends_with_its_heartbeat(tmp_path: Path) -> None:
    path = write(tmp_path / "claim", host="elsewhere")
    assert Claim.take(path) is None
    write(path, host="elsewhere", age=STALE_SECONDS + 5)
    assert Claim.take(path) is not None


def test_a_suspended_process_keeps_its_claim(tmp_path: Path) -> None:
    """It has no heartbeat, but it may continue. So has a process on a machine that slept."""
    claim = Claim.take(tmp_path / "claim")
    assert claim is not None
    old = time.time() - STALE_SECONDS - 5
    os.utime(tmp_path / "claim", (old, old))
    assert Claim.take(tmp_path / "claim") is None and claim.mine()


def test_only_the_holders_heartbeat_counts(tmp_path: Path) -> None:
    claim = Claim.take(tmp_path / "claim")
    assert claim is not None
    write(claim.path, age=60, token="another")
    before = claim.path.stat().st_mtime
    claim.beat()
    assert claim.path.stat().st_mtime == before
    write(claim.path, age=60, token=claim.token)
    claim.beat()
    assert claim.path.stat().st_mtime > before + 50


def test_a_claim_dated_ahead_does_not_block_for_ever(tmp_path: Path) -> None:
    path = write(tmp_path / "claim", host="elsewhere", age=-86400)
    assert Claim.take(path) is None, "its holder may be about to touch it again"
    assert abs(path.stat().st_mtime - time.time()) < 30, "from now on its age counts"


def test_a_process_that_was_halted_replaces_no_file_of_its_successor(tmp_path: Path) -> None:
    """It may halt at any moment, also while it writes a file, which its successor removes."""
    store = Store(tmp_path)
    claim = store.claim("x")
    assert claim is not None
    write_json(tmp_path / "x" / "f", 1)
    write(claim.path, token="another")
    with pytest.raises(ClaimLost, match="taken over"):
        write_json(tmp_path / "x" / "f", 2)
    write(claim.path, token=claim.token)
    with pytest.raises(ClaimLost), atomic(tmp_path / "x" / "f") as file:
        file.write("2")
        next((tmp_path / "x").glob(".f.*")).unlink()
        write(claim.path, token="another")
    assert read_json(tmp_path / "x" / "f") == 1 and sorted(os.listdir(tmp_path / "x")) == ["claim", "f"]
    claim.release()
    write_json(tmp_path / "x" / "f", 3)


# --- which processes are alive ------------------------------------------------------------------------------


def hide_processes(monkeypatch: pytest.MonkeyPatch, answer: type[OSError] | None) -> None:
    """Hide all processes, as /proc mounted with hidepid does. answer: what a signal to one of them raises."""

    def kill(pid: int, number: int) -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(holders, "_stat", lambda pid: None)
    monkeypatch.setattr(holders.os, "kill", kill)


@pytest.mark.parametrize(
    ("answer", "alive"), [(PermissionError, True), (None, True), (ProcessLookupError, False)], ids=str
)
def test_a_process_that_proc_hides(
    answer: type[OSError] | None, alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under hidepid, /proc lacks the processes of other users. Only a signal tells that one is dead."""
    path = write(tmp_path / "claim", pid=77)
    hide_processes(monkeypatch, answer)
    assert (Claim.holder(path) is not None) == alive
    write(path, pid=77, age=STALE_SECONDS + 5)
    assert Claim.holder(path) is None, "without its heartbeat it counts as dead"


@pytest.mark.parametrize("field", ["boot", "pid_namespace", "host"])
@pytest.mark.parametrize("value", ["another", None], ids=str)
def test_a_process_number_of_elsewhere_means_nothing(field: str, value: str | None, tmp_path: Path) -> None:
    """Containers on one machine often share its name, and have other processes with the same numbers."""
    changes: dict[str, Any] = {"pid": 2**22 + 1, field: value}
    path = write(tmp_path / "claim", **changes)
    assert Claim.holder(path) is not None
    write(path, age=STALE_SECONDS + 5, **changes)
    assert Claim.holder(path) is None
    write(path, pid=2**22 + 1)
    assert Claim.holder(path) is None, "here there is no such process"


def test_another_process_with_the_number_of_the_holder(tmp_path: Path) -> None:
    assert Claim.holder(write(tmp_path / "claim")) is not None
    assert Claim.holder(write(tmp_path / "claim", **DEAD)) is None


@pytest.mark.parametrize("pid", [None, "7", -1, 0, True, 10**30, [], {}], ids=str)
def test_an_impossible_process_number(pid: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "claim", pid=pid, started=None)
    assert Claim.holder(path) is not None, "its heartbeat counts"
    assert Claim.holder(write(path, pid=pid, started=None, age=STALE_SECONDS + 5)) is None


# --- what is no claim ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", '"x"', "null", "{", "[" * 9999, "\udcff", json.dumps({"host": socket.gethostname()})],
    ids=range(9),
)
def test_a_damaged_claim_is_taken_over_and_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "claim"
    path.write_text(content, errors="surrogateescape")
    assert Claim.holder(path) is None and not Claim(path, "x").mine()
    claim = Claim.take(path)
    assert claim is not None and claim.mine() and claim.notice == f"{path}: a damaged claim, taken over"


@pytest.mark.parametrize(
    "make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)], ids=range(3)
)
def test_what_cannot_be_a_claim_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "claim"
    make(path)
    assert Claim.holder(path) is None and not Claim(path, "x").mine()
    with pytest.raises(ClaimError, match="remove it") as error:
        Claim.take(path)
    assert error.value.filename == str(path) and os.path.lexists(path)
    Claim(path, "x").beat()
    Claim(path, "x").release()
    assert os.listdir(tmp_path) == ["claim"]


# --- file systems -------------------------------------------------------------------------------------------


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, os, "link", errno.EPERM)
    claim = Claim.take(write(tmp_path / "claim", **DEAD))
    assert claim is not None and claim.mine() and "no hard links" in claim.notice
    assert Claim.take(claim.path) is None and os.listdir(tmp_path) == ["claim"]
    claim.release()
    assert not os.listdir(tmp_path)
    refuse(monkeypatch, fcntl, "flock", errno.ENOLCK)
    with pytest.raises(ClaimError, match="neither hard links nor file locks"):
        Claim.take(claim.path)
    assert not os.listdir(tmp_path)


def test_on_a_full_disk_a_claim_is_given_up_and_none_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Claim.take(tmp_path / "claim")
    assert claim is not None
    refuse(monkeypatch, Path, "write_bytes", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left") as error:
        Claim.take(tmp_path / "other")
    assert str(error.value.filename).startswith(str(tmp_path))
    refuse(monkeypatch, claims, "_lock", errno.ENOSPC)
    claim.release()
    assert not os.listdir(tmp_path)


def test_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Those of a process that is just writing `.clock-` (any reader may) or works on another claim stay."""
    store = Store(tmp_path)
    folder = store.path("x")
    folder.mkdir()
    for name in (".checkpoint.pt.abc.tmp", ".claim.0123", ".clock-1", ".clock-2", ".other.0123", "log.txt"):
        (folder / name).touch()
    os.utime(folder / ".clock-1", (1, 1))
    assert store.claim("x") is not None
    assert sorted(os.listdir(folder)) == [".clock-2", ".other.0123", "claim", "log.txt"]


# --- two processes ------------------------------------------------------------------------------------------

EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.utime", "os.listdir", "fcntl.flock")
_before: Callable[[str], None] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _before is not None and event in EVENTS:
        _before(event)


sys.addaudithook(_audit)


def pause(first: Callable[[], Any], number: int, second: Callable[[], Any]) -> tuple[Any, Any, bool]:
    """Call `first`, and `second` just before the first's n-th call of the file system.

    Returns both results, and whether there was an n-th call.
    """
    global _before
    left, answer = number, []

    def before(event: str) -> None:
        global _before
        nonlocal left
        left -= 1
        if left == 0:
            _before = None
            answer.append(second())

    _before = before
    try:
        result = first()
    finally:
        _before = None
    return result, answer[0] if answer else None, bool(answer)


@pytest.fixture(params=["locks", "no locks"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose locks work, and one without. In the latter, a claim is checked after it was moved away."""
    monkeypatch.setattr(claims, "PATIENCE", 0.02)
    if request.param == "no locks":
        refuse(monkeypatch, fcntl, "flock", errno.ENOLCK)


def test_a_slow_process_leaves_the_claim_of_a_faster_one(file_system: None, tmp_path: Path) -> None:
    """Both find the same dead claim; the slower one halts before any of its calls of the file system."""
    path = tmp_path / "claim"
    for number in range(1, 100):
        write(path, **DEAD)
        slow, fast, paused = pause(lambda: Claim.take(path), number, lambda: Claim.take(path))
        winners = [claim for claim in (slow, fast) if claim is not None]
        assert len(winners) == 1 and winners[0].mine(), f"halted at call {number}"
        if not paused:
            break
    assert 5 < number < 99


def test_a_slow_holder_leaves_the_claim_of_its_successor(file_system: None, tmp_path: Path) -> None:
    """It gives up a claim that it has just lost, because it was halted for so long."""
    path, successors = tmp_path / "claim", 0
    slow = Claim(path, "slow")
    for number in range(1, 100):
        write(path, token="slow", **DEAD)
        _, fast, paused = pause(slow.release, number, lambda: Claim.take(path))
        assert not slow.mine()
        if fast is not None:
            assert fast.mine(), f"halted at call {number}"
            successors += 1
            fast.release()
        if not paused:
            break
    assert successors and 3 < number < 99
    assert not os.listdir(tmp_path)


ROUNDS = 40


def _race(folder: str, barrier: Any, results: Any) -> None:
    mine = []
    for number in range(ROUNDS):
        barrier.wait()
        claim = Claim.take(Path(folder, f"{number}", "claim"))
        barrier.wait()
        mine.append(claim is not None and claim.mine())
    results.put(mine)


def test_of_several_processes_one_gets_the_claim(tmp_path: Path) -> None:
    """In every other round there is the claim of a dead process."""
    for number in range(ROUNDS):
        (tmp_path / f"{number}").mkdir()
        if number % 2:
            write(tmp_path / f"{number}" / "claim", **DEAD)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_race, args=(str(tmp_path), barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    each = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [sum(winners) for winners in zip(*each, strict=True)] == [1] * ROUNDS
