"""Records for `results/reference`: which are fit to become reference records, and whether those there are.

A reference record is a run of published code on the real data, whose curve and weights' hash are known, so
that somebody else can train it again and compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import methods
from benchmark.errors import InputError
from benchmark.provenance import UNKNOWN
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import NONE
from benchmark.training import kept_weights
from benchmark.training.checkpoint import Damaged
from benchmark.training.finished import EPOCHS, WEIGHTS
from benchmark.training.stages import MAIN
from benchmark.work import stale
from results.files import atomic, write_json
from results.store import REFERENCE, Store, record_keys

PRIVATE = ("host", "node", "job")
"""Fields of a record that are emptied, because they are nobody's business."""

BEFORE_RULES = frozenset(
    {
        *("904fe2ccbd", "080bc4927e"),
        *("01f7afd6f9", "6d7a827eaf", "26ce934c18"),
    }
)
"""Ends of the keys of reference records from before records had weights' hashes; two of them are dirty
(docs/reference-results.md)."""

ALLOWED = ("record.json", "curve.csv", "partial.json", *WEIGHTS)
"""What the folder of a reference record may hold."""

WEIGHTS_LIMIT = 40 * 2**20
"""Most bytes of weights that the reference records may bring: everyone who clones the project loads them."""


@dataclass(frozen=True)
class Contribution:
    """A run that is fit to become a reference record."""

    key: str
    record: Mapping[str, Any]
    curve: bytes | None
    """The curve's file; None where nothing was trained."""
    weights: Path | None = None
    """The run's file of weights that goes along; None for none."""


def prepare(store: Store, key: str, weights: str = "") -> Contribution:
    """Return a run as it becomes a reference record.

    weights: the epoch, `last` or `best`, whose weights go along; "" for none. Raises `InputError` if the run
    is not fit, with the reason.
    """
    record = store.record(key)
    if record is None:
        state = store.unusable(key) or f"the run is {store.state(key)}"
        raise InputError(f"{key}: has no result ({state}); give a finished run")
    path = store.path(key) / "curve.csv"
    curve = path.read_bytes() if path.is_file() and _was_trained(record) else None
    problem = (
        unfit(record)
        or wrong_curve(record, store.curve(key))
        or _not_current(key, record)
        or _damaged(store, key)
        or _known_already(key, record)
    )
    if problem:
        raise InputError(f"{key}: {problem}")
    file = store.path(key) / f"{weights}.pt" if weights else None
    if file is not None and not file.is_file():
        raise InputError(f"{key}: it has kept no weights of the epoch {weights}; leave --weights out")
    return Contribution(key, {**record, **dict.fromkeys(PRIVATE, "")}, curve, file)


def _was_trained(record: Mapping[str, Any]) -> bool:
    """Return whether a record is of a training; otherwise it is of a network that was only measured."""
    return "imported" not in record and not record.get("measure")


def unfit(record: Mapping[str, Any]) -> str:
    """Return why a record is not fit for the reference by what it states, "" if it is."""
    if record["profile"] == "quick":
        return "profile quick is a miniature that says nothing; give runs of the profiles short or paper"
    pieces = [record.get("git") or {}, *(record.get("parts") or [])]
    if any(piece.get("commit") in (None, UNKNOWN) for piece in pieces):
        return "the commit of its code is not known; train it again in a clean checkout"
    if any(piece.get("dirty") is not False for piece in pieces):
        return "its code had changes that are in no commit (dirty); commit them, and train it again"
    sources = [part.get("sources") or {} for part in record.get("parts") or []]
    names = [name for source in sources for name in source]
    if any("/" in name for name in names):
        return "it was trained with files of KD_PLUGINS; contribute the method first, and train it again"
    for name in dict.fromkeys(names):
        if len({source[name] for source in sources if name in source}) > 1:
            return f"the file of method {name} was changed while it was trained; train it again"
    missing = [name for name in ("device", "precision", "versions", "finished") if not record.get(name)]
    if missing:
        return f"it does not state {' and '.join(missing)}; train it again with a newer version"
    if not _was_trained(record):
        return ""
    has_weights = record["status"] == "done" and record["student"] != NONE
    if has_weights and not isinstance((record.get("weights") or {}).get("last"), str):
        return "it does not state the hash of its weights; train it again, with KEEP=all"
    return ""


def wrong_curve(record: Mapping[str, Any], curve: pd.DataFrame | None) -> str:
    """Return in what a curve does not fit its record, "" if it does."""
    if not _was_trained(record):
        return ""
    if curve is None or curve.empty:
        return "it has no curve that can be read; restore curve.csv"
    main = curve[curve["stage"] == MAIN] if "stage" in curve else curve
    if len(main) != record.get("epochs"):
        return f"its curve has {len(main)} epochs, its record {record.get('epochs')}"
    if record["status"] != "done" or "test_acc" not in main or main.empty:
        return ""
    tested = {int(epoch): float(top1) for epoch, top1 in zip(main["epoch"], main["test_acc"], strict=True)}
    stated = {"top1_last": max(tested), "top1_best": int(record.get("best_epoch") or 0)}
    for name, epoch in stated.items():
        if record.get(name) is not None and not _same(tested.get(epoch, math.nan), record[name]):
            return f"its curve has top-1 {tested.get(epoch)} in epoch {epoch}, its record {record[name]}"
    return ""


def _same(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6


def _not_current(key: str, record: Mapping[str, Any]) -> str:
    """Return that the run is of no table any more, or of a method of the user; "" if neither."""
    for name in str(record["method"]).split("+"):
        if name in methods.names() and methods.is_user_method(methods.get(name)):
            return f"method {name} is a file of KD_PLUGINS; contribute the method first"
    verdict = stale.judge_finished(key, dict(record), Resolver())
    if verdict is None:
        return ""
    if verdict.reason is stale.Reason.UNKNOWN_NAME:
        return f"it has {verdict.detail}, which is not part of kd-tables; contribute that first"
    if verdict.reason is stale.Reason.OLD_KEY:
        return "a method or the code has changed since, so that it has another key now; train it again"
    return f"{verdict.why}; train it again"


def _damaged(store: Store, key: str) -> str:
    for name in kept_weights.FILES:
        if (store.path(key) / f"{name}.pt").exists():
            if name in EPOCHS and kept_weights.expected(store, key, name) is None:
                return f"its record does not state the hash of {name}.pt; train it again with a newer version"
            try:
                kept_weights.check_file(store, key, name)
            except Damaged as error:
                return f"{name}.pt is not the file that its record states ({error.why}); train it again"
    return ""


def _known_already(key: str, record: Mapping[str, Any]) -> str:
    known = Store(REFERENCE).record(key)
    if known is None:
        return ""
    names = ("top1_last", "top1_best", "best_epoch", "epochs", "numbers")
    same = all(known.get(name) == record.get(name) for name in names)
    numbers = f"{known.get('top1_last')} there, {record.get('top1_last')} here"
    return (
        f"it is a reference record already{'' if same else f', with other numbers (top-1 {numbers})'}; "
        "give other runs, or remove that record first"
    )


def write(contribution: Contribution, folder: Path) -> Path:
    """Write a record, its curve and its weights below a folder, and return the run's folder."""
    path = folder / contribution.key
    if contribution.weights is not None:
        with atomic(path / contribution.weights.name, "wb") as file:
            file.write(contribution.weights.read_bytes())
    if contribution.curve is not None:
        with atomic(path / "curve.csv", "wb") as file:
            file.write(contribution.curve)
    write_json(path / "record.json", dict(contribution.record))
    return path


def check(folder: Path = REFERENCE) -> Iterator[str]:
    """Yield a line for everything that is wrong with the reference records in a folder.

    That a record's key is an old one is not wrong: its method may have been corrected since.
    """
    store = Store(folder)
    for key in sorted(record_keys(folder)):
        record = store.record(key)
        if record is None:
            yield f"{key}: {store.unusable(key)}"
            continue
        if problem := wrong_curve(record, store.curve(key)):
            yield f"{key}: {problem}"
        if key.rpartition("-")[2] in BEFORE_RULES:
            continue
        if problem := unfit(record):
            yield f"{key}: {problem}"
        if any(record.get(name) for name in PRIVATE):
            yield f"{key}: it names a machine or a job; use `contribute`, which leaves these out"
        extra = sorted(p.name for p in store.path(key).iterdir() if p.name not in ALLOWED)
        if extra:
            yield f"{key}: {extra[0]} does not belong there; only records, curves and weights do"
        if problem := _damaged(store, key):
            yield f"{key}: {problem}"
    size = sum(file.stat().st_size for _, _, file in weights_files(folder))
    if size > WEIGHTS_LIMIT:
        yield f"the weights have {size / 2**20:.1f} MiB, and at most {WEIGHTS_LIMIT / 2**20:.0f} are allowed"


def weights_files(folder: Path = REFERENCE) -> Iterator[tuple[Mapping[str, Any], str, Path]]:
    """Yield record, epoch (`last` or `best`) and file of all weights that reference records bring."""
    store = Store(folder)
    for key in sorted(record_keys(folder)):
        for epoch in EPOCHS:
            file = store.path(key) / f"{epoch}.pt"
            if file.is_file() and (record := store.record(key)) is not None:
                yield record, epoch, file
