"""A folder with very many records is not read as a whole for one table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import results
from results import store as store_module
from results.store import Store, read_records, recent_record_files, record_keys


def write(folder: Path, key: str) -> None:
    record: dict[str, Any] = {
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
    }
    Store(folder).write_record(key, record)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The keys of the records that were read, in order."""
    keys, problems = list[str](), store_module.problems

    def note(record: Any, key: str | None = None) -> str:
        keys.append(str(key))
        return problems(record, key)

    monkeypatch.setattr(store_module, "problems", note)
    yield keys


def test_records_of_some_runs_are_read_alone(tmp_path: Path, read: list[str]) -> None:
    keys = [f"digits/run{i}" for i in range(20)]
    for key in keys:
        write(tmp_path, key)
    read.clear()
    frame = results.load(tmp_path, keys=[keys[7], "digits/absent", keys[3], keys[7]])
    assert list(frame["key"]) == read == [keys[3], keys[7]]


def test_names_of_records_are_listed_without_reading_one(tmp_path: Path, read: list[str]) -> None:
    for key in ("digits/a/b", "digits/c"):
        write(tmp_path, key)
    write(tmp_path / ".slurm", "digits/snapshot")
    read.clear()
    assert record_keys(tmp_path) == {"digits/a/b", "digits/c"}
    assert record_keys(tmp_path / "nothing") == set()
    assert read == []


def test_the_newest_records(tmp_path: Path) -> None:
    for age, name in enumerate(("c", "a", "b")):
        write(tmp_path, f"digits/{name}")
        os.utime(tmp_path / "digits" / name / "record.json", (1000.0 - age, 1000.0 - age))
    newest = recent_record_files(tmp_path, 2)
    assert [record["key"] for record in read_records(tmp_path, newest)[0]] == ["digits/a", "digits/c"]
