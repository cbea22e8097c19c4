"""Our results beside the published numbers: a verdict for each cell.

The epoch that is compared is the one that the protocol of our runs reports. See `tables.verdicts.Verdict` for
the verdicts and `tables.statistics.RULE` for the rule.

Where it is not known which epoch a paper reports (rule `both`), a verdict holds for both epochs: the interval
reaches over the intervals of both, and p is the larger one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.errors import InputError, unknown
from benchmark.spec import profiles, protocols
from benchmark.spec.matrix import Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import NONE
from benchmark.spec.table_file import ERROR
from results.published.checkpoints import published_by
from results.published.schema import PublishedNumber
from results.published.spread import seed_stds
from results.published.yardsticks import Yardstick, no_yardstick, yardsticks
from results.store import Store
from tables.cells import BASELINE_ROWS, BEST_MARK, CellResult, collect, header, origin_marks, other_numbers
from tables.published_cells import PublishedCells
from tables.statistics import (
    IDENTITY,
    Assumption,
    Comparison,
    Judgement,
    Sample,
    compare,
    decide,
)
from tables.text import mean_std, signed
from tables.verdicts import FAILING, MAY_FAIL, Verdict


@dataclass(frozen=True)
class CellDiff:
    """One cell of a diff. Top-1 in %, standard deviations with n - 1; None where a side has no number."""

    table: str
    profile: str
    """Name of the profile, with the settings of `--set`."""
    label: str
    method: str
    protocol: str
    teacher: str
    student: str
    rule: str
    """The epoch that counts: `last`, `best` or `both`."""
    verdict: Verdict
    reason: str = ""
    ours: float | None = None
    """Our mean of the epoch that counts; for `both`, of the last one. The same holds for `ours_std` and
    `n`.
    """
    ours_std: float | None = None
    n: int = 0
    seeds: int = 0
    """Number of runs that the cell should have."""
    last: float | None = None
    """Our mean of the last epoch."""
    best: float | None = None
    """Our mean of the best epoch."""
    published: float | None = None
    published_std: float | None = None
    published_n: int | None = None
    delta: float | None = None
    """Ours minus published."""
    low: float | None = None
    """Lower end of the 90% interval of the delta. None where the cell is not judged; so are the next ones."""
    high: float | None = None
    p: float | None = None
    """Probability of such a delta or a larger one, if there is no difference."""
    adjusted_p: float | None = None
    """p after Benjamini-Hochberg over the comparable cells of the table."""
    s0: float | None = None
    """Standard deviation that is assumed of the student's family."""
    tau: float | None = None
    """Standard deviation of the difference between the two origins."""
    with_wide_tau: Verdict | None = None
    """The verdict with `wide_tau` for all cells."""
    wide_tau: float | None = None
    """A larger tau, which shows how much the verdict depends on it."""
    needed: int | None = None
    """For `undecided`: the number of our seeds that would decide (optimistic). None if no number would."""
    assumed: tuple[Assumption, ...] = ()
    published_in: str = ""
    """PAPER/TABLE of the published number."""
    origin: str = ""
    """Who ran the published number."""
    source: str = ""
    """Where the published number was read."""
    reference: bool = False
    """Whether our number comes from reference records."""
    imported: str = ""
    """The imported checkpoint that the cell measures or learns from, as `NETWORK (HASH)`, "" if none."""
    measures_imported: bool = False
    """Whether our number is of the imported checkpoint itself, without any training."""
    notes: tuple[str, ...] = ()
    """Remarks on the cell that do not change its verdict."""

    @property
    def pair(self) -> str:
        """The pair as TEACHER:STUDENT."""
        return f"{self.teacher}:{self.student}"

    @property
    def marks(self) -> str:
        """The marks of our number for its origin, as in the table."""
        return origin_marks(self.reference, self.measures_imported)

    @property
    def best_mark(self) -> str:
        """`BEST_MARK` if our number is of the best epoch, which is chosen on the test set, else ""."""
        return BEST_MARK if self.rule == "best" and self.ours is not None else ""


class Diff(list[CellDiff]):
    """The cells of a diff, with the lines above it (`head`) and the table's note."""

    def __init__(self, cells: Iterable[CellDiff] = (), head: Sequence[str] = (), note: str = "") -> None:
        super().__init__(cells)
        self.head, self.note = list(head), note

    def counts(self) -> dict[Verdict, int]:
        """Return the number of cells by verdict."""
        return count_verdicts(self)


def count_verdicts(diffs: Iterable[CellDiff]) -> dict[Verdict, int]:
    """Return the number of cells by verdict, zeros included."""
    verdicts = [c.verdict for c in diffs]
    return {v: verdicts.count(v) for v in Verdict}


def diff_table(
    expansion: Expansion,
    frame: pd.DataFrame,
    against: str | None = None,
    store: Store | None = None,
    published: PublishedCells | None = None,
    tau: float | None = None,
) -> Diff:
    """Return the diff of a table.

    frame: `results.load()`. against: another paper, whose published numbers are taken for the same cells.
    store: tells failed from absent runs. published: the published numbers (default: those of the registry).
    tau: 0 only if all runs are of the publisher's code, with the publisher's weights of the teachers; None
    for that of each cell's numbers.
    Raises `InputError` for a paper that has no published numbers.
    """
    published = published if published is not None else PublishedCells.read(expansion.table.dataset)
    if against is not None and against not in published.papers:
        raise unknown("paper", against, published.papers)
    results = collect(expansion, frame, store)
    sticks = yardsticks(seed_stds())
    cells = []
    for result in results:
        number = (
            published.of(expansion.table, result.cell)
            if against is None
            else published.of_paper(against, result.cell)
        )
        errata = () if number is None or number.value is None else published.errata_of(number)
        notes = _notes(result, number, errata)
        cells.append(_cell(expansion, result, number, notes, against, sticks, tau))
    head = header(expansion, results).lines
    if expansion.table.shown == ERROR:
        head.append("accuracies are compared, 100 - error, where the paper prints errors")
    return Diff(_judged(cells), head, expansion.table.note)


def _judged(cells: Sequence[tuple[CellDiff, Comparison | None]]) -> list[CellDiff]:
    """Return the cells, those with a comparison with the verdict that the rule gives them in this table."""
    compared = [(cell, c) for cell, c in cells if c is not None]
    judgements = iter(decide([c for _, c in compared]))
    wide = iter(decide([c.with_tau(cell.wide_tau or c.tau) for cell, c in compared]))
    return [
        cell if c is None else _with_verdict(cell, next(judgements), next(wide).verdict) for cell, c in cells
    ]


def _with_verdict(cell: CellDiff, judgement: Judgement, with_wide_tau: Verdict) -> CellDiff:
    c = judgement.comparison
    low, high = c.interval()
    return dataclasses.replace(
        cell,
        verdict=judgement.verdict,
        low=low,
        high=high,
        p=c.p,
        adjusted_p=judgement.adjusted,
        tau=c.tau,
        with_wide_tau=with_wide_tau,
        needed=judgement.needed,
        assumed=c.assumed,
    )


def _cell(
    expansion: Expansion,
    result: CellResult,
    number: PublishedNumber | None,
    notes: tuple[str, ...],
    against: str | None,
    sticks: Mapping[tuple[str, str], Yardstick],
    tau: float | None,
) -> tuple[CellDiff, Comparison | None]:
    """Return one cell, and its comparison with the published number if the two can be compared.

    number: the published number, if there is one. A cell with a comparison gets its verdict later.
    """
    cell, row = result.cell, result.cell.row
    rule = result.rule
    if number is not None and (rule == "both" or against is not None):
        rule = number.rule if number.rule in ("last", "best") else "both"
    last, best = result.sample("last"), result.sample("best")
    ours = best if rule == "best" else last
    base = CellDiff(
        table=expansion.table.name,
        profile=expansion.profile + expansion.suffix,
        label=row.label,
        method=row.method,
        protocol=result.protocol,
        teacher=cell.teacher,
        student=cell.student,
        rule=rule,
        verdict=Verdict.MISSING,
        n=result.n,
        seeds=result.expected,
        reference=result.is_reference,
        imported=result.imported_name,
        measures_imported=result.measures_imported,
        notes=notes,
    )
    if ours is not None and last is not None and best is not None:
        base = dataclasses.replace(base, ours=ours.mean, ours_std=ours.std, last=last.mean, best=best.mean)
    stick = sticks.get((number.dataset, number.metric)) if number is not None else None
    if number is not None:
        base = dataclasses.replace(
            base,
            published=number.value,
            published_std=None if number.value is None else number.std,
            published_n=None if number.value is None else number.n,
            published_in=number.published_in,
            origin=number.origin,
            source=number.source,
        )
        if stick is not None and number.value is not None and ours is not None:
            network = cell.teacher if row.method == "teacher" and cell.teacher != NONE else cell.student
            base = dataclasses.replace(base, s0=stick.s0(network))
        # a difference between two data sets is not even shown
        if number.value is not None and ours is not None and expansion.dataset == expansion.table.dataset:
            base = dataclasses.replace(base, delta=ours.mean - number.value)

    def final(verdict: Verdict, reason: str) -> tuple[CellDiff, None]:
        return dataclasses.replace(base, verdict=verdict, reason=reason), None

    not_published = f"not published by {against}" if against else "not published"
    if number is not None and number.value is None and number.note:
        not_published = number.note
    if not result.runs:
        return final(Verdict.MISSING, cell.reason if cell.missing else f"N/A: {cell.reason}")
    if ours is None or last is None or best is None:
        blank = [not_published] if number is None or number.value is None else []
        reasons = [f"our runs: {result.absence()}", *result.reasons(), *blank]
        return final(Verdict.MISSING, "; ".join(reasons))
    if number is None or number.value is None:
        return final(Verdict.MISSING, not_published)
    if _same_checkpoint(expansion, result, number):
        return final(*_identity(ours.mean - number.value))
    if reason := _not_comparable(expansion, result, number, against):
        return final(Verdict.NOT_COMPARABLE, reason)
    if stick is None or base.s0 is None:
        return final(Verdict.NOT_COMPARABLE, no_yardstick(number.dataset, number.metric))
    theirs, s0 = Sample(number.value, number.std, number.n), base.s0
    tau = stick.tau if tau is None else tau
    base = dataclasses.replace(base, wide_tau=stick.wide_tau)
    if rule != "both":
        return base, compare(ours, theirs, s0, tau)
    by_last, by_best = compare(last, theirs, s0, tau), compare(best, theirs, s0, tau)
    reason = (
        "the paper's epoch is not known: interval and verdict are for both the last and the best epoch "
        f"(delta {signed(by_last.delta)} / {signed(by_best.delta)})"
    )
    return dataclasses.replace(base, reason=reason), dataclasses.replace(by_last, other_epoch=by_best)


def _same_checkpoint(expansion: Expansion, result: CellResult, number: PublishedNumber) -> bool:
    """Whether our number and the published one are of the same weights, on the same data set."""
    if not result.measures_imported or expansion.dataset != number.dataset:
        return False
    return bool({number.paper, number.copied_from.partition("/")[0]} & set(published_by(result.imported)))


def _identity(delta: float) -> tuple[Verdict, str]:
    """Return the verdict on two evaluations of the same weights, and its reason."""
    # published numbers have two decimals: a float's last bit must not push 0.02 over the limit
    if abs(delta) <= IDENTITY + 1e-9:
        return Verdict.SAME_CHECKPOINT, "both numbers are of the same weights: a check of the evaluation"
    return Verdict.DIFFERS, (
        f"both numbers are of the same weights, and differ by more than {IDENTITY}: check the test set, its "
        "normalisation and the network"
    )


def _not_comparable(
    expansion: Expansion, result: CellResult, number: PublishedNumber, against: str | None
) -> str:
    """Say why our result and the published number of a cell cannot be compared, "" if they can."""
    table, row = expansion.table, result.cell.row
    if expansion.profile != "paper":
        profile = profiles.get_profile(expansion.profile)
        return f"profile {profile.name} is not the published schedule"
    if expansion.dataset != table.dataset:
        return f"our runs are on {expansion.dataset}, the published number is on {table.dataset}"
    if table.protocol_override and table.protocol_override != row.protocol:
        return f"our runs use protocol {table.protocol_override}, the published number {row.protocol}"
    if changed := _changed_settings(result):
        return f"the settings are not the published ones: {changed}"
    if against is not None:
        return _other_paper(result, number)
    if row.not_comparable:
        return row.not_comparable
    if number.rule in ("last", "best") and result.rule in ("last", "best") and number.rule != result.rule:
        return (
            f"the published number is of the {number.rule} epoch, "
            f"protocol {result.protocol} reports the {result.rule} one"
        )
    return ""


def _other_paper(result: CellResult, number: PublishedNumber) -> str:
    """Say why a number of another paper than the table's cannot be compared, "" if it can."""
    if number.paper in protocols.PROTOCOLS and number.paper != result.protocol:
        return f"{number.paper} has its own protocol, our runs use {result.protocol}"
    if number.recipe:
        return f"another recipe: {number.recipe}"
    method = result.cell.row.method
    if method not in (number.method, *BASELINE_ROWS) and set(method.split("+")) != set(
        number.method.split("+")
    ):
        return f"our row is {method}, theirs {number.method}"
    epochs = protocols.get_protocol(result.protocol).epochs
    if number.epochs is not None and number.epochs != epochs:
        return f"they train {number.epochs} epochs, we train {epochs}"
    return ""


def _changed_settings(result: CellResult) -> str:
    """Name the settings of `--set` that change what the row runs, "" if there are none."""
    if not result.runs:
        return ""
    run, row_settings = result.runs[0].run, dict(result.cell.row.settings)
    measured = result.cell.row.measured
    if run.measure is not None and measured is not None:
        asked = measured.spec().fields()
        if other := [f"{run.measure.name}.{k}={v}" for k, v in run.measure.fields().items() if asked[k] != v]:
            return ", ".join(other)
        if run.evaluates is not None and run.evaluates.run is not None:
            run = run.evaluates.run
    changed = [f"{k}={v}" for k, v in run.request.overrides if row_settings.get(k) != v]
    if not changed or run.evaluates is not None:
        return ""
    overrides = tuple(sorted(row_settings.items()))
    plain = Resolver().run(dataclasses.replace(run.request, overrides=overrides), run.seed)
    same = all(plain.settings[part] == run.settings[part] for part in ("method", "recipe"))
    return "" if same else ", ".join(changed)


def _notes(result: CellResult, number: PublishedNumber | None, errata: Sequence[str]) -> tuple[str, ...]:
    """Return the remarks on a cell. errata: on its published number."""
    notes = []
    if result.runs and result.n and result.absence():
        notes.append(f"{result.absence()}: not in the mean")
    if result.imported_logs:
        notes.append(_imported_logs(result))
    if result.cell.row.measured is not None and (others := other_numbers(result)):
        notes.append(f"beside it: {others}")
    if number is not None and number.value is not None and number.note:
        notes.append(number.note)
    return (*notes, *(f"erratum: {text}" for text in errata))


def _imported_logs(result: CellResult) -> str:
    """Return a note with the mean of the imported logs, by the epoch that the protocol reports."""
    last, best = (mean_std(s.mean, s.std) for s in map(Sample.of, zip(*result.imported_logs, strict=True)))
    value = {"last": last, "best": best, "both": f"{last} / {best}"}[result.rule]
    epoch = {"both": "last / best"}.get(result.rule, result.rule)
    return f"imported logs, not ours and in no mean: {value} (n {len(result.imported_logs)}, {epoch} epoch)"


def exit_code(diffs: Iterable[CellDiff], fail_on: Collection[str] = FAILING) -> int:
    """Return 1 if some verdict is among `fail_on`, else 0.

    Raises `InputError` for a verdict that may not fail a diff.
    """
    for verdict in fail_on:
        if verdict not in MAY_FAIL:
            raise InputError(f"verdict '{verdict}' cannot fail a diff; allowed: {', '.join(MAY_FAIL)}")
    return int(any(c.verdict in fail_on for c in diffs))


def to_frame(diffs: Iterable[CellDiff]) -> pd.DataFrame:
    """Return the diff as a DataFrame with one row a cell. Tuples become text joined by '; '.

    The column `best_on_test_set` says whether `ours` is of the best epoch, which is chosen on the test set.
    """
    names = [f.name for f in dataclasses.fields(CellDiff)]
    rows: list[dict[str, Any]] = []
    for c in diffs:
        values = {name: getattr(c, name) for name in names}
        shown = {k: "; ".join(v) if isinstance(v, tuple) else v for k, v in values.items()}
        rows.append({**shown, "best_on_test_set": bool(c.best_mark)})
    names.insert(names.index("rule") + 1, "best_on_test_set")
    return pd.DataFrame(rows, columns=names)
