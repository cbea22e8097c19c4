"""The curve of a run compared with a published curve."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import records_kit as kit

from benchmark.errors import InputError
from benchmark.spec import matrix
from benchmark.spec.matrix import Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run, TeacherRef
from results import published
from results.store import Store, load
from tables import curves, plots


def kd_run(e: Expansion) -> Run:
    return next(c.runs[0] for c in e.cells if c.row.method == "kd" and c.student == "resnet20")


def published_curve() -> pd.DataFrame:
    (curve,) = curves.published_curves("crd", "resnet56", "resnet20", "kd").values()
    return curve


def own_curve(scale: float = 1.0) -> pd.DataFrame:
    theirs = published_curve()
    return theirs.assign(stage="main", train_loss=theirs["train_loss"] * scale)


def test_two_published_runs_of_one_setting_agree() -> None:
    """The band was chosen so that two runs of the same training agree."""
    both = curves.published_curves("crd", "resnet32x4", "resnet8x4", "kd")
    assert len(both) == 2
    a, b = both.values()
    for one, other in ((a, b), (b, a)):
        verdict, epochs = curves.compare(one, other)
        assert verdict == "agrees" and len(epochs) == 240 and all(e.inside for e in epochs)
    worst = max(abs(e.relative) for e in curves.compare(a, b)[1])
    assert 0.02 < worst < 0.023 and max(abs(e.relative) for e in curves.compare(a, b)[1][:5]) < 0.0095


def test_another_method_or_network_differs() -> None:
    kd = published_curve()
    frame = published.curves(teacher="ResNet50", student="MobileNetV2")
    frame = frame[frame["recipe"] == "crd"]
    for _, other in frame.groupby("method"):
        assert curves.compare(other, kd)[0] == "differs"


@pytest.mark.parametrize(
    ("scale", "verdict"), [(1.0, "agrees"), (1.009, "agrees"), (1.015, "differs"), (0.9, "differs")]
)
def test_verdict_by_scale(scale: float, verdict: str) -> None:
    found, epochs = curves.compare(own_curve(scale), published_curve())
    assert found == verdict and len(epochs) == 240
    assert epochs[0].relative == pytest.approx(scale - 1)


def test_one_epoch_in_twenty_may_lie_outside() -> None:
    own = own_curve()
    own.loc[100:111, "train_loss"] *= 1.5
    assert curves.compare(own, published_curve())[0] == "agrees"
    own.loc[112, "train_loss"] *= 1.5
    assert curves.compare(own, published_curve())[0] == "differs"


def test_comparable_epochs(tmp_path: Path) -> None:
    assert curves.comparable_epochs(kd_run(kit.small(tmp_path))) == (240, "")
    # 15 epochs, the first milestone after round(150 * 15 / 240) = 9
    assert curves.comparable_epochs(kd_run(kit.small(tmp_path, profile="short"))) == (9, "")
    assert "digits" in curves.comparable_epochs(kd_run(kit.small(tmp_path, profile="quick")))[1]
    for key, value, word in (
        ("recipe.lr", 0.1, "learning rate"),
        ("recipe.batch_size", 128, "batch_size"),
        ("kd.temperature", 8.0, "settings"),
    ):
        epochs, reason = curves.comparable_epochs(kd_run(kit.small(tmp_path, overrides=((key, value),))))
        assert epochs == 0 and word in reason


def test_formats(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    run = kd_run(e)
    store = Store(tmp_path / "runs")
    assert "no run has both a curve" in curves.format_curves(e, load(store.folder), store)
    kit.write(store, [kit.record(run, 70.0)], {run.key: own_curve(1.001)})
    frame = load(store.folder)
    text = curves.format_curves(e, frame, store)
    assert (
        run.key in text and "0 of 240" in text and "agrees when the train loss" in text and "+0.10%" in text
    )
    found = json.loads(curves.format_curves(e, frame, store, "json"))
    assert [c["verdict"] for c in found["curves"]] == ["another teacher: not comparable"]
    assert len(found["curves"][0]["epochs"]) == 240
    assert len(curves.format_curves(e, frame, store, "csv").splitlines()) == 241
    assert "|" in curves.format_curves(e, frame, store, "md")
    with pytest.raises(InputError, match="unknown format"):
        curves.format_curves(e, frame, store, "html")


def test_only_runs_with_the_published_teacher_have_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers stand beside each other in any case."""
    (tmp_path / "checkpoints.csv").write_text("weights,network,papers,source\nfeed,resnet56,crd,a test\n")
    store = Store(tmp_path / "runs")

    def verdict(weights: str) -> str:
        teacher = TeacherRef("resnet56", weights=weights, path="x.pth")
        resolver = Resolver({("cifar100", "resnet56"): teacher})
        e = matrix.expand(kit.small_table(tmp_path), "paper", resolver)
        run = kd_run(e)
        kit.write(store, [kit.record(run, 70.0)], {run.key: own_curve()})
        text = curves.format_curves(e, load(store.folder), store)
        assert "0 of 240" in text
        (found,) = curves.diff_curves(e, load(store.folder), store)
        assert len(found.epochs) == 240
        return found.verdict

    assert verdict("feed") == "another teacher: not comparable", "nobody has published this hash"
    monkeypatch.setenv("KD_PUBLISHED", str(tmp_path))
    assert verdict("feed") == "agrees"
    assert verdict("beef") == "another teacher: not comparable"


def test_damaged_numbers_in_a_curve_are_left_out() -> None:
    own = own_curve()
    own.loc[3, "train_loss"] = float("nan")
    verdict, epochs = curves.compare(own, published_curve())
    assert verdict == "agrees" and len(epochs) == 239 and 4 not in {e.epoch for e in epochs}
    assert curves.compare(own.iloc[:0], published_curve()) == ("not comparable", ())


def test_figures_are_written(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    run = kd_run(e)
    store = Store(tmp_path / "runs")
    kit.write(store, [kit.record(run, 70.0)], {run.key: own_curve()})
    paths = plots.write_figures(e, load(store.folder), store, tmp_path / "out")
    assert {p.name for p in paths} == {
        *(f"small-paper-delta.{x}" for x in plots.KINDS),
        *(f"small-paper-forest.{x}" for x in plots.KINDS),
        *(f"small-paper-curves-KD-resnet56-resnet20.{x}" for x in plots.KINDS),
    }
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths if p.suffix == ".png")
    empty = plots.write_figures(e, kit.as_frame([]), Store(tmp_path / "none"), tmp_path / "out2")
    assert len(empty) == 2 * len(plots.KINDS)
