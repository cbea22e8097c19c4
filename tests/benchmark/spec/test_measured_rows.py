"""Tables of what is measured: the section `[measure]`, its rows and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InputError
from benchmark.spec import cost, decoding, matrix

TABLE = """
title = "t"
paper = "mine"
table = "t"
dataset = "cifar100"
protocol = "crd"
seeds = 2
columns = ["resnet14:resnet8"]

[measure]
{measure}

[[rows]]
label = "Teacher"
method = "teacher"

[[rows]]
label = "KD"
method = "kd"
"""

KNN = 'name = "knn"\ntargets = ["cifar10", "digits"]\nquick_targets = ["digits", "digits"]\nset = {k = 3}'


def load(tmp_path: Path, measure: str = KNN) -> matrix.Table:
    path = tmp_path / "measured.toml"
    path.write_text(TABLE.format(measure=measure))
    return matrix.load_table(str(path))


def test_every_target_has_its_rows_and_runs(tmp_path: Path) -> None:
    table = load(tmp_path)
    labels = ["Teacher, CIFAR-10", "KD, CIFAR-10", "Teacher, scikit-learn digits", "KD, scikit-learn digits"]
    assert [row.label for row in table.rows] == labels
    assert [row.group for row in table.rows] == ["CIFAR-10"] * 2 + ["scikit-learn digits"] * 2
    cells = matrix.expand(table, "paper").cells
    assert [(c.runs[0].measured_on, len(c.runs)) for c in cells] == [
        ("cifar10", 1), ("cifar10", 2), ("digits", 1), ("digits", 2),
    ]  # fmt: skip
    subject = cells[1].runs[1].evaluates
    assert subject is not None and subject.run is not None
    assert (subject.run.method, subject.run.seed, subject.epoch) == ("kd", 1, "last")
    expansion = matrix.expand(table, "paper")
    assert len([r for r in expansion.runs if r.measure is None]) == 3, "the trainings are shared by targets"


def test_a_target_in_a_folder_is_looked_for_only_by_its_runs(tmp_path: Path) -> None:
    """A table of another data set is read before the folder of data sets is known."""
    table = load(tmp_path, 'name = "knn"\ntargets = ["digits", "folder:pets@160"]')
    assert [row.label for row in table.rows][1::2] == ["KD, scikit-learn digits", "KD, folder:pets@160"]
    with pytest.raises(InputError, match="folder:pets"):
        matrix.expand(table, "paper")


def test_profile_and_settings(tmp_path: Path) -> None:
    overrides = matrix.parse_overrides(["knn.temperature=1", "recipe.epochs=1"])
    (cell, *_) = matrix.expand(load(tmp_path), "quick", overrides=overrides).cells
    (run,) = cell.runs
    assert run.measure is not None and run.measured_on == "digits"
    fields = run.measure.fields()
    assert (fields["k"], fields["temperature"], fields["test_images"]) == (3, 1.0, 256)
    assert run.evaluates is not None and run.evaluates.run is not None
    assert run.evaluates.run.recipe.epochs == 1


def test_a_method_that_is_added_is_measured_too(tmp_path: Path) -> None:
    cells = matrix.expand(load(tmp_path), "quick", only_methods=["fitnet"]).cells
    assert [c.row.label for c in cells if c.row.method == "fitnet"] == [
        "FitNet, CIFAR-10", "FitNet, scikit-learn digits",
    ]  # fmt: skip
    assert all(run.measure is not None for c in cells for run in c.runs)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("set = {k = 3}", "has no name"),
        ('name = "nearest"', "unknown measure"),
        ('name = "knn"\ntarget = "cifar10"', "unknown field"),
        ('name = "knn"\ntargets = []', "targets"),
        ('name = "knn"\ntargets = ["cifar1"]', "cifar1"),
        ('name = "knn"\ntargets = ["cifar10"]\nquick_targets = ["a", "b"]', "quick_targets"),
        ('name = "knn"\nepoch = "first"', "first"),
        ('name = "knn"\nset = {k = "x"}', "knn.k"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, measure: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, measure)


def test_a_run_that_measures_trains_in_no_epoch(tmp_path: Path) -> None:
    runs = matrix.expand(load(tmp_path), "paper").runs
    for run in runs:
        trains = run.measure is None
        assert (decoding.sum_of_epochs(run) > 0) == (cost.steps(run) > 0) == trains
    assert {run.measure is None for run in runs} == {True, False}
