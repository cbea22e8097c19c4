"""The details that the report shows when a cell is opened, as JSON data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.spec.matrix import Expansion
from results.store import Store
from tables.between_methods import Paired, paired
from tables.cells import BASELINE_ROWS, CellResult, RunResult, number, rank_rule
from tables.curves import cell_curves, comparable_epochs, judge_curve, schedule_mismatch
from tables.diff import CellDiff
from tables.text import mean_std, signed

CURVE_POINTS = 120
"""The largest number of points of a curve in the page."""


def details(
    e: Expansion,
    r: CellResult,
    d: CellDiff,
    results: Sequence[CellResult],
    store: Store,
    published_curves: dict[str, Any],
) -> dict[str, Any]:
    """Return the details of a cell.

    results: of all cells. published_curves: the cell's published curves are added.
    """
    theirs = cell_curves(r)
    curves_name = f"{r.protocol}|{d.pair}|{d.method}" if theirs else ""
    if theirs:
        published_curves[curves_name] = {run: _thin(curve) for run, curve in theirs.items()}
    return {
        "label": d.label,
        "method": d.method,
        "pair": d.pair,
        "protocol": d.protocol,
        "verdict": d.verdict,
        "reason": d.reason,
        "rule": d.rule,
        "notes": list(d.notes),
        "last": _text(r, "last"),
        "best": _text(r, "best"),
        "n": d.n,
        "seeds": d.seeds,
        "published": None if d.published is None else mean_std(d.published, d.published_std),
        "published_n": d.published_n,
        "delta": d.delta,
        "interval": None if d.low is None or d.high is None else f"{signed(d.low)} to {signed(d.high)}",
        "adjusted_p": d.adjusted_p,
        "with_wide_tau": d.with_wide_tau,
        "needed": d.needed,
        "assumed": [a.replace("s0", f"s0 = {d.s0:.2f}") for a in d.assumed],
        "published_in": d.published_in,
        "origin": d.origin,
        "source": d.source,
        "runs": [_run_details(x, store, theirs) for x in r.runs],
        "settings": _flat(r.runs[0].settings) if r.runs else {},
        "curves": curves_name,
        "paired": _paired(e, r, results),
    }


def _text(r: CellResult, which: str) -> str:
    sample = r.sample(which)
    return "" if sample is None else mean_std(sample.mean, sample.std)


_RUN_NUMBERS = (
    *("best_epoch", "top1_held_out", "epochs", "seconds", "share_seconds"),
    *("images_per_second", "threads", "teacher_top1"),
)
_RUN_TEXTS = (
    *("device", "precision", "teacher_key", "teacher_hash"),
    *("commit", "torch", "host", "finished", "origin"),
)


def _run_details(x: RunResult, store: Store, theirs: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the details of a run. theirs: the published curves of its cell."""
    shown: dict[str, Any] = {
        "key": x.run.key,
        "seed": x.run.seed,
        "state": x.state,
        "reason": x.reason,
        "last": x.last,
        "best": x.best,
    }
    row = x.row or {}
    for field in _RUN_NUMBERS:
        shown[field] = number(row.get(field))
    for field in _RUN_TEXTS:
        value = row.get(field)
        shown[field] = value if isinstance(value, str) else ""
    curve = store.curve(x.run.key, reference=True)
    if curve is not None:
        shown["curve"] = _thin(curve)
        epochs, reason = comparable_epochs(x.run) if theirs else (0, "")
        shown["curve_verdicts"] = []
        for name, other in theirs.items():
            why = reason or schedule_mismatch(other, x.run.protocol)
            verdict, shared = judge_curve(x.run, curve, other, epochs, why)
            last = shared[-1].epoch if shared else 0
            shown["curve_verdicts"].append({"run": name, "verdict": verdict, "epochs": last, "reason": why})
    return shown


def _thin(curve: pd.DataFrame) -> dict[str, list[float | None]]:
    """Return epoch, test top-1 and train loss of at most `CURVE_POINTS` epochs.

    The first and the last epoch are always kept.
    """
    if "stage" in curve:
        curve = curve[curve["stage"] == "main"]
    step = max(1, -(-len(curve) // CURVE_POINTS))
    keep = sorted({*range(0, len(curve), step), len(curve) - 1}) if len(curve) else []
    curve = curve.iloc[keep]
    digits = {"epoch": 0, "test_acc": 2, "train_loss": 4}
    return {
        k: [None if (x := number(v)) is None else round(x, n) for v in curve[k].tolist()]
        for k, n in digits.items()
        if k in curve
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for k, v in settings.items():
        if isinstance(v, dict):
            flat |= _flat(v, f"{prefix}{k}.")
        else:
            flat[prefix + k] = (
                v if v is None or isinstance(v, bool | int | float | str) else ", ".join(map(str, v))
            )
    return flat


def _paired(e: Expansion, r: CellResult, results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Compare a cell with the other methods of its column and group, by seed."""
    rule = rank_rule(e.table)
    if r.cell.row.method in BASELINE_ROWS:
        return []
    comparisons = []
    for other in results:
        if other is r or other.cell.pair != r.cell.pair or other.cell.row.method == "teacher":
            continue
        if other.cell.row.group != r.cell.row.group:  # trained on other images
            continue
        p = paired(r.by_seed(rule), other.by_seed(rule))
        if p is not None:
            comparisons.append({"label": other.cell.row.label, **_paired_text(p)})
    return comparisons


def _paired_text(p: Paired) -> dict[str, Any]:
    around = "" if p.low is None or p.high is None else f"{signed(p.low)} to {signed(p.high)}"
    needed = "decided" if p.settled else "" if p.needed is None else f"{p.needed}"
    return {"n": len(p.seeds), "mean": signed(p.mean), "interval": around, "needed": needed}
