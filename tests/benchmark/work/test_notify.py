"""The user's command is told what happened, by variables only, and cannot do harm by failing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmark.__main__ import main
from benchmark.work import local, notify
from results.store import SCHEMA, Store
from slurm import job, notices

NASTY = "a'; touch hacked; $(touch hacked) `touch hacked` \""
KEYS = [f"digits/crd/quick/none-resnet8/plain/seed{n}-000000000{n}" for n in range(2)]


def event(state: str = "done", **fields: Any) -> notify.Event:
    counts = Counter({"done": 2, "diverged": 1})
    return notify.Event(**{"table": NASTY, "state": state, "counts": counts, "results": Path("/r"), **fields})


def finish(store: Store, key: str) -> None:
    names = ("dataset", "protocol", "profile", "teacher", "student", "method")
    record = {**dict.fromkeys(names, "x"), "schema": SCHEMA, "key": key, "seed": 0, "settings": {}}
    store.write_record(key, {**record, "status": "done"})


def test_names_are_no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    command = 'printf "%s|" "$KD_TABLE" "$KD_STATE" "$KD_RUNS" "$KD_DONE" "$KD_FAILED" "$KD_RESULTS" >out'
    assert notify.send(command, event(), notes.append)
    assert (tmp_path / "out").read_text() == f"{NASTY}|done|3|2|0|/r|"
    assert not (tmp_path / "hacked").exists() and notes == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo first line >&2; echo second >&2; exit 3", "(exit code 3: first line)"),
        ("exec /none/such", "(exit code 127"),
        ("sleep 5", "(it took longer than 0 s)"),
    ],
)
def test_a_command_that_fails_is_one_warning(
    command: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in command:
        monkeypatch.setattr(notify, "PATIENCE", 0.1)
    notes: list[str] = []
    assert not notify.send(command, event(), notes.append)
    (note,) = notes
    assert expected in note and "\n" not in note


def test_states_of_a_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not notify.is_over(notify.event("t", store, KEYS))
    finish(store, KEYS[0])
    assert not notify.is_over(notify.event("t", store, KEYS))
    store.write_failure(KEYS[1], "out of memory", "", "")
    happened = notify.event("t", store, KEYS)
    assert notify.is_over(happened) and happened.state == "failed"
    assert (happened.counts["done"], happened.counts["failed"]) == (1, 1)
    finish(store, KEYS[1])
    assert notify.event("t", store, KEYS).state == "done"
    assert notify.event("t", store, KEYS, "OSError: disk full").state == "failed"


def test_the_last_job_runs_the_command_once(tmp_path: Path) -> None:
    """Needs no Slurm: jobs are their calls of `after_job`."""
    store, notes = Store(tmp_path / "runs"), list[str]()
    out = tmp_path / "out"
    command = f'echo "$KD_TABLE $KD_STATE $KD_DONE" >>"{out}"'
    for _ in range(2):  # a repeated submission
        notices.leave(store.folder, "mini", KEYS, command)
    notices.leave(store.folder, "other", ["another run"], command)
    for key in KEYS:
        assert not out.exists()
        finish(store, key)
        notices.after_job(store.folder, [key], "", notes.append)
    notices.after_job(store.folder, KEYS, "", notes.append)
    assert out.read_text() == "mini done 2\n" and notes == []


def test_an_error_of_a_job_ends_the_table(tmp_path: Path) -> None:
    store, notes = Store(tmp_path / "runs"), list[str]()
    notices.leave(store.folder, "mini", KEYS, 'echo "$KD_STATE: $KD_REASON" >&2; exit 1')
    for _ in range(2):
        notices.after_job(store.folder, KEYS[:1], "InputError: no data", notes.append)
    (note,) = notes
    assert "failed: InputError: no data" in note


def test_a_job_that_cannot_train_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("no data")

    calls: list[Any] = []
    monkeypatch.setattr(job, "work", refuse)
    monkeypatch.setattr(notices, "after_job", lambda *args, note: calls.append(args))
    order = {"runs": [{"key": key} for key in KEYS], "settings": {"results": str(tmp_path)}}
    with pytest.raises(ValueError, match="no data"):
        job.PackJob(json.dumps(order))()
    assert calls == [(tmp_path, KEYS, "ValueError: no data")]


def test_run_tells_when_the_table_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, out = tmp_path / "mini.toml", tmp_path / "out"
    table.write_text(
        'title = "Miniature"\npaper = "own"\ntable = "t"\ndataset = "digits"\nprotocol = "crd"\nseeds = 1\n'
        'columns = ["none:resnet8"]\n[[rows]]\nlabel = "Student"\nmethod = "student"\n'
    )
    small = ["--set", "recipe.train_images=32", "--set", "recipe.test_images=20", "--set", "recipe.epochs=2"]
    argv = ["run", str(table), "--profile", "quick", *small, "--threads", "1", "--device", "cpu"]
    argv += [
        "--results",
        str(tmp_path / "runs"),
        "--notify",
        f'echo "$KD_TABLE $KD_STATE $KD_RUNS" >>"{out}"',
    ]
    assert main([*argv, "--until", "1"]) == 0 and not out.exists()
    for _ in range(2):  # the second call trains nothing, and tells nothing
        assert main(argv) == 0
    assert out.read_text() == "mini done 1\n"
    with monkeypatch.context() as patch:
        patch.setattr(local, "run_plan", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*argv, "--seeds", "5,"])
    assert out.read_text() == "mini done 1\nmini failed 1\n"


def test_damaged_notices_are_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = tmp_path / ".slurm" / "notices"
    folder.mkdir(parents=True)
    for name, text in {
        "a": "{",
        "b": "[]",
        "c": '{"table": 1}',
        "d": '{"table": "t", "command": "c", "keys": [1]}',
    }.items():
        (folder / f"{name}.json").write_text(text)
    notices.after_job(store.folder, KEYS, "an error", pytest.fail)
    assert len(list(folder.iterdir())) == 4
