"""The curve of a run beside a published training curve, epoch by epoch.

The final top-1 shows only late and roughly whether a training equals the published one. The train loss shows
it from the first epoch. Two users' independent runs of one published setting (KD, resnet32x4 -> resnet8x4,
CRD's code and teachers) differ in train loss by 0.0 to 0.9% in the first five epochs, by 0.36% in the median
of all 240, and by at most 2.2%. The band is about twice that, because it rests on this one pair of runs:

- each epoch: |ours / theirs - 1| <= 2% up to epoch 5 and <= 5% after it; one epoch in twenty may be outside;
- all epochs: median of |ours / theirs - 1| <= 1%.

Epochs are compared from the first one on, as long as both trainings have the same learning rate. So a
shortened schedule can be compared with the published one up to its first milestone.

Only curves of the same teacher are compared: the loss depends on how peaked and how hard to predict its
outputs are. The published runs learnt from CRD's checkpoints; a run of ours has the same teacher if it learnt
from a checkpoint with their hash. Otherwise the numbers stand beside each other without a verdict.

Some logs that are called runs of the benchmark have another schedule. When the learning rate falls to a
tenth, the train loss of two users' runs falls by 15 to 28% within an epoch. That of the third user's 18 runs
(all on pairs of different architectures) falls by at most 3%, and the loss of that user's KD starts at a
quarter of the others': another schedule and another loss. Such a curve is shown, but our runs are not
compared with it (`schedule_mismatch`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark import data
from benchmark.errors import unknown
from benchmark.spec import profiles, protocols, recipes
from benchmark.spec.matrix import Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run
from results import published
from results.published.checkpoints import published_by
from results.published.curves import TEACHERS_OF, has_step_schedule
from results.store import Store
from tables.cells import BASELINE_ROWS, CellResult, collect, number
from tables.text import csv_cell, escape_md, signed
from tables.verdicts import CurveVerdict

EARLY_EPOCHS, EARLY_BAND, LATE_BAND, MEDIAN_BAND = 5, 0.02, 0.05, 0.01
OUTSIDE = 0.05
"""The fraction of epochs that may lie outside the band."""

BAND = (
    "with the same teacher, by the hash of its weights, a run agrees when the train loss (mean of the total "
    f"loss over the epoch) is within {EARLY_BAND:.0%} of the published one up to epoch {EARLY_EPOCHS} and "
    f"within {LATE_BAND:.0%} after it, in all but {OUTSIDE:.0%} "
    f"of the epochs, and the median difference is at most {MEDIAN_BAND:.0%} (two independent published runs: "
    "0.0 to 0.9%, at most 2.2%, median 0.36%)"
)
FORMATS = ("plain", "md", "tex", "csv", "json")


@dataclass(frozen=True)
class EpochDiff:
    """One epoch of both curves."""

    epoch: int
    ours: float
    """Our train loss."""
    published: float
    """The published train loss."""
    relative: float
    """ours / published - 1."""
    band: float
    """The largest |relative| that is inside the band."""
    ours_test_acc: float | None
    """In %. None where the curve has none."""
    published_test_acc: float | None

    @property
    def inside(self) -> bool:
        """Whether the epoch is inside the band."""
        return abs(self.relative) <= self.band


@dataclass(frozen=True)
class CurveDiff:
    """A run beside a published run."""

    key: str
    teacher: str
    student: str
    method: str
    published_run: str
    verdict: CurveVerdict
    reason: str
    """Why the curves cannot be compared, "" if they can."""
    epochs: tuple[EpochDiff, ...]
    """Empty if the recipes differ. With another teacher, the epochs are shown without a verdict."""

    @property
    def median(self) -> float | None:
        """Median of |relative| over the epochs."""
        return statistics.median(abs(e.relative) for e in self.epochs) if self.epochs else None

    @property
    def outside(self) -> tuple[int, ...]:
        """The epochs outside the band."""
        return tuple(e.epoch for e in self.epochs if not e.inside)


def published_curves(
    protocol: str, teacher: str, student: str, method: str, dataset: str = "cifar100"
) -> dict[str, pd.DataFrame]:
    """Return the published curves of a pair and method under a protocol's recipe.

    The result maps the name of a published run to its epochs in order.
    """
    frame = published.curves(teacher=teacher, student=student, method=method)
    frame = frame[(frame["dataset"] == dataset) & (frame["recipe"] == protocol)]
    return {str(name): part.sort_values("epoch", ignore_index=True) for name, part in frame.groupby("run")}


def comparable_epochs(run: Run) -> tuple[int, str]:
    """Return up to which epoch a run trains like its protocol, and the reason if that is 0."""
    protocol = protocols.get_protocol(run.protocol)
    if run.dataset != "cifar100":
        return 0, f"the run is on {run.dataset}, the published curve on cifar100"
    info = data.info(run.dataset)
    plain = recipes.resolve(
        protocol,
        profiles.get_profile("paper"),
        network=run.student,
        available=(info.train_images, info.test_images),
    )
    for name in (
        "batch_size",
        "momentum",
        "weight_decay",
        "nesterov",
        "drop_last",
        "augment",
        "train_images",
        "label_noise",
        "label_smoothing",
        "mixup",
    ):
        if getattr(run.recipe, name) != getattr(plain, name):
            return 0, f"recipe.{name} is {getattr(run.recipe, name)}, published {getattr(plain, name)}"
    standard = Resolver().run(dataclasses.replace(run.request, overrides=()), run.seed).settings["method"]
    if run.settings["method"] != standard:
        return 0, "the method's settings are not the published ones"
    same = 0
    for epoch in range(1, min(run.recipe.epochs, plain.epochs) + 1):
        if not math.isclose(run.recipe.lr_at(epoch), plain.lr_at(epoch)):
            break
        same = epoch
    return same, "" if same else f"learning rate {run.recipe.lr} is not the published {plain.lr}"


def schedule_mismatch(theirs: pd.DataFrame, protocol: str) -> str:
    """Say why a published curve cannot be of the protocol's schedule, "" if it can.

    The loss must fall where the protocol lowers the learning rate.
    """
    p = protocols.get_protocol(protocol)
    if p.schedule != "step" or not p.milestones:
        return f"protocol {protocol} lowers the learning rate in no single epoch"
    milestone = p.milestones[0]
    if has_step_schedule(theirs, milestone):
        return ""
    before, after = (
        float(theirs.loc[theirs["epoch"] == epoch, "train_loss"].iloc[0])
        for epoch in (milestone, milestone + 1)
    )
    return (
        f"the published run has another schedule: its loss does not fall after epoch {milestone} "
        f"({before:.2f} to {after:.2f})"
    )


def same_teacher(run: Run) -> bool:
    """Whether a run learnt from the weights that the published runs learnt from, or from none at all."""
    ref = run.teacher_ref
    return ref is None or (ref.run is None and TEACHERS_OF in published_by(ref.weights))


def compare(
    curve: pd.DataFrame, theirs: pd.DataFrame, epochs: int | None = None
) -> tuple[CurveVerdict, tuple[EpochDiff, ...]]:
    """Return the verdict (`not comparable` if the curves share no epoch) and the shared epochs.

    curve: as a run leaves it; only its main stage counts. theirs: a published curve with the columns epoch,
    train_loss and test_acc. epochs: the last epoch to compare; None compares all.
    """
    if "stage" in curve:
        curve = curve[curve["stage"] == "main"]
    by_epoch = {int(r["epoch"]): r for r in theirs.to_dict("records")}
    shared = []
    for row in curve.sort_values("epoch").to_dict("records"):
        epoch = int(row["epoch"])
        our_loss, their_loss = (
            number(row.get("train_loss")),
            number(by_epoch.get(epoch, {}).get("train_loss")),
        )
        if our_loss is None or not their_loss or (epochs is not None and epoch > epochs):
            continue
        shared.append(
            EpochDiff(
                epoch=epoch,
                ours=our_loss,
                published=their_loss,
                relative=our_loss / their_loss - 1,
                band=EARLY_BAND if epoch <= EARLY_EPOCHS else LATE_BAND,
                ours_test_acc=number(row.get("test_acc")),
                published_test_acc=number(by_epoch[epoch].get("test_acc")),
            )
        )
    return _verdict(shared), tuple(shared)


def judge_curve(
    run: Run, curve: pd.DataFrame, theirs: pd.DataFrame, epochs: int, reason: str
) -> tuple[CurveVerdict, tuple[EpochDiff, ...]]:
    """Return `compare`, without a verdict if the teachers are not the same.

    epochs: up to which the recipes are the same. reason: why the recipes cannot be compared, "" if they can.
    """
    if reason:
        return CurveVerdict.NOT_COMPARABLE, ()
    verdict, shared = compare(curve, theirs, epochs)
    return (verdict if same_teacher(run) or not shared else CurveVerdict.ANOTHER_TEACHER), shared


def _verdict(epochs: Sequence[EpochDiff]) -> CurveVerdict:
    if not epochs:
        return CurveVerdict.NOT_COMPARABLE
    outside = sum(not e.inside for e in epochs)
    median = statistics.median(abs(e.relative) for e in epochs)
    inside_band = outside <= OUTSIDE * len(epochs) and median <= MEDIAN_BAND
    return CurveVerdict.AGREES if inside_band else CurveVerdict.DIFFERS


def diff_curves(expansion: Expansion, frame: pd.DataFrame, store: Store) -> list[CurveDiff]:
    """Compare every run of a table that has a curve with every published curve of its pair and method."""
    diffs = []
    for cell in collect(expansion, frame, store):
        published_of_cell = cell_curves(cell)
        for run in [r.run for r in cell.runs] if published_of_cell else ():
            curve = store.curve(run.key, reference=True)
            if curve is not None:
                diffs += [_diff_curve(run, curve, name, theirs) for name, theirs in published_of_cell.items()]
    return diffs


def _diff_curve(run: Run, curve: pd.DataFrame, name: str, theirs: pd.DataFrame) -> CurveDiff:
    """Compare one run's curve with the published curve of the run `name`."""
    last, reason = comparable_epochs(run)
    reason = reason or schedule_mismatch(theirs, run.protocol)
    verdict, epochs = judge_curve(run, curve, theirs, last, reason)
    return CurveDiff(
        key=run.key,
        teacher=run.teacher,
        student=run.student,
        method=run.method,
        published_run=name,
        verdict=verdict,
        reason=reason,
        epochs=epochs,
    )


def cell_curves(cell: CellResult) -> dict[str, pd.DataFrame]:
    """Return the published curves to compare a cell's runs with; {} for plain trainings."""
    method = cell.cell.row.method
    if method in BASELINE_ROWS or not cell.runs:
        return {}
    return published_curves(cell.protocol, cell.cell.teacher, cell.cell.student, method)


def format_curves(expansion: Expansion, frame: pd.DataFrame, store: Store, fmt: str = "plain") -> str:
    """Return the diff of the curves as text.

    fmt: `plain`, `md` or `tex` (the summary; `plain` adds epochs), `csv` (every epoch) or `json`
    (everything).
    """
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    diffs = diff_curves(expansion, frame, store)
    if fmt == "json":
        return json.dumps({"band": BAND, "curves": [_as_dict(c) for c in diffs]}, indent=1, allow_nan=False)
    if fmt == "csv":
        rows = [
            {"key": c.key, "published_run": c.published_run, **dataclasses.asdict(e), "inside": e.inside}
            for c in diffs
            for e in c.epochs
        ]
        fields = ["key", "published_run", *(f.name for f in dataclasses.fields(EpochDiff)), "inside"]
        return pd.DataFrame(rows, columns=fields).map(csv_cell).to_csv(index=False, lineterminator="\n")
    if not diffs:
        nothing = f"{expansion.table.name}: no run has both a curve and a published curve to compare it with."
        return f"{nothing} Rule: {BAND}."
    kind = {"plain": "simple", "md": "pipe", "tex": "latex_booktabs"}[fmt]
    heads = ("run", "published run", "epochs", "median", "largest", "at", "outside", "verdict")
    escaped = escape_md if fmt == "md" else str  # tabulate escapes for LaTeX by itself
    summaries = [[escaped(x) for x in _summary(c)] for c in diffs]
    table = tabulate(summaries, heads, tablefmt=kind, disable_numparse=True)
    parts = [table]
    if fmt == "plain":
        parts += [_epochs(c) for c in diffs if c.epochs]
    reasons = sorted({f"{c.key}: {c.reason}" for c in diffs if c.reason})
    return "\n\n".join([*parts, "\n".join([*reasons, f"Rule: {BAND}."])])


def _as_dict(c: CurveDiff) -> dict[str, Any]:
    return {**dataclasses.asdict(c), "median": c.median, "outside": list(c.outside)}


def _summary(c: CurveDiff) -> list[str]:
    if not c.epochs:
        return [c.key, c.published_run, "0", "", "", "", "", c.verdict]
    largest = max(c.epochs, key=lambda e: abs(e.relative))
    return [
        c.key,
        c.published_run,
        f"1-{c.epochs[-1].epoch}",
        f"{c.median:.2%}",
        signed(largest.relative, kind="%"),
        str(largest.epoch),
        f"{len(c.outside)} of {len(c.epochs)}",
        c.verdict,
    ]


def _epochs(c: CurveDiff) -> str:
    """Return a table of epochs 1 to 10, every tenth, the last, and those outside the band."""
    last = c.epochs[-1].epoch
    shown = [e for e in c.epochs if e.epoch <= 10 or e.epoch % 10 == 0 or e.epoch == last or not e.inside]
    rows = [
        [
            e.epoch,
            f"{e.ours:.3f}",
            f"{e.published:.3f}",
            signed(e.relative, kind="%") + ("" if e.inside else " !"),
            "" if e.ours_test_acc is None else f"{e.ours_test_acc:.2f}",
            "" if e.published_test_acc is None else f"{e.published_test_acc:.2f}",
        ]
        for e in shown
    ]
    heads = ("epoch", "train loss", "published", "difference", "top-1", "published")
    return f"{c.key} beside {c.published_run}\n" + tabulate(
        rows, heads, tablefmt="simple", disable_numparse=True
    )
