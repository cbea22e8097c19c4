"""`clean` removes stale runs and nothing else: it keeps what it does not understand or what is being used."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmark import methods
from benchmark.__main__ import main
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from benchmark.work import stale
from results.claims import Claim
from results.store import Store, load

KEY = "cifar100/crd/quick/resnet14-resnet8/kd/seed0-0123456789"
RUN = Resolver().run(Request("cifar100", "crd", "quick", "resnet14", "resnet8", "kd"), 0)


def finished(runs: Path, key: str = KEY, order: Any = None, **changes: Any) -> Path:
    """Write a finished run. Its key does not fit its order, so that it is stale, unless an order is given."""
    order = {**RUN.order(), "key": key, **changes} if order is None else order
    Store(runs).write_record(
        key,
        {"schema": 1, "key": key, "dataset": "cifar100", "protocol": "crd", "profile": "quick",
         "teacher": "resnet14", "student": "resnet8", "method": "kd", "seed": 0, "status": "done",
         "settings": {}, "order": order},
    )  # fmt: skip
    return runs / key


def started(runs: Path, key: str = KEY) -> Path:
    (runs / key).mkdir(parents=True, exist_ok=True)
    (runs / key / "log.txt").write_text("")
    (runs / key / "checkpoint.pt").write_bytes(b"x")
    return runs / key


def clean(runs: Path, *more: str) -> None:
    assert main(["clean", "--results", str(runs), "--yes", *more]) == 0


@pytest.mark.parametrize(
    "foreign",
    [".", "mywork", "a/b/c/d/e/f", "cifar100/crd/quick/resnet14-resnet8/kd", f"{KEY}/sub", f"{KEY}0"],
)
def test_only_a_runs_folder_is_removed(
    foreign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = started(tmp_path, foreign)
    (mine / "thesis.txt").write_text("mine")
    run, done = started(tmp_path, KEY.replace("seed0", "seed1")), finished(tmp_path, RUN.key)
    clean(tmp_path, "--unfinished")
    assert (
        (mine / "thesis.txt").exists()
        and (mine / "log.txt").exists()
        and (done / "record.json").exists()
        and not run.exists()
    )
    assert "1 folder kept" in capsys.readouterr().err


def test_an_unfinished_measurement_of_a_teacher_is_a_run(tmp_path: Path) -> None:
    run = started(tmp_path, "cifar100/crd/quick/none-resnet14/imported/0123456789abcdef")
    clean(tmp_path, "--unfinished")
    assert not run.exists()


def test_a_folder_with_another_record_in_or_below_it_is_kept(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / KEY / "record.json").write_text("{")
    other = started(tmp_path, KEY.replace("seed0", "seed1"))
    (other / "below").mkdir()
    (other / "below" / "record.json").write_text("{}")
    clean(tmp_path, "--unfinished")
    assert (tmp_path / KEY / "log.txt").exists() and (other / "log.txt").exists()


def test_a_claimed_run_is_kept_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(tmp_path)
    claim = Store(tmp_path).claim(KEY)
    assert claim is not None
    clean(tmp_path, "--unfinished")
    assert run.exists() and f"{KEY}: kept: being worked on" in capsys.readouterr().out
    claim.release()
    # A worker starts the run after `find_stale` and before its removal.
    find_stale = stale.find_stale

    def find_and_start(store: Store, resolver: Resolver, **options: bool) -> stale.StaleRuns:
        runs = find_stale(store, resolver, **options)
        assert store.claim(KEY) is not None
        return runs

    monkeypatch.setattr(stale, "find_stale", find_and_start)
    clean(tmp_path, "--unfinished")
    printed = capsys.readouterr()
    assert (
        (run / "log.txt").exists()
        and f"{KEY}: kept: being worked on" in printed.out
        and "0 runs removed" in printed.err
    )


def test_a_run_that_finishes_before_its_removal_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(tmp_path)
    find_stale = stale.find_stale

    def find_and_finish(store: Store, resolver: Resolver, **options: bool) -> stale.StaleRuns:
        runs = find_stale(store, resolver, **options)
        finished(tmp_path)
        return runs

    monkeypatch.setattr(stale, "find_stale", find_and_finish)
    clean(tmp_path, "--unfinished")
    assert (run / "record.json").exists() and not (run / "claim").exists()


@pytest.mark.parametrize(
    "changes",
    [{"method": "mine"}, {"method": "kd+mine"}, {"overrides": [["mine.weight", 2.0]]}, {"student": "mine"},
     {"teacher": "mine"}, {"protocol": "mine"}, {"profile": "mine"}, {"dataset": "mine"}],
    ids=str,
)  # fmt: skip
def test_a_run_with_an_unknown_name_is_kept_and_named(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, **changes)
    clean(tmp_path)
    assert (run / "record.json").exists()
    assert f"{KEY}: kept: unknown here: " in (out := capsys.readouterr().out) and "'mine'" in out


def test_an_old_key_is_removed_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    (run / "folder").mkdir()
    (run / "folder" / "x").write_text("")
    clean(tmp_path)
    assert not run.exists() and f"{KEY}: old key" in capsys.readouterr().out


@pytest.mark.parametrize(
    "order", [{}, {"key": KEY}, {**RUN.order(), "overrides": 3}, {**RUN.order(), "method": 3},
              {**RUN.order(), "protocol": ["crd"]}, {**RUN.order(), "protocol": "mine", "method": 3}], ids=str
)  # fmt: skip
def test_a_record_with_a_damaged_order_is_kept_and_named(
    order: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, order=order)
    clean(tmp_path)
    assert (run / "record.json").exists()
    assert capsys.readouterr().out == f"{KEY}: kept: {stale.Reason.DAMAGED_ORDER.value}\n"


@pytest.mark.parametrize("order", [[1], "x", 3], ids=str)
def test_a_record_whose_order_is_no_object_cannot_be_used_and_is_kept(
    order: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = finished(tmp_path) / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "order": order}))
    clean(tmp_path)
    assert record.exists()
    assert f"{KEY}: kept: {stale.Reason.UNUSABLE.value}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00\x01\x80", b"\x00\x01\x02\n", b"a,b\n1,2,3\n1,2,3,4,5\n"]
)
def test_a_damaged_curve_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "curve.csv").write_bytes(content)
    assert Store(tmp_path).curve("x") is None


def test_a_record_that_is_a_folder_counts_as_damaged(tmp_path: Path) -> None:
    for name in ("record.json", "failure.json", "progress.json"):
        (tmp_path / KEY / name).mkdir(parents=True)
    store = Store(tmp_path)
    assert store.record(KEY) is None and store.progress(KEY) is None and store.state(KEY) == "failed"
    with pytest.warns(UserWarning, match=r"record\.json: damaged"):
        assert load(tmp_path).empty
    clean(tmp_path, "--unfinished")
    assert (tmp_path / KEY / "record.json").exists()


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '"x"', "null", json.dumps({"host": socket.gethostname(), "pid": []}), "{"],
    ids=range(6),
)
def test_a_damaged_claim_has_no_holder(content: str, tmp_path: Path) -> None:
    path = tmp_path / "claim"
    path.write_text(content)
    assert Claim.holder(path) is None and not Claim(path, "x").mine()
    claim = Claim.take(path)
    assert claim is not None and claim.mine()


def test_plain_is_only_offered_where_it_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "plain"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'plain' is training without a method") and error.count("\n") == 1
    assert "plain" not in error.partition("allowed:")[2]
    assert main(["methods", "nope"]) == 2
    assert "plain" not in capsys.readouterr().err
    with pytest.raises(InputError, match="allowed: plain, "):
        methods.parse("nope")


def test_what_a_killed_process_left_in_a_finished_run_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, busy = finished(tmp_path, RUN.key), finished(tmp_path, RUN.key.replace("seed0", "seed1"))
    for folder in (run, busy):
        (folder / "checkpoint.pt").write_bytes(b"x")
    (run / "claim").write_text("")  # of a process that was killed while it claimed the run, long ago
    os.utime(run / "claim", (0, 0))
    claim = Store(tmp_path).claim(busy.relative_to(tmp_path).as_posix())
    assert claim is not None
    assert main(["clean", "--results", str(tmp_path)]) == 0
    assert (run / "checkpoint.pt").exists()
    clean(tmp_path)
    claim.release()
    assert [p.name for p in run.iterdir()] == ["record.json"]
    assert (busy / "checkpoint.pt").exists()
    printed = capsys.readouterr()
    assert f"{RUN.key}: checkpoint.pt, claim, left by a process" in printed.out
    assert "what was left in 1 finished run removed" in printed.err
