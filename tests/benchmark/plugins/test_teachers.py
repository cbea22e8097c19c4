"""`teachers.toml`: which checkpoint teaches, by network, data set, pair and table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plugins_kit import use
from training_kit import small_run, train

import models
from benchmark import measures, methods
from benchmark.errors import InputError
from benchmark.spec import matrix, teacher_table
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run
from slurm import snapshot

ENTRY = """
[[teachers]]
network = "resnet14"
dataset = "digits"
file = "FILE.pth"
"""
TEXT = (
    ENTRY.replace("FILE", "usual")
    + (ENTRY.replace("FILE", "pair") + 'pair = "resnet14:resnet8"\n')
    + (ENTRY.replace("FILE", "table") + 'table = "mine"\nepoch = "best"\n')
    + (ENTRY.replace("FILE", "both") + 'table = "mine"\npair = "resnet14:resnet20"\n')
)
TABLE = """
title = "t"
paper = "t"
table = "t"
dataset = "digits"
protocol = "crd"
seeds = 1
columns = ["resnet14:resnet8", "resnet14:resnet20", "resnet14:resnet32"]
[[rows]]
label = "Teacher"
method = "teacher"
[[rows]]
label = "SSKD"
method = "sskd"
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    methods.clear_cache()


@pytest.fixture
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Write teachers.toml and its checkpoints. Returns the hash of each checkpoint by its name."""
    folder = use(tmp_path / "p", monkeypatch, teachers_toml=TEXT)
    (tmp_path / "mine.toml").write_text(TABLE)
    found = {}
    for seed, name in enumerate(("usual", "pair", "table", "both")):
        torch.manual_seed(seed)
        net = models.build("resnet14", 10)
        models.save_weights(net, folder / f"{name}.pth")
        found[name] = models.weights_hash(net)
    return found


def teacher_of(run: Run) -> str:
    assert run.teacher_ref is not None
    return run.teacher_ref.weights


def test_a_pair_has_precedence_outside_of_tables(hashes: dict[str, str]) -> None:
    assert teacher_of(small_run("kd", student="resnet8")) == hashes["pair"]
    assert teacher_of(small_run("kd", student="resnet20")) == hashes["usual"]
    assert small_run("kd", teacher="resnet20").teacher_ref.run is not None  # type: ignore[union-attr]


def test_the_cells_of_a_table(hashes: dict[str, str], tmp_path: Path) -> None:
    table = matrix.load_table(str(tmp_path / "mine.toml"))
    expansion = matrix.expand(table, "quick")
    cells = {(c.row.label, c.student): c.runs[0] for c in expansion.cells}
    expected = {"resnet8": "pair", "resnet20": "both", "resnet32": "table"}
    for student, name in expected.items():
        run = cells["SSKD", student]
        assert teacher_of(run) == hashes[name] == teacher_of(run.heads[0]), student
        measured = cells["Teacher", student].evaluates
        assert measured is not None and measured.weights == hashes[name]
    # pair beats table; a worker restores every run, and its head, from its order
    orders = json.loads(json.dumps([run.order() for run in expansion.runs]))
    assert [Resolver().from_order(o).key for o in orders] == [run.key for run in expansion.runs]
    elsewhere = matrix.expand(replace(table, name="other"), "quick")
    keys = {(c.row.label, c.student): c.runs[0] for c in elsewhere.cells}
    assert teacher_of(keys["SSKD", "resnet20"]) == hashes["usual"]
    assert keys["SSKD", "resnet20"].key != cells["SSKD", "resnet20"].key


def test_an_order_to_measure_a_checkpoint_names_its_weights(hashes: dict[str, str], tmp_path: Path) -> None:
    """Its key ends in the hash of its settings, not of the weights."""
    for name in ("pair", "both"):
        (entry,) = (e for e in teacher_table.entries() if e.file.stem == name)
        resolver = Resolver()
        tested = resolver.imported_run(entry.ref(), dataset="digits", protocol="crd", profile="quick")
        run = resolver.measuring(entry.ref(), measures.parse("knn"), tested)
        restored = Resolver().from_order(json.loads(json.dumps(run.order())))
        assert restored.key == run.key and restored.evaluates is not None
        assert restored.evaluates.weights == hashes[name]


def test_it_teaches(hashes: dict[str, str], tmp_path: Path) -> None:
    run = small_run("kd", student="resnet8", recipe__train_images=32, recipe__epochs=1)
    (outcome,) = train([run], tmp_path / "r", accept_weak_teacher=True)
    assert outcome.status == "done"
    record = json.loads((tmp_path / "r" / run.key / "record.json").read_text())
    assert record["teacher_info"]["weights"] == hashes["pair"]


def test_the_snapshot_has_absolute_paths(
    hashes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = small_run("kd").key
    copy = snapshot.take(tmp_path / "snapshots")
    monkeypatch.setenv("KD_PLUGINS", snapshot.environment_variables(copy)["KD_PLUGINS"])
    methods.clear_cache()
    assert [e.epoch for e in teacher_table.entries()] == ["last", "last", "best", "last"]
    assert small_run("kd").key == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = ", "not valid TOML"),
        ("x = 1", "unknown field in .*teachers.toml: 'x'"),
        ("teachers = 1", r"start every teacher with \[\[teachers\]\]"),
        (ENTRY.replace("network", "net"), "unknown field in .*teacher 1: 'net'"),
        (ENTRY.replace("resnet14", "resnet15"), "unknown network in .*teacher 1: 'resnet15'"),
        (ENTRY.replace("digits", "digit"), "unknown data set 'digit'"),
        (ENTRY + "table = 3", "table = 3; it must be text"),
        (ENTRY + 'epoch = "first"', "epoch = 'first'; allowed: last, best"),
        (ENTRY + 'pair = "resnet20:resnet8"', "the teacher of pair resnet20:resnet8 is not resnet14"),
        (ENTRY + ENTRY, "teacher 1 and .*teacher 2 are for the same runs; keep one"),
        (ENTRY, "teacher 1: .*FILE.pth"),
        (ENTRY.replace("FILE", "wide"), "teacher 1: .*wide.pth: weights of another network"),
        (ENTRY.replace("FILE", "usual") + 'weights = "ab"', "usual.pth has the weights .*, not ab; correct"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, problem: str, hashes: dict[str, str], tmp_path: Path) -> None:
    models.save_weights(models.build("resnet8x4", 10), tmp_path / "p" / "wide.pth")
    (tmp_path / "p" / "teachers.toml").write_text(text)
    methods.clear_cache()
    with pytest.raises(InputError) as error:
        small_run("kd")
    assert re.search(problem, str(error.value)) and "\n" not in str(error.value), str(error.value)
