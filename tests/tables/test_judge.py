"""`judge`: which number is compared, the verdict by the rule of the diff, and what explains the gap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.errors import InputError
from results.logs import Log, LogFormat, LoggedEpoch
from results.published import seed_stds
from results.published.causes import Cause, effects
from results.published.yardsticks import TAU
from results.store import REFERENCE, load
from tables import judge, judge_text, statistics
from tables.judge import Answer, Explains, Teacher
from tables.judge_target import Question, target_of
from tables.statistics import Sample
from tables.verdicts import Verdict

DKD = (76.20, 75.80, 75.89, 75.85, 76.15)
"""The five runs of mdistiller's issue 7."""
PUBLISHED = 76.32
S0 = seed_stds().of("resnet8x4")
GAP = next(e for e in effects("resnet8x4", "dkd") if e.cause is Cause.EPOCH)
NO_RECORDS = load(Path("/nonexistent"))


def ask(
    values: tuple[float, ...] = DKD,
    pair: str = "resnet32x4:resnet8x4",
    method: str = "dkd",
    protocol: str = "mdistiller",
    **options: object,
) -> Answer:
    teacher, _, student = pair.partition(":")
    q = Question(teacher, student, method, values=values, protocol=protocol, **options)  # type: ignore[arg-type]
    return judge.answer(q, target_of(q), NO_RECORDS)


def log(accuracy: list[float], **fields: object) -> Log:
    epochs = tuple(LoggedEpoch(i, x) for i, x in enumerate(accuracy, 1))
    return Log(path=Path("log.txt"), format=LogFormat.MDISTILLER, epochs=epochs, **fields)  # type: ignore[arg-type]


def explains(a: Answer, cause: Cause) -> Explains:
    (x,) = [x for x in a.explanations if x.effect.cause is cause]
    return x.explains


def test_the_five_runs_of_dkd_under_each_assumption() -> None:
    ours, theirs = Sample.of(DKD), Sample(PUBLISHED, None, 5)
    for options, tau in (
        ({}, TAU),
        ({"their_code": True}, TAU),  # the teacher is not known
        ({"teacher_top1": 79.42}, TAU),  # the code is not
        ({"teacher_top1": 78.0, "their_code": True}, TAU),
        ({"teacher_top1": 79.42, "their_code": True}, 0.0),
    ):
        a = ask(epoch="best", **options)
        rule = statistics.judge(ours, theirs, S0, tau)
        assert (a.published.published_in, a.published.value) == ("dkd/readme", PUBLISHED)
        assert a.judgement == rule and a.verdict is rule.verdict, options
    assert a.verdict is Verdict.DIFFERS and ask(epoch="best").verdict is Verdict.UNDECIDED
    assert ask(epoch="best").same_origin == rule


def test_values_of_another_epoch_are_not_comparable_and_shifted() -> None:
    a = ask(epoch="last", teacher_top1=79.42, their_code=True)
    assert a.verdict is Verdict.NOT_COMPARABLE and a.judgement is None and a.shifted is not None
    assert a.shift == pytest.approx(GAP.mean)
    assert a.shifted.comparison.delta == pytest.approx(Sample.of(DKD).mean - PUBLISHED + GAP.mean)
    assert a.shifted.verdict is Verdict.SAME
    best_of_crd = ask((73.6,), method="kd", protocol="crd", epoch="best")
    assert best_of_crd.shift == pytest.approx(-GAP.mean)


def test_an_unknown_epoch_is_judged_by_both() -> None:
    a = ask(teacher_top1=79.42, their_code=True)
    best = ask(teacher_top1=79.42, their_code=True, epoch="best")
    last = ask(teacher_top1=79.42, their_code=True, epoch="last")
    assert a.judgement is not None and best.judgement is not None and last.shifted is not None
    assert a.judgement.comparison.delta == pytest.approx(a.delta)
    low, high = a.judgement.comparison.interval()
    assert low == pytest.approx(best.judgement.comparison.interval()[0])
    assert high == pytest.approx(last.shifted.comparison.interval()[1])
    assert a.verdict is Verdict.UNDECIDED and "your epoch is not known" in a.reason


def test_an_epoch_that_nobody_knows_reaches_over_three_cases() -> None:
    a = ask((87.0,), protocol="", method="semckd")
    x = a.target.number
    assert a.judgement is not None and x.rule == "unknown"
    theirs = Sample(x.value or 0, x.std, x.n)
    cases = [
        statistics.compare(Sample(87.0 + shift, None, 1), theirs, S0).interval()
        for shift in (-GAP.mean, 0, GAP.mean)
    ]
    low, high = a.judgement.comparison.interval()
    assert low == pytest.approx(min(c[0] for c in cases)) and high == pytest.approx(max(c[1] for c in cases))


def test_a_row_that_is_not_comparable_in_the_diff_is_not_comparable_here() -> None:
    a = ask((70.56,), pair="resnet56:resnet20", method="kd", protocol="sskd", epoch="best")
    assert a.verdict is Verdict.NOT_COMPARABLE and "the published row is CRD's" in a.reason
    assert a.published.published_in == "sskd/table3"


def test_the_reference_records_get_the_diffs_answer() -> None:
    """SSKD prints PKT; the rows are run as pkt+kd. The record of one seed is undecided in the diff too."""
    for method in ("pkt", "pkt+kd"):
        a = ask((72.35,), pair="resnet56:resnet20", method=method, protocol="sskd", epoch="best")
        assert a.target.method == "pkt+kd" and a.published.value == 71.44
        assert a.judgement == statistics.judge(Sample.of((72.35,)), Sample(71.44), S0)


def test_records_are_shown_by_settings() -> None:
    q = Question("resnet56", "resnet20", "pkt+kd", values=(72.35,), epoch="best", protocol="sskd")
    frame = load("/nonexistent", reference=True)
    frame = frame[(frame["method"] == "pkt+kd") & frame["key"].str.contains("resnet56-resnet20")]
    a = judge.answer(q, target_of(q), frame)
    by_profile = {r.profile: r for r in a.recorded}
    record = json.loads(next((REFERENCE / "cifar100/sskd/paper").rglob("pkt+kd/*/record.json")).read_text())
    assert by_profile["paper"].best == record["top1_best"] and by_profile["paper"].origin == "reference"
    assert set(by_profile) == {"paper", "short"}


def test_others_are_results_and_not_copies() -> None:
    a = ask(epoch="best")
    assert set(a.published.copies) >= {"lskd/table2"}
    reproduction, *_ = [r for r in a.others if "issue-7" in r.published_in]
    assert (reproduction.n, reproduction.value) == (5, pytest.approx(sum(DKD) / 5))
    assert reproduction.std == pytest.approx(Sample.of(DKD).std)
    assert not {r.published_in for r in a.others} & {*a.published.copies, "dkd/readme"}
    crd = ask((75.3,), method="crd", protocol="crd")  # its five runs are parts of the reproduction's mean
    assert all("per-seed" not in r.published_in for r in crd.others) and crd.others


def test_the_teachers_accuracy_tells_whether_it_is_the_same() -> None:
    for top1, teacher in ((None, Teacher.UNKNOWN), (79.42, Teacher.SAME), (78.9, Teacher.OTHER)):
        a = ask(teacher_top1=top1)
        assert a.teacher is teacher and a.published_teacher == 79.42
        assert (explains(a, Cause.TEACHER) is Explains.NOT_HERE) == (teacher is Teacher.SAME)


def test_what_explains_a_gap_depends_on_its_size_and_sign() -> None:
    most = max(GAP.sizes)
    for delta, epoch, expected in (
        (-0.9 * most, "last", Explains.YES),
        (-1.1 * most, "last", Explains.SMALLER),
        (+0.9 * most, "last", Explains.OTHER_WAY),  # a last epoch is not above a best one
        (-0.9 * most, "best", Explains.NOT_HERE),
        (-0.9 * most, "", Explains.YES),
        (+0.9 * most, "", Explains.OTHER_WAY),
    ):
        a = ask((PUBLISHED + delta,), epoch=epoch)
        assert explains(a, Cause.EPOCH) is expected, (delta, epoch)
    other_network = ask((73.5,), pair="ResNet50:MobileNetV2", method="kd", protocol="crd", epoch="last")
    assert explains(other_network, Cause.NETWORK) is Explains.YES
    assert explains(other_network, Cause.TEACHER) is Explains.SMALLER
    close = ask((67.4,), pair="ResNet50:MobileNetV2", method="kd", protocol="crd", epoch="last")
    assert explains(close, Cause.NETWORK) is Explains.LARGER, (
        "the other network is nearly eight points better"
    )
    assert explains(other_network, Cause.BATCH) is Explains.NOT_MEASURED


def test_logs_have_both_epochs() -> None:
    curve = [50.0] * 237 + [75.8, 76.2, 75.9]
    a = ask((), logs=(log(curve), log([x + 0.2 for x in curve], teacher_top1=79.42, batch_size=64)))
    assert a.epoch == "best" and a.ours.mean == pytest.approx(76.3) and a.ours.n == 2
    assert a.teacher is Teacher.SAME and explains(a, Cause.EPOCHS) is Explains.NOT_HERE
    a = ask((), logs=(log(curve, batch_size=64),), protocol="crd", method="kd")
    assert a.epoch == "last" and a.ours.mean == pytest.approx(75.9)
    assert explains(a, Cause.BATCH) is Explains.NOT_HERE
    # where the published epoch is not known, both of the log's epochs are judged
    q = Question("resnet32x4", "resnet8x4", "semckd", logs=(log(curve),))
    a = judge.answer(q, target_of(q), NO_RECORDS)
    assert a.other_epoch is not None and a.other_epoch.mean == pytest.approx(76.2)
    assert a.judgement is not None and a.judgement.comparison.other_epoch is not None


def test_incomplete_and_longer_logs() -> None:
    whole, part = log([76.0] * 240), log([30.0] * 100, student="resnet8x4", teacher="vgg13")
    a = ask((), logs=(whole, part))
    assert a.ours == Sample(76.0, None, 1)
    assert "100 of 240 epochs; not used" in a.remarks[0] and "names the teacher vgg13" in a.remarks[1]
    with pytest.raises(InputError, match="no log is complete"):
        ask((), logs=(part,))
    longer = log([77.0] * 480, configured_epochs=480)
    a = ask((), logs=(longer,))
    assert a.verdict is Verdict.NOT_COMPARABLE and "480 epochs" in a.reason and a.same_origin is None
    with pytest.raises(InputError, match="different lengths"):
        ask((), logs=(whole, longer))


def test_nothing_published_names_what_is() -> None:
    with pytest.raises(InputError, match=r"no published top-1.* published of this pair: .*dkd"):
        ask(method="ofd+dkd", protocol="")


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": "best"},
        {"epoch": "last", "teacher_top1": 70.0},
        {},
        {"pair": "resnet56:resnet20", "method": "kd", "protocol": "sskd", "values": (70.0,)},
        {"pair": "none:resnet20", "method": "student", "protocol": "crd", "values": (69.0, 69.4)},
        {"pair": "resnet56:resnet20", "method": "pkt+kd", "protocol": "sskd", "values": (72.0,)},
        {"pair": "ResNet50:MobileNetV2", "method": "crd", "protocol": "", "values": (60.0,)},
        {"values": (), "logs": tuple(log([50.0] * n) for n in (240, *range(100, 120)))},
    ],
)
def test_the_answer_is_one_screen(options: dict[str, object]) -> None:
    a = ask(**options)  # type: ignore[arg-type]
    lines = judge_text.format_answer(a).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert any(line.startswith(f"Verdict: {a.verdict}, delta") for line in lines)
    data = json.loads(json.dumps(judge_text.as_json(a), allow_nan=False))
    assert data["verdict"] == a.verdict and len(data["explanations"]) == len(a.explanations)
