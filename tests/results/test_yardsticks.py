"""s0 and tau by data set and metric, computed again from the registry's table by another route."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pandas as pd
import pytest

from results import published
from results.published import reader, yardsticks
from results.published.yardsticks import TAU, TOP5_TAU, WIDE_TAU, WIDE_TOP5_TAU


def usual(dataset: str, metric: str) -> float:
    frame = published.load()
    of = frame[(frame.dataset == dataset) & (frame.metric == metric) & (frame.method != "teacher")]
    return float(of["value"].median()) / 100


def test_s0_of_imagenet_is_cifars_scaled_as_a_share_of_its_test_images() -> None:
    sticks, cifar = yardsticks.yardsticks(), usual("cifar100", "top1")
    of_cifar = cifar * (1 - cifar) / 10_000
    for metric, tau in (("top1", TAU), ("top5", TOP5_TAU)):
        p, stick = usual("imagenet", metric), sticks["imagenet", metric]
        expected = math.sqrt(p * (1 - p) / 50_000 / of_cifar)
        assert stick.scale == pytest.approx(expected) and stick.tau == tau
        assert stick.s0("resnet18_imagenet") == pytest.approx(expected * published.seed_stds().overall.s0)
    assert sticks["imagenet", "top5"].s0("") < sticks["imagenet", "top1"].s0("") < 0.15
    assert sticks["cifar100", "top1"].s0("vgg8") == published.seed_stds().of("vgg8")


def test_few_shot_has_the_stds_that_are_published_for_it() -> None:
    frame = published.load()
    stds = frame[frame.dataset.str.match("cifar100-[0-9]+$")]["std"].dropna()
    assert len(stds) == 12
    for name in ("cifar100-25", "cifar100-50", "cifar100-75"):
        stick = yardsticks.yardsticks()[name, "top1"]
        assert stick.s0("resnet20") == pytest.approx(math.sqrt((stds**2).mean()))


def test_tau_is_what_papers_that_trained_the_same_cells_leave() -> None:
    """The tau of the rule is within a twentieth of what was seen, or between it and its wider value."""
    frame = published.load()
    frame = frame[(frame.dataset == "imagenet") & (frame.method != "teacher") & frame["value"].notna()]
    trained = frame.origin.str.match("run by|derived: (?!copied)|unknown")
    frame = frame[trained & frame.recipe.eq("")]
    for of in yardsticks.repeated_cells():
        deltas = []
        for _, cell in frame[frame.metric == of.metric].groupby(["teacher", "student", "method"]):
            firsts = cell.drop_duplicates("paper")
            for a, b in itertools.combinations(firsts.itertuples(), 2):
                if abs(a.value - b.value) > 0.051 and {a.rule, b.rule} != {"last", "best"}:
                    deltas.append(a.value - b.value)
        assert sorted(map(abs, of.differences)) == pytest.approx(sorted(map(abs, deltas)))
        s0 = yardsticks.yardsticks()["imagenet", of.metric].s0("")
        assert of.tau == pytest.approx(math.sqrt(float((pd.Series(deltas) ** 2).mean()) - 2 * s0**2))
        usual, wide = (TAU, WIDE_TAU) if of.metric == "top1" else (TOP5_TAU, WIDE_TOP5_TAU)
        assert 0.95 * of.tau <= usual or usual < of.tau < wide


def test_a_copy_is_no_difference_and_another_recipe_no_evidence() -> None:
    number = next(
        x for x in reader.numbers() if x.dataset == "imagenet" and x.metric == "top1" and x.method == "kd"
    )
    first = replace(number, paper="a", method="new", value=70.0, origin="run by a", rule="unknown")
    second = replace(first, paper="b", value=70.3)

    def new(*others: published.PublishedNumber) -> int:
        every = (*reader.numbers(), first, *others)
        return sum(len(of.differences) for of in yardsticks.repeated_cells(every))

    none = new()
    assert new(second) == none + 1
    for change in ({"value": 70.05}, {"recipe": "longer"}, {"origin": "copied from a/t"}, {"paper": "a"}):
        assert new(replace(second, **change)) == none, change  # type: ignore[arg-type]


def test_what_nobody_printed_twice_has_no_yardstick() -> None:
    of = {(x.dataset, x.metric) for x in reader.built_in()}
    without = {("cifar10", "top1"), ("cifar100", "top5"), ("stl10", "probe_top1")}
    without |= {("tinyimagenet", "probe_top1"), ("imagenet", "probe_top1"), ("imagenet", "probe_top5")}
    assert of - set(yardsticks.yardsticks()) == without
    text = yardsticks.no_yardstick("stl10", "probe_top1")
    assert text.startswith("no rule for top-1 of a linear probe on stl10")
