"""s0, the spread of origins, and released checkpoints, computed again from the registry's numbers."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from results import published
from results.published import reader, spread
from results.published.checkpoints import published_by
from results.published.schema import PublishedError

MADE_UP = replace(
    next(x for x in reader.numbers() if x.dataset == "cifar100" and x.metric == "top1" and x.value),
    paper="a",
    table="t",
    teacher="resnet56",
    student="resnet20",
    method="kd",
    epochs=240,
    rule="last",
    origin="run by this paper",
    recipe="",
    value=70.0,
    std=0.3,
    n=3,
)


@pytest.mark.parametrize(
    ("network", "family"),
    [
        ("resnet8x4", "resnet"),
        ("wrn_16_2", "wrn"),
        ("ShuffleV2", "ShuffleV"),
        ("MobileNetV2", "MobileNetV"),
        ("MobileNetV2_hsakd", "MobileNetV2_hsakd"),
        ("vgg8", "vgg"),
    ],
)
def test_families(network: str, family: str) -> None:
    assert spread.family(network) == family


def test_s0_is_the_root_mean_square_of_the_familys_stds() -> None:
    frame = published.load()
    frame = frame[(frame["dataset"] == "cifar100") & (frame["metric"] == "top1") & frame["std"].gt(0)]
    frame = frame[frame["origin"].str.startswith("run by ") & frame["method"].ne("teacher")]
    frame = frame[frame["n"].ne(1).fillna(True)]
    stds = published.seed_stds()
    for student, names in (("resnet20", "resnet"), ("vgg8", "vgg"), ("MobileNetV2", "MobileNetV2$")):
        values = frame[frame["student"].str.match(names)]["std"]
        assert stds.of(student) == pytest.approx(math.sqrt((values**2).mean())), student
    assert stds.of("DenseNet121") == stds.overall.s0 == pytest.approx(math.sqrt((frame["std"] ** 2).mean()))
    assert 0.18 < stds.overall.median < 0.24 and 0.35 < stds.of("MobileNetV2") < 0.43


def test_what_counts_for_s0() -> None:
    cells = [replace(MADE_UP, method=f"m{i}") for i in range(spread.LEAST_STDS)]
    others = [
        replace(MADE_UP, std=9.0, n=1),
        replace(MADE_UP, std=9.0, method="teacher"),
        replace(MADE_UP, std=9.0, origin="copied from crd/table1"),
        replace(MADE_UP, std=9.0, dataset="imagenet"),
        replace(MADE_UP, std=9.0, metric="top5"),
        replace(MADE_UP, std=None),
    ]
    found = spread.seed_stds([*cells, *others])
    assert found.of("resnet8x4") == pytest.approx(0.3) and found.families["resnet"].count == len(cells)
    assert spread.seed_stds([*cells[1:], replace(MADE_UP, student="vgg8", std=0.6)]).families == {}


def test_tau_is_what_the_seeds_leave() -> None:
    papers = [
        replace(
            MADE_UP, paper=paper, method="student", teacher="none", student=student, value=value, rule=rule
        )
        for student in ("resnet20", "resnet32")
        for paper, value, rule in (
            *(("a", 70.0, "last"), ("b", 71.0, "unknown")),
            *(("c", 79.0, "best"), ("d", 70.0, "last")),
        )
    ]
    papers = [x for x in papers if x.paper != "c" or x.student == "resnet32"]
    (found,) = spread.origin_spreads(papers)
    # a and d have the same digits; c has another epoch than a and d
    differences = [1.0, 1.0, 1.0, 1.0, 8.0]
    assert found.cells == len(differences)
    assert found.rms == pytest.approx(math.sqrt(statistics.fmean(d * d for d in differences)))
    assert found.seeds == pytest.approx(math.sqrt(2 * 0.3**2 / 3))
    assert found.tau == pytest.approx(math.sqrt(found.rms**2 - found.seeds**2))
    close = [replace(x, value=70.0 + 0.01 * i) for i, x in enumerate(papers)]
    assert spread.origin_spreads(close)[0].tau == 0.0


def test_two_labs_with_the_same_teachers() -> None:
    """HSAKD ran SSKD's methods again: 48 cells, without KD, whose row is CRD's."""
    frame = published.load()
    frame = frame[(frame["dataset"] == "cifar100") & (frame["metric"] == "top1") & frame["value"].notna()]
    frame = frame[~frame["method"].isin(["teacher", "student", "kd"])]
    cell = ["teacher", "student", "method"]
    both = frame[frame["paper"] == "hsakd"].merge(frame[frame["paper"] == "sskd"], on=cell)
    delta = both["value_x"] - both["value_y"]
    found = published.origin_spreads()[0]
    assert found.cells == len(delta) == 48 and found.mean == pytest.approx(delta.mean())
    assert found.rms == pytest.approx(math.sqrt((delta**2).mean()))
    assert (
        0.4
        < min(o.tau for o in published.origin_spreads())
        < max(o.tau for o in published.origin_spreads())
        < 0.7
    )


def test_the_command_prints_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmark.__main__ import main

    assert main(["published", "--spread"]) == 0
    text = capsys.readouterr().out
    for name, value in (
        ("resnet", published.seed_stds().of("resnet20")),
        ("all", published.seed_stds().overall.s0),
    ):
        assert re.search(rf"\| {name} +\| \d+ +\| {value:.2f}", text), name
    for o in published.origin_spreads():
        assert o.title in text and f"| {o.tau:.2f}" in text
    assert "CRD's recipe" in text
    for others in (["--pair", "resnet56:resnet20"], ["--json"], ["--validate"], ["--metric", "top5"]):
        assert main(["published", "--spread", *others]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sskd" in published_by("1897153734875314") and published_by("feed") == ()
    (tmp_path / "checkpoints.csv").write_text(
        "weights,network,papers,source\nfeed,resnet56,crd my-paper,me\n"
    )
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path))
    assert published_by("feed") == ("crd", "my-paper") and "sskd" in published_by("1897153734875314")
    assert published.validate() == [], "a file of checkpoints is no table"
    (tmp_path / "checkpoints.csv").write_text("weights,papers\nfeed,crd\n")
    with pytest.raises(PublishedError, match="columns missing: network, source"):
        published_by("feed")
