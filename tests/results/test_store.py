"""Damaged records are named and skipped; a failed write leaves the old file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

import results
from results.files import atomic, write_json
from results.store import Store, problems


def record(key: str = "digits/crd/quick/a-b/kd/seed0-1", **changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "key": key,
        "dataset": "digits",
        "protocol": "crd",
        "profile": "quick",
        "teacher": "a",
        "student": "b",
        "method": "kd",
        "seed": 0,
        "status": "done",
        "settings": {},
        "top1_last": 50.0,
        "top1_best": 51.0,
        **changes,
    }


def test_records_become_one_frame(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for i in range(3):
        store.write_record(f"x/s{i}", record(f"x/s{i}", seed=i))
    frame = results.load(tmp_path)
    assert list(frame["seed"]) == [0, 1, 2] and list(frame.columns) == list(results.COLUMNS)
    assert results.load(tmp_path / "nothing").empty


WRONG_TYPES = [
    ("seconds", "long"),
    ("share_seconds", True),
    ("seconds", 10**400),
    ("best_epoch", 3.5),
    ("threads", 10**30),
    ("host", 3),
    ("teacher_info", "x"),
    ("git", [1]),
    ("versions", {"torch": 2}),
]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            '{"schema": 1}',
            json.dumps(record("elsewhere")),
            json.dumps(record("x/bad", top1_last=140)),
        ),
        *(json.dumps(record("x/bad", **{k: v})) for k, v in WRONG_TYPES),
    ],
)
def test_a_damaged_or_foreign_record_is_named_and_skipped_never_deleted(tmp_path: Path, text: str) -> None:
    Store(tmp_path).write_record("x/good", record("x/good"))
    bad = tmp_path / "x" / "bad" / "record.json"
    bad.parent.mkdir()
    bad.write_text(text)
    with pytest.warns(UserWarning, match="bad"):
        frame = results.load(tmp_path)
    assert list(frame["key"]) == ["x/good"] and str(bad) in frame.attrs["skipped"][0]
    assert bad.read_text() == text and Store(tmp_path).record("x/bad") is None


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its key"):
        Store(tmp_path).write_record("x", record("y"))
    assert problems(record()) == ""


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as f:
        f.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError):
        write_json(path, float("nan"))


def test_states(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.state("x") == "absent"
    claim = store.claim("x")
    assert claim is not None and store.state("x") == "running" and store.claim("x") is None
    claim.release()
    (tmp_path / "x" / "checkpoint.pt").touch()
    assert store.state("x") == "started"
    store.write_failure("x", "because", "", "")
    assert store.state("x") == "failed" and store.clear_failure("x") and not store.clear_failure("x")
    store.write_record("x", record("x", status="diverged"))
    assert store.state("x") == "diverged"


def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: .*there\.json") as error,
        atomic(tmp_path / "there.json"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
