"""A run's epochs beside a published training curve, epoch by epoch.

A final top-1 says late and roughly whether a training is the published one; its loss says so from the first epoch. Two users' independent
runs of one published setting (KD, resnet32x4 -> resnet8x4, CRD's code and teachers) differ in train loss by 0.0 to 0.9% in the first five
epochs, by 0.36% in the median of all 240 and by 2.2% at most. The band is about twice that, because it was seen in one pair of runs only:

    every epoch  |ours / theirs - 1| <= 2% up to epoch 5, <= 5% after it; one epoch in twenty may stray
    all epochs   median of |ours / theirs - 1| <= 1%

Compared are the epochs that both train at the same learning rate, from the first on: a shortened schedule follows the published one up to its first
milestone, and so far it can be checked against it.

Not every log that is called a run of the benchmark is one. Where the learning rate falls to a tenth, the train loss of the runs of two users falls
by 15 to 28% within an epoch; that of the third user's (18 runs, all on pairs of different architectures) by 3% at most, and the loss of that
user's KD begins at a quarter of the others': another schedule and another loss. Such a curve is shown, but nothing is compared with it (`strange`).
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
from benchmark.spec import protocols
from benchmark.spec.matrix import Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run
from results.store import Store
from tables.cells import CellResult, collect, number
from tables.statistics import signed

STEP_FALL = 0.08
"""A run of a step schedule loses at least this share of its train loss in the epoch after its first milestone."""

EARLY_EPOCHS, EARLY_BAND, LATE_BAND, MEDIAN_BAND, STRAY = 5, 0.02, 0.05, 0.01, 0.05

BAND = (
    f"agrees when the train loss (mean of the total loss over the epoch) is within {EARLY_BAND:.0%} of the published one up to epoch {EARLY_EPOCHS} "
    f"and within {LATE_BAND:.0%} after it, in all but {STRAY:.0%} of the epochs, and the median difference is at most {MEDIAN_BAND:.0%} "
    "(two independent published runs: 0.0 to 0.9%, at most 2.2%, median 0.36%)"
)
FORMATS = ("plain", "md", "tex", "csv", "json")


@dataclass(frozen=True)
class EpochDiff:
    """One epoch. relative = ours / published - 1 of the train loss; test accuracies in % (None where a curve has none)."""

    epoch: int
    ours: float
    published: float
    relative: float
    band: float
    ours_test_acc: float | None
    published_test_acc: float | None

    @property
    def inside(self) -> bool:
        return abs(self.relative) <= self.band


@dataclass(frozen=True)
class CurveDiff:
    """A run beside a published run. verdict: `agrees`, `differs`, or `not comparable` with the reason and no epochs."""

    key: str
    teacher: str
    student: str
    method: str
    published_run: str
    verdict: str
    reason: str
    epochs: tuple[EpochDiff, ...]

    @property
    def median(self) -> float | None:
        return statistics.median(abs(e.relative) for e in self.epochs) if self.epochs else None

    @property
    def outside(self) -> tuple[int, ...]:
        return tuple(e.epoch for e in self.epochs if not e.inside)


def published_curves(
    protocol: str, teacher: str, student: str, method: str, dataset: str = "cifar100"
) -> dict[str, pd.DataFrame]:
    """Published curves of a pair and method under a protocol's recipe: name of the published run -> epochs in order."""
    from results import published

    frame = published.curves(teacher=teacher, student=student, method=method)
    frame = frame[(frame["dataset"] == dataset) & (frame["recipe"] == protocol)]
    return {str(name): part.sort_values("epoch", ignore_index=True) for name, part in frame.groupby("run")}


def comparable_epochs(run: Run) -> tuple[int, str]:
    """Up to which epoch a run trains as its protocol publishes it, and a reason where that is none at all."""
    protocol = protocols.get_protocol(run.protocol)
    if run.dataset != "cifar100":
        return 0, f"the run is of {run.dataset}, the published curve of cifar100"
    info = data.info(run.dataset)
    plain = protocols.resolve(
        protocol,
        protocols.get_profile("paper"),
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
    ):
        if getattr(run.recipe, name) != getattr(plain, name):
            return 0, f"recipe.{name} is {getattr(run.recipe, name)}, published {getattr(plain, name)}"
    standard = Resolver().run(dataclasses.replace(run.request, overrides=()), run.seed).settings["method"]
    if run.settings["method"] != standard:
        return 0, "settings of the method are not the published ones"
    same = 0
    for epoch in range(1, min(run.recipe.epochs, plain.epochs) + 1):
        if not math.isclose(run.recipe.lr_at(epoch), plain.lr_at(epoch)):
            break
        same = epoch
    return same, "" if same else f"learning rate {run.recipe.lr} is not the published {plain.lr}"


def strange(published: pd.DataFrame, protocol: str) -> str:
    """Why a published curve cannot be of the protocol's schedule ("" if it can): its loss does not fall where the learning rate would."""
    milestone = protocols.get_protocol(protocol).milestones[0]
    losses = dict(zip(published["epoch"].tolist(), published["train_loss"].tolist(), strict=True))
    before, after = number(losses.get(milestone)), number(losses.get(milestone + 1))
    if before is None or after is None or after <= (1 - STEP_FALL) * before:
        return ""
    return f"the published run's loss does not fall after epoch {milestone} ({before:.2f} to {after:.2f}): not this schedule"


def compare(
    curve: pd.DataFrame, published: pd.DataFrame, epochs: int | None = None
) -> tuple[str, tuple[EpochDiff, ...]]:
    """Verdict (`agrees`, `differs`, or `not comparable` if they share no epoch) and the shared epochs.

    curve: as a run leaves it (its main stage counts). published: columns epoch, train_loss, test_acc. epochs: compare only so many.
    """
    if "stage" in curve:
        curve = curve[curve["stage"] == "main"]
    theirs = {int(r["epoch"]): r for r in published.to_dict("records")}
    found = []
    for row in curve.sort_values("epoch").to_dict("records"):
        epoch = int(row["epoch"])
        mine, other = number(row.get("train_loss")), number(theirs.get(epoch, {}).get("train_loss"))
        if mine is None or not other or (epochs is not None and epoch > epochs):
            continue
        band = EARLY_BAND if epoch <= EARLY_EPOCHS else LATE_BAND
        accuracies = number(row.get("test_acc")), number(theirs[epoch].get("test_acc"))
        found.append(EpochDiff(epoch, mine, other, mine / other - 1, band, *accuracies))
    return _verdict(found), tuple(found)


def _verdict(found: Sequence[EpochDiff]) -> str:
    if not found:
        return "not comparable"
    strays = sum(not e.inside for e in found)
    median = statistics.median(abs(e.relative) for e in found)
    return "agrees" if strays <= STRAY * len(found) and median <= MEDIAN_BAND else "differs"


def diff_curves(expansion: Expansion, frame: pd.DataFrame, store: Store) -> list[CurveDiff]:
    """Every run of a table that has a curve, beside every published curve of its pair and method."""
    found = []
    for cell in collect(expansion, frame, store):
        theirs = cell_curves(cell)
        for result in cell.runs if theirs else ():
            curve = store.curve(result.run.key, reference=True)
            if curve is None:
                continue
            epochs, reason = comparable_epochs(result.run)
            for name, published in theirs.items():
                why = reason or strange(published, result.run.protocol)
                verdict, pairs = ("not comparable", ()) if why else compare(curve, published, epochs)
                run = result.run
                found.append(
                    CurveDiff(run.key, run.teacher, run.student, run.method, name, verdict, why, pairs)
                )
    return found


def cell_curves(cell: CellResult) -> dict[str, pd.DataFrame]:
    """The published curves that a cell's runs may be laid over ({} for plain trainings)."""
    method = cell.cell.row.method
    if method in ("teacher", "student") or not cell.runs:
        return {}
    return published_curves(cell.protocol, cell.cell.teacher, cell.cell.student, method)


def format_curves(expansion: Expansion, frame: pd.DataFrame, store: Store, fmt: str = "plain") -> str:
    """The curves' diff as text: `plain`, `md`, `tex` (the summary), `csv` (every epoch) or `json` (everything)."""
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    found = diff_curves(expansion, frame, store)
    if fmt == "json":
        return json.dumps({"band": BAND, "curves": [_as_dict(c) for c in found]}, indent=1, allow_nan=False)
    if fmt == "csv":
        rows = [
            {"key": c.key, "published_run": c.published_run, **dataclasses.asdict(e), "inside": e.inside}
            for c in found
            for e in c.epochs
        ]
        fields = ["key", "published_run", *(f.name for f in dataclasses.fields(EpochDiff)), "inside"]
        return pd.DataFrame(rows, columns=fields).to_csv(index=False, lineterminator="\n")
    if not found:
        return (
            f"{expansion.table.name}: no run has a curve and a published curve to lay it over. Rule: {BAND}."
        )
    kind = {"plain": "simple", "md": "pipe", "tex": "latex_booktabs"}[fmt]
    heads = ("run", "published run", "epochs", "median", "largest", "at", "outside", "verdict")
    table = tabulate([_summary(c) for c in found], heads, tablefmt=kind, disable_numparse=True)
    parts = [table]
    if fmt == "plain":
        parts += [_epochs(c) for c in found if c.epochs]
    reasons = sorted({f"{c.key}: {c.reason}" for c in found if c.reason})
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
    """Epochs 1 to 10, every tenth, the last, and those outside the band."""
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
