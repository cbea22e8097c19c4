"""The averages over pairs that papers print beside their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.spec.matrix import Row
from tables.cells import BASELINE_ROWS, CellResult
from tables.statistics import mean

FEWEST_PAIRS = 3
"""With fewer pairs, averages over pairs say nothing that the cells do not say."""

NOT_OVER_KD = (*BASELINE_ROWS, "kd")
"""Methods of rows that are not compared with KD."""

FORMULAS = (
    "Average: mean over the pairs, only for rows that have a number on every pair shown. Over student, "
    "over KD: mean difference to that row over the pairs that both have. ARI: CRD's average relative "
    "improvement, here over KD: the mean over the pairs of (row - KD) / (KD - student), in %; only where KD "
    "is above the student on each of these pairs. All by the epoch that ranks the methods."
)


@dataclass(frozen=True)
class RowSummary:
    """The averages of a row over pairs. Top-1 in %; None where a number that it needs is missing."""

    label: str
    pairs: int
    """Number of pairs on which the row has a number."""
    average: float | None
    over_student: float | None
    over_kd: float | None
    ari: float | None
    """Average relative improvement over KD in %."""


def row_scores(results: Sequence[CellResult], rule: str) -> dict[str, dict[str, float]]:
    """Return row label -> pair -> mean top-1 of the `last` or `best` epoch."""
    scores: dict[str, dict[str, float]] = {}
    for r in results:
        if (sample := r.sample(rule)) is not None:
            scores.setdefault(r.cell.row.label, {})[r.cell.pair] = sample.mean
    return scores


def summaries(results: Sequence[CellResult], rule: str) -> dict[str, RowSummary]:
    """Return the averages of every row that has a number, by its label. rule: `last` or `best`."""
    scores = row_scores(results, rule)
    rows = {r.cell.row.label: r.cell.row for r in results}
    all_pairs = {pair for by_pair in scores.values() for pair in by_pair}
    summaries = {}
    for label, by_pair in scores.items():
        row = rows[label]
        student, kd = (baseline(rows.values(), scores, method, row.group) for method in ("student", "kd"))
        after_kd = row.method not in NOT_OVER_KD
        summaries[label] = RowSummary(
            label=label,
            pairs=len(by_pair),
            average=mean(list(by_pair.values())) if set(by_pair) == all_pairs else None,
            over_student=None if row.method == "student" else _gain(by_pair, student),
            over_kd=_gain(by_pair, kd) if after_kd else None,
            ari=average_relative_improvement(by_pair, kd, student) if after_kd else None,
        )
    return summaries


def baseline(
    rows: Iterable[Row], scores: Mapping[str, Mapping[str, float]], method: str, group: str
) -> Mapping[str, float]:
    """Return the scores of the row that rows of a group are compared with, {} if there is none.

    method: `student` or `kd`. It is the first row of this method in the group (trained on the same images,
    or measured in the same way), else the first one outside all groups.
    """
    candidates = [row for row in rows if row.method == method]
    for wanted in dict.fromkeys((group, "")):
        for row in candidates:
            if row.group == wanted:
                return scores.get(row.label, {})
    return {}


def _gain(row: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    differences = [row[p] - other[p] for p in row if p in other]
    return mean(differences) if differences else None


def average_relative_improvement(
    row: Mapping[str, float], kd: Mapping[str, float], student: Mapping[str, float]
) -> float | None:
    """Return CRD's average relative improvement of a row over KD in %, by pair -> top-1.

    None if no pair has all three numbers, or if KD does not improve on the student on one of them: the
    quotient then has no meaning.
    """
    pairs = [p for p in row if p in kd and p in student]
    if not pairs or any(kd[p] <= student[p] for p in pairs):
        return None
    return 100 * mean([(row[p] - kd[p]) / (kd[p] - student[p]) for p in pairs])
