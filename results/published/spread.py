"""How far published values of the same cell lie apart: between seeds, and between papers.

The verdicts of `tables.statistics` rest on two standard deviations (in percentage points of top-1 on
CIFAR-100; `yardsticks` has those of other numbers). Both are computed here from the registry;
`python -m benchmark published --spread` prints them:

- s0, of the seeds of one training: `seed_stds`. A paper that prints no std is assumed to have this one.
- tau, of the origin: `origin_spreads`. Where two papers train the same cell, their values differ by more than
  their seeds explain: other teachers (of the same accuracy), code, versions and rounding. tau is the part of
  the difference's spread that is left when the seeds' part is taken away.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from results.published.evidence import NONE
from results.published.reader import numbers
from results.published.schema import OriginKind, PublishedNumber

DATASET = "cifar100"

LEAST_STDS = 20
"""A family with fewer published standard deviations has those of all families."""


@dataclass(frozen=True)
class FamilyStd:
    """The published standard deviations of one family of students."""

    family: str
    count: int
    """How many standard deviations are published."""
    s0: float
    """Their root mean square. Their median would be too low: the std of three runs is more often below the
    true one than above it."""
    median: float


@dataclass(frozen=True)
class SeedStds:
    """s0 by family of students."""

    overall: FamilyStd
    families: Mapping[str, FamilyStd]

    def of(self, student: str) -> float:
        """Return s0 of a student: of its family, or of all families where too few are published."""
        return self.families.get(family(student), self.overall).s0


@dataclass(frozen=True)
class OriginSpread:
    """How far two papers' values of the same cells lie apart."""

    title: str
    cells: int
    mean: float
    """Mean of the differences."""
    rms: float
    """Root mean square of the differences."""
    seeds: float
    """What the seeds alone would give: the root of the mean of s1^2/n1 + s2^2/n2."""

    @property
    def tau(self) -> float:
        """What is left when the seeds' part is taken away; 0 if the seeds explain everything."""
        return math.sqrt(max(self.rms**2 - self.seeds**2, 0.0))


def family(network: str) -> str:
    """Return the family of a network: `resnet` of `resnet8x4`, `wrn` of `wrn_16_2`.

    A network that only shares a name with ours (`MobileNetV2_hsakd`) is a family of its own.
    """
    name = re.match("[A-Za-z]+", network)
    of_another_paper = re.search(r"_[a-z]+$", network)
    return network if of_another_paper or name is None else name[0]


def _first_hand(
    chosen: Iterable[PublishedNumber], datasets: Collection[str] = (DATASET,)
) -> list[PublishedNumber]:
    """Return the top-1 numbers on some data sets that the publishing paper ran itself."""
    return [
        x
        for x in chosen
        if x.dataset in datasets
        and x.metric == "top1"
        and x.value is not None
        and x.origin_kind is OriginKind.RUN
    ]


def seed_stds(
    every: Iterable[PublishedNumber] | None = None, datasets: Collection[str] = (DATASET,)
) -> SeedStds:
    """Return s0 by family, from the standard deviations of trained students.

    every: the published numbers (default: those of the registry). datasets: those whose top-1 counts.
    """
    by_family: dict[str, list[float]] = {}
    for x in _first_hand(numbers() if every is None else every, datasets):
        if x.std and x.n != 1 and x.method != "teacher":
            by_family.setdefault(family(x.student), []).append(x.std)
    stds = [s for part in by_family.values() for s in part]
    families = {f: _family_std(f, s) for f, s in sorted(by_family.items()) if len(s) >= LEAST_STDS}
    return SeedStds(_family_std("all", stds), families)


def _family_std(name: str, stds: list[float]) -> FamilyStd:
    rms = math.sqrt(math.fsum(s * s for s in stds) / len(stds))
    return FamilyStd(family=name, count=len(stds), s0=rms, median=statistics.median(stds))


def origin_spreads(every: Iterable[PublishedNumber] | None = None) -> list[OriginSpread]:
    """Return the comparisons of papers that ran the same cells. every: as in `seed_stds`."""
    every = numbers() if every is None else tuple(every)
    stds = seed_stds(every)
    return [_origin_spread(title, both, stds) for title, both in origin_pairs(every).items() if both]


class Origins(StrEnum):
    """Which papers' numbers of the same cells are compared."""

    CODE = "HSAKD's runs of SSKD's methods, against SSKD's"
    TEACHER = "RLTF's SSKD with CRD's teachers, against SSKD's"
    STUDENTS = "plain students of 240 epochs, paper against paper"


_Pairs = list[tuple[PublishedNumber, PublishedNumber]]


def origin_pairs(every: Iterable[PublishedNumber]) -> dict[Origins, _Pairs]:
    """Return the two papers' numbers of each cell that is compared."""
    top1 = [x for x in every if x.dataset == DATASET and x.metric == "top1" and x.value is not None]

    def cells(paper: str, *left_out: str) -> dict[tuple[str, ...], PublishedNumber]:
        return {
            x.cell: x for x in top1 if x.paper == paper and x.method not in ("teacher", "student", *left_out)
        }

    # SSKD's KD row is CRD's
    sskd = cells("sskd", "kd")
    return {
        Origins.CODE: _shared(cells("hsakd"), sskd),
        Origins.TEACHER: _shared(cells("rltf"), sskd),
        Origins.STUDENTS: _plain_students(top1),
    }


def _shared(
    a: Mapping[tuple[str, ...], PublishedNumber], b: Mapping[tuple[str, ...], PublishedNumber]
) -> _Pairs:
    return [(a[cell], b[cell]) for cell in a if cell in b]


def _plain_students(top1: Iterable[PublishedNumber]) -> _Pairs:
    """Return every two papers' first-hand numbers of the same plain student.

    Papers repeat a plain student in the columns of all its pairs: it counts once for each paper.
    """
    by_student: dict[str, dict[str, PublishedNumber]] = {}
    for x in _first_hand(top1):
        another_recipe = x.epochs not in (None, 240) or x.recipe
        if x.method == "student" and not another_recipe and x.student != NONE:
            by_student.setdefault(x.student, {}).setdefault(x.paper, x)
    return [
        (papers[a], papers[b])
        for papers in by_student.values()
        for a, b in itertools.combinations(sorted(papers), 2)
        # equal digits are a copy, or the same checkpoint
        if papers[a].value != papers[b].value and may_be_the_same_epoch(papers[a], papers[b])
    ]


def may_be_the_same_epoch(a: PublishedNumber, b: PublishedNumber) -> bool:
    """Whether two numbers are of the same epoch as far as is known: not one of the last, one of the best."""
    return {a.rule, b.rule} != {"last", "best"}


def _origin_spread(title: str, both: _Pairs, stds: SeedStds) -> OriginSpread:
    def variance(x: PublishedNumber) -> float:
        return (x.std or stds.of(x.student)) ** 2 / (x.n or 1)

    differences = [(a.value or 0.0) - (b.value or 0.0) for a, b in both]
    return OriginSpread(
        title=title,
        cells=len(both),
        mean=statistics.fmean(differences),
        rms=math.sqrt(statistics.fmean(d * d for d in differences)),
        seeds=math.sqrt(statistics.fmean(variance(a) + variance(b) for a, b in both)),
    )
