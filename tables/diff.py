"""Ours beside the printed numbers: a verdict for each cell, under the reporting rule of the protocol that its runs were made under.

    agrees, above, below   by `tables.statistics.RULE`
    missing                one of the sides has no number; the reason says which
    not comparable         both may be there, but a difference would mean nothing; the reason says why

Where it is not known which epoch a paper reports (rule `both`), both epochs are judged: if they say the same, that is the verdict; if not, the
number is not comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.errors import InputError, unknown
from benchmark.spec import protocols
from benchmark.spec.matrix import Expansion
from benchmark.spec.runs import Resolver
from results.store import Store
from tables.cells import CellResult, collect, header
from tables.published_cells import Printed, PublishedCells
from tables.statistics import Judgement, Sample, judge

VERDICTS = ("agrees", "above", "below", "missing", "not comparable")
FAILING = ("above", "below")


@dataclass(frozen=True)
class CellDiff:
    """One cell of a diff. Top-1 in %; std of n - 1; None where a side has no number.

    rule: the epoch that counts (`last`, `best`, `both`). ours, ours_std, n: of that epoch (`both`: of the last one); last, best: means of either.
    seeds: runs that the cell has. delta = ours - published; band: how much agrees. assumed: what was taken for what is not known.
    published_in: paper/table of the printed number; origin, source: who ran it, where it was read. notes: what else to know when reading it.
    profile: with the settings of `--set`.
    """

    table: str
    profile: str
    label: str
    method: str
    protocol: str
    teacher: str
    student: str
    rule: str
    verdict: str
    reason: str = ""
    ours: float | None = None
    ours_std: float | None = None
    n: int = 0
    seeds: int = 0
    last: float | None = None
    best: float | None = None
    published: float | None = None
    published_std: float | None = None
    published_n: int | None = None
    delta: float | None = None
    band: float | None = None
    assumed: tuple[str, ...] = ()
    published_in: str = ""
    origin: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def pair(self) -> str:
        return f"{self.teacher}:{self.student}"


class Diff(list[CellDiff]):
    """The cells of a diff, with the lines that stand above it."""

    def __init__(self, cells: Iterable[CellDiff] = (), head: Sequence[str] = (), note: str = "") -> None:
        super().__init__(cells)
        self.head, self.note = list(head), note

    def counts(self) -> dict[str, int]:
        return {v: sum(c.verdict == v for c in self) for v in VERDICTS}


def diff_table(
    expansion: Expansion,
    frame: pd.DataFrame,
    against: str | None = None,
    store: Store | None = None,
    published: PublishedCells | None = None,
) -> Diff:
    """The diff of a table.

    frame: `results.load()`. against: another paper, whose printed numbers of the same cells are taken. store: tells failed from absent runs.
    published: the printed numbers (default: the registry's).
    Raises `InputError` for a paper that has no printed numbers.
    """
    published = published if published is not None else PublishedCells.read(expansion.table.dataset)
    if against is not None and against not in published.papers:
        raise unknown("paper", against, published.papers)
    results = collect(expansion, frame, store)
    cells = []
    for result in results:
        printed = (
            published.of(expansion.table, result.cell)
            if against is None
            else published.of_paper(against, result.cell)
        )
        cells.append(_cell(expansion, result, printed, against))
    return Diff(cells, header(expansion, results), expansion.table.note)


def _cell(expansion: Expansion, result: CellResult, printed: Printed | None, against: str | None) -> CellDiff:
    cell, row = result.cell, result.cell.row
    rule = result.rule
    if printed is not None and (rule == "both" or against is not None):
        rule = printed.rule if printed.rule in ("last", "best") else "both"
    last, best = result.sample("last"), result.sample("best")
    ours = best if rule == "best" else last
    base = CellDiff(
        expansion.table.name,
        expansion.profile + expansion.suffix,
        row.label,
        row.method,
        result.protocol,
        cell.teacher,
        cell.student,
        rule,
        "missing",
        n=result.n,
        seeds=result.expected,
        notes=_notes(result, printed),
    )
    if ours is not None and last is not None and best is not None:
        base = dataclasses.replace(base, ours=ours.mean, ours_std=ours.std, last=last.mean, best=best.mean)
    value = None if printed is None else printed.value
    if printed is not None:
        base = dataclasses.replace(
            base, published_in=printed.published_in, origin=printed.origin, source=printed.source
        )
    if printed is not None and value is not None:
        base = dataclasses.replace(base, published=value, published_std=printed.std, published_n=printed.n)
        if (
            ours is not None and expansion.dataset == expansion.table.dataset
        ):  # of other data a difference is not even shown
            base = dataclasses.replace(base, delta=ours.mean - value)

    def final(verdict: str, reason: str, judgement: Judgement | None = None) -> CellDiff:
        if judgement is None:
            return dataclasses.replace(base, verdict=verdict, reason=reason)
        return dataclasses.replace(
            base,
            verdict=verdict,
            reason=reason,
            delta=judgement.delta,
            band=judgement.band,
            assumed=judgement.assumed,
        )

    nothing_printed = "nothing printed" + (f" by {against}" if against else "")
    if not result.runs:
        return final("missing", cell.reason if cell.missing else f"N/A: {cell.reason}")
    if ours is None or last is None or best is None:
        blank = [nothing_printed] if value is None else []
        return final("missing", "; ".join([f"our runs: {result.absence()}", *result.reasons(), *blank]))
    if printed is None or value is None:
        return final("missing", nothing_printed)
    if reason := _not_comparable(expansion, result, printed, against):
        return final("not comparable", reason)
    theirs = Sample(value, printed.std, printed.n)
    if rule != "both":
        judgement = judge(ours, theirs)
        return final(judgement.verdict, "", judgement)
    by_last, by_best = judge(last, theirs), judge(best, theirs)
    if by_last.verdict == by_best.verdict:
        return final(by_last.verdict, "the paper's epoch is not known; last and best say the same", by_last)
    return final(
        "not comparable",
        f"the paper's epoch is not known: last would be '{by_last.verdict}', best '{by_best.verdict}'",
    )


def _not_comparable(expansion: Expansion, result: CellResult, printed: Printed, against: str | None) -> str:
    """Why ours and the printed number of a cell cannot be compared ("" if they can)."""
    table, row = expansion.table, result.cell.row
    if expansion.profile != "paper":
        return f"profile {expansion.profile}: {protocols.get_profile(expansion.profile).title}"
    if expansion.dataset != table.dataset:
        return f"our runs are of {expansion.dataset}, the printed number of {table.dataset}"
    if table.protocol_override and table.protocol_override != row.protocol:
        return f"our runs are made under protocol {table.protocol_override}, the printed number under {row.protocol}"
    if changed := _changed(result):
        return f"settings are not the published ones: {changed}"
    if against is not None:
        return _other_paper(result, printed)
    if row.not_comparable:
        return row.not_comparable
    if printed.rule in ("last", "best") and result.rule in ("last", "best") and printed.rule != result.rule:
        return (
            f"printed is the {printed.rule} epoch, protocol {result.protocol} reports the {result.rule} one"
        )
    return ""


def _other_paper(result: CellResult, printed: Printed) -> str:
    """Why a number of another paper than the table's cannot be compared: it may be, if it says nothing that speaks against it."""
    if printed.paper in protocols.PROTOCOLS and printed.paper != result.protocol:
        return f"{printed.paper} has a protocol of its own, these runs are made under {result.protocol}"
    if printed.recipe:
        return f"another recipe: {printed.recipe}"
    words = set(result.cell.row.method.split("+"))
    if result.cell.row.method not in (printed.method, "teacher", "student") and words != set(
        printed.method.split("+")
    ):
        return f"our row is {result.cell.row.method}, theirs {printed.method}"
    epochs = protocols.get_protocol(result.protocol).epochs
    if printed.epochs is not None and printed.epochs != epochs:
        return f"theirs are {printed.epochs} epochs, ours {epochs}"
    return ""


def _changed(result: CellResult) -> str:
    """Settings that were asked for beyond the row's own and that change what is run."""
    if not result.runs:
        return ""
    run, own = result.runs[0].run, dict(result.cell.row.settings)
    found = [f"{k}={v}" for k, v in run.request.overrides if own.get(k) != v]
    if not found or run.evaluates is not None:
        return ""
    plain = Resolver().run(dataclasses.replace(run.request, overrides=tuple(sorted(own.items()))), run.seed)
    same = all(plain.settings[part] == run.settings[part] for part in ("method", "recipe"))
    return "" if same else ", ".join(found)


def _notes(result: CellResult, printed: Printed | None) -> tuple[str, ...]:
    notes = []
    if result.runs and result.n and result.absence():
        notes.append(f"{result.absence()}: not in the mean")
    if result.is_reference:
        notes.append("reference records")
    if result.imported:
        measured = any(r.run.evaluates is not None for r in result.runs)
        notes.append(
            f"{'measures' if measured else 'learnt from'} an imported checkpoint (weights {result.imported[:10]})"
        )
    if result.cell.row.source and printed is not None and printed.published_in not in result.cell.row.sources:
        notes.append(f"printed number really from {result.cell.row.source}")
    if printed is not None and printed.note:
        notes.append(printed.note)
    return tuple(notes)


def exit_code(diffs: Iterable[CellDiff], fail_on: Collection[str] = FAILING) -> int:
    """1 if some verdict is among `fail_on`, else 0. Raises `InputError` for a verdict that may not fail."""
    for verdict in fail_on:
        if verdict not in FAILING:
            raise InputError(f"verdict '{verdict}' cannot fail a diff; allowed: {', '.join(FAILING)}")
    return int(any(c.verdict in fail_on for c in diffs))


def to_frame(diffs: Iterable[CellDiff]) -> pd.DataFrame:
    """One row a cell; tuples as text joined by '; '."""
    rows: list[dict[str, Any]] = []
    for c in diffs:
        values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c)}
        rows.append({k: "; ".join(v) if isinstance(v, tuple) else v for k, v in values.items()})
    return pd.DataFrame(rows, columns=[f.name for f in dataclasses.fields(CellDiff)])


def format_diff(diffs: Sequence[CellDiff], fmt: str = "plain", color: bool = False, head: bool = True) -> str:
    """The diff as text: `plain` (terminal), `md`, `tex`, `csv` or `json`; the rule stands below the first three, in the last.

    head: whether title and conditions stand above it (not needed where the table itself was printed before).
    """
    from tables.diff_text import format_as

    return format_as(diffs, fmt, color, head)
