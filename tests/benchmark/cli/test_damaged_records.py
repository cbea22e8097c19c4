"""One bad file in the results folder breaks no reader: it is read, or named once and skipped."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import results
from benchmark.__main__ import main
from benchmark.cli import running, status
from benchmark.spec import imported, matrix, measured_speed, plan
from benchmark.spec.matrix import Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import closure
from benchmark.work import stale
from results.store import REFERENCE, Store
from tables import diff, render, report

TEACHERS = REFERENCE / "teachers"
SELECTION = ["--profile", "short", "--pairs", "resnet56:resnet20", "--methods", "kd", "--seeds", "1"]
OPTIONS = [*SELECTION, "--teachers", str(TEACHERS)]

BAD: tuple[Any, ...] = (
    *(None, "x", "", -1, 2.5, 1e300, 10**30, math.nan, math.inf, True, [], {}, [[1]], {"x": []}),
    *("\ud800", "a\nb", {"\udfff": 1}),
)
"""Values that a field of a damaged record may have."""

SEEDS = 200
"""How many of all pairs of a field and a bad value are tried."""


def expand(seeds: int) -> Expansion:
    return matrix.expand(
        matrix.load_table("sskd-table3"),
        "short",
        Resolver(imported.teachers_in(TEACHERS)),
        seeds=range(seeds),
        pairs=["resnet56:resnet20"],
        only_methods=["kd"],
    )


@pytest.fixture(scope="module")
def expansion() -> Expansion:
    return expand(seeds=1)


@pytest.fixture
def good(expansion: Expansion, tmp_path: Path) -> tuple[Store, str]:
    """Copy the reference records of a table. Returns the store, and the key of the kd run."""
    for run in expansion.runs:
        shutil.copytree(REFERENCE / run.key, tmp_path / run.key)
    return Store(tmp_path), next(r.key for r in expansion.runs if r.method == "kd")


def write(store: Store, key: str, record: Any) -> None:
    (store.path(key) / "record.json").write_text(json.dumps(record))


def read_everywhere(expansion: Expansion, store: Store, page: bool = False) -> tuple[set[str], list[str]]:
    """Call every reader of records. Returns the keys that could be read, and the lines on the others.

    page: also make the report, which takes longer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        frame = results.load(store.folder)
    rows, states = status.status_rows(closure(expansion.runs), store)
    status.format_status(rows)
    planned = plan.make_plan(expansion.runs, store)
    plan.summary(planned, "cpu", factor=measured_speed.factor_of(store, "cpu"))
    running._note_edited_methods(planned, store)
    stale.find_stale(store, Resolver(imported.teachers_in(TEACHERS)))
    render.render(expansion, frame, "plain", store)
    diff.diff_table(expansion, frame, store=store)
    if page:
        report.page([expansion], frame, store)
    keys = set(frame["key"])
    assert {k for k, state in states.items() if state in ("done", "diverged")} == keys & states.keys()
    return keys, frame.attrs["skipped"]


def fields_of(record: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field, also within objects."""
    for name, value in record.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from fields_of(value, (*path, name))


def test_a_record_with_any_wrong_field_is_read_or_named(tmp_path: Path) -> None:
    """Many records at once, each with another wrong field."""
    expansion, store = expand(seeds=SEEDS), Store(tmp_path)
    runs = [r for r in expansion.runs if r.method == "kd"]
    record = json.loads((REFERENCE / runs[0].key / "record.json").read_bytes())
    record |= {"sources": {"kd": "0123"}, "per_class": {"apple": 50.0}}
    cases = [(field, value) for field in fields_of(record) for value in BAD]
    cases = random.Random(0).sample(cases, len(runs))
    for run, (field, value) in zip(runs, cases, strict=True):
        damaged = copy.deepcopy({**record, "key": run.key, "seed": run.seed, "order": run.order()})
        inner = damaged
        for name in field[:-1]:
            inner = inner[name]
        inner[field[-1]] = value
        store.path(run.key).mkdir(parents=True)
        write(store, run.key, damaged)
    keys, skipped = read_everywhere(expansion, store, page=True)
    for run, case in zip(runs, cases, strict=True):
        named = sum(f"{run.key}/record.json" in line for line in skipped)
        assert named == (run.key not in keys), case
    assert SEEDS / 4 < len(skipped) < SEEDS, "some values are right for their field, most are not"


@pytest.mark.parametrize("missing", ["test_images", "seconds", "order", "teacher_info", "finished"])
def test_a_record_without_a_field_that_some_reader_uses_is_read(
    missing: str, good: tuple[Store, str], expansion: Expansion
) -> None:
    store, key = good
    record = store.record(key) or {}
    del record[missing]
    write(store, key, record)
    assert len(read_everywhere(expansion, store)[0]) == 3


DEEP = "[" * 100_000
FILES = {
    "record.json": [DEEP, '{"a":' * 500 + "1" + "}" * 500, "\ufeff", "NaN", '"\\ud800"', "\x00"],
    "failure.json": [DEEP, "[]", '{"reason": [1], "traceback": 3, "time": {}, "blocked": "x"}'],
    "progress.json": [DEEP, '{"top1": "x", "eta_seconds": 1e300, "epoch": [], "node": 3}'],
    "began.json": [DEEP],
    "curve.csv": [
        "epoch\n1e300\n",
        "epoch,train_loss,test_acc\nx,y,z\n",
        'epoch,"\n',
        "stage,epoch\nmain,1,2,3\n",
    ],
}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in FILES.items() for t in texts])
def test_other_damaged_files_break_no_reader(
    name: str, text: str, good: tuple[Store, str], expansion: Expansion
) -> None:
    store, key = good
    if name != "curve.csv":
        (store.path(key) / "record.json").unlink()
    if name == "progress.json":
        claim = store.claim(key)  # it is read of a run that is running
        assert claim is not None
    (store.path(key) / name).write_text(text)
    read_everywhere(expansion, store, page=name == "curve.csv")


@pytest.mark.parametrize("verb", ["status", "plan", "table", "diff", "report", "clean", "logs", "submit"])
def test_every_verb_names_a_record_that_cannot_be_used_once(
    verb: str, good: tuple[Store, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = good
    (store.path(key) / "record.json").write_text(DEEP)
    (store.path(key) / "log.txt").write_text("a line\n")
    folders = ["--results", str(store.folder)]
    argv = {
        "clean": ["clean", *folders],
        "logs": ["logs", key, *folders],
        "submit": ["submit", "sskd-table3", *OPTIONS, *folders, "--cluster", "lab", "--dry-run"],
        "report": ["report", "sskd-table3", *OPTIONS, *folders, "--out", str(tmp_path / "out")],
        "table": ["table", "sskd-table3", *OPTIONS, *folders, "--out", os.devnull],
    }.get(verb, [verb, "sskd-table3", *OPTIONS, *folders])
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("too deeply nested") == 1, shown
    assert f"{key}/record.json" in shown.out + shown.err


def test_status_counts_the_other_runs_beside_a_record_of_a_newer_version(
    good: tuple[Store, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = good
    write(store, key, {**(store.record(key) or {}), "schema": 2})
    assert main(["status", "sskd-table3", *OPTIONS, "--results", str(store.folder)]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "2 done, 1 absent" and "left:" not in shown.out
    assert shown.err.count("update kd-tables") == 1


def test_loops_of_links_are_named_and_skipped(good: tuple[Store, str], expansion: Expansion) -> None:
    store, _ = good
    os.symlink(store.folder, store.folder / "cifar100" / "up")
    os.symlink("itself", store.folder / "itself")
    os.symlink(store.folder / "cifar100", store.folder / "alias")  # no loop, and its records are no runs
    keys, skipped = read_everywhere(expansion, store)
    assert len(keys) == 3
    assert sum("/alias/" in line and "record.json" in line for line in skipped) == 3
    others = [line for line in skipped if "record.json" not in line]
    assert sum("itself: cannot be read" in line for line in others) == 1
    assert sum("up: a link to a folder that it is in" in line for line in others) == len(others) - 1 == 2
    assert main(["logs", "itself", "--results", str(store.folder)]) == 2, "no log, but no traceback either"
