"""Is a number a reproduction? The answer for anyone's top-1 of one cell, from the registry and the rule.

`answer` compares the values with one published number, the target, by `tables.statistics`. Around it stand
the other results of the cell, our records of it, and the measured size of what usually explains a gap.

Values of the last epoch are not comparable with a published best one, nor the other way round. Then the
answer also has the verdict for values that are shifted by the measured difference of the two epochs. Where
one of the epochs is not known, the verdict holds for both, as in a diff.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from benchmark.errors import InputError
from results.logs import Log
from results.published import seed_stds
from results.published.causes import Cause, Effect, effects
from results.published.reader import choose, teacher_weights
from results.published.schema import PublishedNumber
from results.published.yardsticks import TAU, WIDE_TAU
from tables.judge_cell import Recorded, Result, recorded_of, results_of
from tables.judge_target import DATASET, Question, Target
from tables.statistics import (
    IDENTITY,
    LEVEL,
    Comparison,
    Judgement,
    Sample,
    compare,
    decide,
    t_quantile,
)
from tables.verdicts import Verdict


class Teacher(StrEnum):
    """Whether both sides learnt from the same teacher."""

    SAME = "same accuracy"
    OTHER = "another accuracy"
    UNKNOWN = "not known"


class Explains(StrEnum):
    """Whether a cause alone can explain the gap."""

    YES = "yes"
    SMALLER = "no, smaller"
    LARGER = "no, larger"
    OTHER_WAY = "no, the other way"
    NOT_HERE = "not here"
    NOT_MEASURED = "not measurable"


@dataclass(frozen=True)
class Explanation:
    """A cause with its measured size, and whether it explains the gap."""

    effect: Effect
    explains: Explains
    reason: str = ""
    """Why it plays no part here."""


@dataclass(frozen=True)
class Answer:
    """What `judge` says about a question."""

    question: Question
    target: Target
    ours: Sample
    """The sample that is compared."""
    other_epoch: Sample | None
    """The logs' other epoch, where it is not known which one is published."""
    epoch: str
    """The epoch of `ours`, "" if it is not known."""
    verdict: Verdict
    reason: str
    """Why nothing is comparable, or what an unknown epoch means; "" otherwise."""
    judgement: Judgement | None
    """None where nothing is comparable."""
    shifted: Judgement | None
    """For values of another epoch than the published one: the verdict after a shift by `shift`."""
    shift: float
    """Measured mean of best minus last epoch, with the sign that turns our epoch into the published one."""
    wide: Verdict | None
    """The verdict with `WIDE_TAU`."""
    same_origin: Judgement | None
    """The verdict with tau = 0, for the publisher's teacher and code."""
    teacher: Teacher
    published_teacher: float | None
    seeds_alone: float
    """Half the 90% interval of the delta if nothing but the seeds differed."""
    published: Result
    others: tuple[Result, ...]
    errata: tuple[str, ...]
    recorded: tuple[Recorded, ...]
    remarks: tuple[str, ...]
    explanations: tuple[Explanation, ...]

    @property
    def delta(self) -> float:
        """Ours minus published."""
        return self.ours.mean - self.published.value


def answer(question: Question, target: Target, records: pd.DataFrame) -> Answer:
    """Return the answer to a question.

    target: what `target_of` returns. records: those of the cell, as `results.load()` returns them.

    Raises `InputError` if no log is complete.
    """
    published = target.number
    logs, remarks = _usable(question, target)
    epoch = question.epoch
    other = None
    if question.logs:
        epoch = published.rule if published.rule in ("last", "best") else "last"
        ours = Sample.of([x.best if epoch == "best" else x.last for x in logs])
        if published.rule not in ("last", "best"):
            other = Sample.of([x.best for x in logs])
    else:
        ours = Sample.of(question.values)
    taught = _published_teacher(published)
    teacher = _same_teacher(question, published, taught)
    same_origin = question.their_code and teacher is Teacher.SAME
    s0 = seed_stds().of(question.student)
    theirs = Sample(published.value or 0.0, published.std, published.n)
    measured = effects(question.student, question.method, target.epochs)
    gap = next(e for e in measured if e.cause is Cause.EPOCH).mean
    comparison = compare(ours, theirs, s0, 0.0 if same_origin else TAU)
    reason, shift = target.not_comparable or _length(logs, target), 0.0
    judgement = shifted = None
    if other is not None:
        comparison = dataclasses.replace(comparison, other_epoch=compare(other, theirs, s0, comparison.tau))
        reason = reason or "the published epoch is not known: the verdict holds for last and best"
    elif not reason and epoch and published.rule in ("last", "best") and epoch != published.rule:
        reason = f"yours are of the {epoch} epoch, the published number is of the {published.rule} one"
        shift = gap if published.rule == "best" else -gap
        moved = dataclasses.replace(ours, mean=ours.mean + shift)
        comparison = compare(moved, theirs, s0, comparison.tau)
        shifted = decide([comparison])[0]
    elif not reason and not (epoch and published.rule in ("last", "best")):
        comparison = _with_unknown_epoch(comparison, ours, theirs, s0, epoch, published.rule, gap)
        whose = "your" if not epoch else "the published"
        reason = f"{whose} epoch is not known: the verdict holds for last and best ({gap:+.2f} between them)"
    not_comparable = bool(target.not_comparable or _length(logs, target)) or shifted is not None
    if not not_comparable:
        judgement = decide([comparison])[0]
    alone = comparison.with_tau(0.0)
    half = t_quantile(1 - 2 * LEVEL, alone.error_and_freedom[1]) * alone.error_and_freedom[0]
    main, others, errata = results_of(published)
    delta = ours.mean - main.value
    return Answer(
        question=question,
        target=target,
        ours=ours,
        other_epoch=other,
        epoch=epoch,
        verdict=judgement.verdict if judgement else Verdict.NOT_COMPARABLE,
        reason=reason,
        judgement=judgement,
        shifted=shifted,
        shift=shift,
        wide=decide([comparison.with_tau(WIDE_TAU)])[0].verdict if judgement or shifted else None,
        same_origin=decide([alone])[0] if judgement or shifted else None,
        teacher=teacher,
        published_teacher=taught,
        seeds_alone=half,
        published=main,
        others=others,
        errata=errata,
        recorded=recorded_of(records),
        remarks=remarks,
        explanations=tuple(
            _explanation(
                e, delta, epoch=epoch, published=published, teacher=teacher, logs=logs, target=target
            )
            for e in measured
        ),
    )


# --- teachers -----------------------------------------------------------------------------------------------


def _published_teacher(x: PublishedNumber) -> float | None:
    """Return the top-1 of the teacher behind a number: of its table, its paper, or the checkpoint's paper."""
    rows = choose(teacher=x.teacher, method="teacher", dataset=DATASET, metric="top1")
    table = x.copied_from or x.published_in
    for key in (
        lambda y: y.published_in == table,
        lambda y: y.paper == table.partition("/")[0],
        lambda y: y.paper == teacher_weights(x),
    ):
        if values := [y.value for y in rows if key(y) and y.value is not None]:
            return values[0]
    return None


def _same_teacher(q: Question, x: PublishedNumber, published: float | None) -> Teacher:
    top1 = teacher_top1(q)
    if top1 is None or published is None or x.method == "student":
        return Teacher.UNKNOWN
    return Teacher.SAME if abs(top1 - published) <= IDENTITY + 1e-9 else Teacher.OTHER


def teacher_top1(q: Question) -> float | None:
    """Return the top-1 of the teacher behind the values, as given or as the logs state it."""
    if q.teacher_top1 is not None:
        return q.teacher_top1
    stated = {x.teacher_top1 for x in q.logs if x.teacher_top1 is not None}
    return stated.pop() if len(stated) == 1 else None


# --- logs and epochs --------------------------------------------------------------------------------------


def _usable(q: Question, target: Target) -> tuple[list[Log], tuple[str, ...]]:
    """Return the complete logs, and remarks on the others."""
    logs = [x for x in q.logs if x.is_complete(target.epochs)]
    remarks = [
        f"{x.path.name}: {line}" for x in q.logs for line in [*x.remarks(target.epochs), *_named(q, x)]
    ]
    if q.logs and not logs:
        raise InputError(f"no log is complete ({remarks[0]}); give the log of a finished training")
    if len({x.last_epoch for x in logs}) > 1:
        raise InputError("the logs have trainings of different lengths; judge each length alone")
    return logs, tuple(remarks)


def _named(q: Question, log: Log) -> list[str]:
    """Say which networks the log's configuration names, if they are others."""
    return [
        f"its configuration names the {role} {named}, not {asked}"
        for role, named, asked in (("teacher", log.teacher, q.teacher), ("student", log.student, q.student))
        if named and named.lower() != asked.lower()
    ]


def _length(logs: Sequence[Log], target: Target) -> str:
    """Say that the logs' trainings are of another length than the published one, "" if they are not."""
    if not logs or logs[0].last_epoch == target.epochs:
        return ""
    known = "" if target.number.epochs else ", as far as is known"
    return f"yours have {logs[0].last_epoch} epochs, the published training {target.epochs}{known}"


def _with_unknown_epoch(
    comparison: Comparison, ours: Sample, theirs: Sample, s0: float, epoch: str, rule: str, gap: float
) -> Comparison:
    """Return a comparison that holds for both epochs, where that of ours or of the published number is not
    known.

    The values stand for the case that both are of the same epoch. In the other cases they are shifted by the
    measured gap.
    """
    other: Comparison | None = None
    for sign in sorted(_epoch_signs(epoch, rule)):
        moved = dataclasses.replace(ours, mean=ours.mean - sign * gap)
        other = dataclasses.replace(compare(moved, theirs, s0, comparison.tau), other_epoch=other)
    return dataclasses.replace(comparison, other_epoch=other)


# --- what explains the gap --------------------------------------------------------------------------------


def _explanation(
    effect: Effect,
    delta: float,
    *,
    epoch: str,
    published: PublishedNumber,
    teacher: Teacher,
    logs: Sequence[Log],
    target: Target,
) -> Explanation:
    """Return whether a cause alone can explain the gap: whether some measured size is as large."""
    reason, signs = "", set[int]()
    if effect.cause is Cause.EPOCH:
        signs = _epoch_signs(epoch, published.rule)
        reason = "" if signs else f"both of the {epoch} epoch"
        can = any(0 <= s * delta <= max(effect.sizes) for s in signs)
    elif effect.cause in (Cause.TEACHER, Cause.CODE):
        if effect.cause is Cause.TEACHER and teacher is Teacher.SAME:
            reason = "same teacher's accuracy"
        can = bool(effect.sizes) and abs(delta) <= max(abs(s) for s in effect.sizes)
    else:
        if effect.cause is Cause.EPOCHS and logs and not _length(logs, target):
            reason = f"both {target.epochs} epochs"
        batches = {x.batch_size for x in logs}
        if effect.cause is Cause.BATCH and target.batch_size and batches == {target.batch_size}:
            reason = f"both batch {target.batch_size}"
        can = any(min(effect.sizes) <= s * delta <= max(effect.sizes) for s in (-1, 1) if effect.sizes)
    if reason:
        return Explanation(effect, Explains.NOT_HERE, reason)
    if not effect.sizes:
        return Explanation(effect, Explains.NOT_MEASURED)
    if can:
        return Explanation(effect, Explains.YES)
    if effect.cause is Cause.EPOCH and all(s * delta < 0 for s in signs):
        return Explanation(effect, Explains.OTHER_WAY)
    larger = abs(delta) < min(abs(s) for s in effect.sizes)
    return Explanation(
        effect, Explains.LARGER if larger and effect.cause is not Cause.EPOCH else Explains.SMALLER
    )


def _epoch_signs(ours: str, published: str) -> set[int]:
    """Return the signs that the delta can have from the choice of epochs: -1 if ours may be last, and theirs
    best."""
    both = ("last", "best")
    mine = (ours,) if ours in both else both
    theirs = (published,) if published in both else both
    return {(a == "best") - (b == "best") for a in mine for b in theirs} - {0}
