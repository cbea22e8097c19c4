"""Training images that are held out to choose the epoch: which, what is recorded, what a table says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_kit import small_run, train, weights

from benchmark import data
from benchmark.errors import InputError
from benchmark.spec import teacher_cache_rule
from benchmark.spec.matrix import parse_overrides
from results.store import Store, load
from tables.cells import number as number_of

HELD = {"recipe__held_out": 16}


def test_held_out_images_are_not_trained_on_and_change_with_the_seed() -> None:
    digits = data.load("digits").train
    sets = {}
    for seed in (0, 1):
        selection = small_run("kd", seed=seed, **HELD).recipe.selection
        assert (selection.images, selection.drawn_from, selection.held_out) == (32, 48, 16)
        assert selection.describe() == "32 of 48 images, the others held out by the seed"
        chosen = selection.apply(digits, seed=seed, num_classes=10)
        held = selection.held_out_of(digits, seed=seed)
        both = torch.cat([chosen.images, held.images]).flatten(1)
        first = digits.images[:48].flatten(1)
        assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, first.tolist()))
        assert len(held.labels) == 16
        sets[seed] = held.images
    assert not torch.equal(sets[0], sets[1])


def test_they_are_in_the_key_and_not_in_the_teachers() -> None:
    plain, held = small_run("kd"), small_run("kd", **HELD)
    assert plain.key == small_run("kd", recipe__held_out=0).key != held.key
    assert [r.key for r in held.needs_runs] == [r.key for r in plain.needs_runs]
    assert not teacher_cache_rule.can_use_cache(held)


@pytest.mark.parametrize(("settings", "text"), [(47, "at most 46"), (-1, "allowed: 0")])
def test_too_many_are_refused(settings: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        parse_overrides([f"recipe.held_out={settings}"])
        small_run("kd", recipe__held_out=settings)


def test_a_share_and_held_out_images_are_refused_together() -> None:
    with pytest.raises(InputError, match="cannot be combined"):
        small_run("kd", recipe__share=0.5, **HELD)


def test_the_record_has_the_test_top1_of_the_epoch_that_they_choose(tmp_path: Path) -> None:
    run = small_run("kd", recipe__epochs=4, **HELD)
    assert [o.status for o in train([run], tmp_path / "whole")] == ["done"]
    store = Store(tmp_path / "whole")
    curve, record = store.curve(run.key), store.record(run.key)
    assert curve is not None and record is not None and curve["held_out_acc"].between(0, 100).all()
    best = curve[curve["held_out_acc"] == curve["held_out_acc"].max()].iloc[0]
    assert record["held_out_epoch"] == best["epoch"] and record["held_out_acc"] == best["held_out_acc"]
    assert record["top1_held_out"] == best["test_acc"] <= record["top1_best"]
    frame = load(tmp_path / "whole", reference=False)
    assert number_of(frame.set_index("key").loc[run.key, "top1_held_out"]) == record["top1_held_out"]

    assert [o.status for o in train([run], tmp_path / "twice", until=2)] == ["stopped"]
    assert [o.status for o in train([run], tmp_path / "twice")] == ["done"]
    again = Store(tmp_path / "twice")
    assert weights(run, tmp_path / "twice") == weights(run, tmp_path / "whole")
    assert again.record(run.key)["top1_held_out"] == record["top1_held_out"]
    assert list(again.curve(run.key)["held_out_acc"]) == list(curve["held_out_acc"])


def test_a_run_without_them_records_nothing_of_it(tmp_path: Path) -> None:
    run = small_run("plain")
    train([run], tmp_path)
    record, curve = Store(tmp_path).record(run.key), Store(tmp_path).curve(run.key)
    assert record is not None and "top1_held_out" not in record
    assert curve is not None and "held_out_acc" not in curve.columns
