"""The sizes of what makes numbers differ, computed again from the CSV files."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from results.published import causes
from results.published.causes import Cause, Effect, effects

NUMBERS = Path(causes.__file__).parent / "numbers"
Row = dict[str, str]


def rows() -> list[Row]:
    """Return the rows of all tables of top-1 on CIFAR-100 with a value, in the order of the files."""
    every: list[Row] = []
    for path in sorted(NUMBERS.rglob("*.csv")):
        if path.name in ("errata.csv", "teachers.csv", "checkpoints.csv"):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        every += csv.DictReader(line for line in lines if not line.startswith("#"))
    return [r for r in every if (r["dataset"], r["metric"]) == ("cifar100", "top1") and r["value"]]


ROWS = rows()


def effect(cause: Cause, student: str = "resnet8x4", method: str = "dkd", epochs: int = 240) -> Effect:
    (found,) = [e for e in effects(student, method, epochs) if e.cause is cause]
    return found


def cells(keep: Callable[[Row], bool]) -> dict[tuple[str, str, str], float]:
    return {(r["teacher"], r["student"], r["method"]): float(r["value"]) for r in ROWS if keep(r)}


def same(a: list[float], b: tuple[float, ...]) -> None:
    assert len(a) > 0 and sorted(a) == pytest.approx(sorted(b))


def gaps(keep: Callable[[str, int], bool]) -> list[float]:
    """Return best minus last epoch of the released logs whose recipe and length are kept."""
    curves: dict[tuple[str, ...], dict[int, tuple[float, float]]] = {}
    for path in sorted((NUMBERS / "curves").glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for r in csv.DictReader(file):
                name = (path.name, *(r[c] for c in ("teacher", "student", "method", "source")))
                name += (r.get("run") or r.get("setting") or "",)
                curves.setdefault(name, {})[int(r["epoch"])] = (float(r["test_acc"]), float(r["train_loss"]))
    kept = []
    for name, curve in curves.items():
        # the loss falls where CRD's schedule lowers the learning rate
        falls = curve[151][1] < 0.92 * curve[150][1]
        if keep(name[0], max(curve)) and (falls or "crd" not in name[0]):
            kept.append(max(a for a, _ in curve.values()) - curve[max(curve)][0])
    return kept


def test_last_or_best_epoch() -> None:
    same(gaps(lambda name, epochs: epochs == 240), effect(Cause.EPOCH).sizes)
    same(gaps(lambda name, epochs: epochs > 240), effect(Cause.EPOCH, epochs=480).sizes)


def test_run_by_others_with_the_same_teachers() -> None:
    teachers = {r["teacher"] for r in csv.DictReader((NUMBERS / "teachers.csv").open(encoding="utf-8"))}
    of_sskd = {"wrn_40_2", "resnet56", "resnet32x4"}  # HSAKD's other two are CRD's
    assert of_sskd < teachers
    sskd = cells(lambda r: r["paper"] == "sskd" and r["method"] not in ("teacher", "student", "kd"))
    hsakd = cells(lambda r: r["paper"] == "hsakd")
    shared = [k for k in hsakd if k in sskd and (k[0] in of_sskd)]
    same([hsakd[k] - sskd[k] for k in shared], effect(Cause.CODE).sizes)


def test_another_teacher() -> None:
    """RLTF ran SSKD with CRD's checkpoints, and HSAKD ran KD with SSKD's on some pairs of CRD."""
    sskd = cells(lambda r: r["paper"] == "sskd" and r["method"] not in ("teacher", "student", "kd"))
    rltf = cells(lambda r: r["paper"] == "rltf" and r["method"] not in ("teacher", "student"))
    kd = {
        paper: cells(lambda r, p=paper: r["paper"] == p and r["method"] == "kd")  # type: ignore[misc]
        for paper in ("crd", "hsakd")
    }
    of_sskd = {"wrn_40_2", "resnet56", "resnet32x4"}
    sizes = [rltf[k] - sskd[k] for k in rltf if k in sskd]
    sizes += [kd["crd"][k] - kd["hsakd"][k] for k in kd["crd"] if k in kd["hsakd"] and k[0] in of_sskd]
    same(sizes, effect(Cause.TEACHER).sizes)


def test_with_kd_minus_alone() -> None:
    """CRD prints 13 pairs with KD in its appendix and alone in its tables."""
    in_crd = cells(lambda r: r["paper"] == "crd")
    sizes = [v - in_crd[t, s, "crd"] for (t, s, m), v in in_crd.items() if m == "crd+kd"]
    others = {
        (r["paper"], r["table"], r["teacher"], r["student"], r["method"]): float(r["value"])
        for r in ROWS
        if r["paper"] != "crd" and not r["recipe"] and r["origin"].startswith("run by")
    }
    sizes += [
        v - others[*k[:4], "crd"] for k, v in others.items() if k[4] == "crd+kd" and (*k[:4], "crd") in others
    ]
    assert len(sizes) >= 13
    for method in ("crd", "crd+kd"):
        same(sizes, effect(Cause.KD, method=method).sizes)
    # a method that nobody printed both ways has the sizes of all methods
    assert len(effect(Cause.KD, method="dkd").sizes) > len(sizes)


def test_another_network_of_the_same_name() -> None:
    plain: dict[str, set[tuple[str, float]]] = {}
    for r in ROWS:
        if r["method"] == "student" and r["origin"].startswith("run by"):
            plain.setdefault(r["student"], set()).add((r["paper"], float(r["value"])))
    namesakes = [s for s in plain if s.startswith("MobileNetV2_")]
    pairs = itertools.product([v for s in namesakes for _, v in plain[s]], plain["MobileNetV2"])
    sizes = [other - this for other, (_, this) in pairs]
    same(sizes, effect(Cause.NETWORK, student="MobileNetV2").sizes)
    assert min(sizes) > 2
    assert all(e.cause is not Cause.NETWORK for e in effects("resnet8x4", "kd"))


def test_what_the_registry_cannot_measure_has_no_size() -> None:
    assert "batch" not in ROWS[0] and not effect(Cause.BATCH).sizes
    by_cell: dict[tuple[str, ...], set[str]] = {}
    for r in ROWS:
        if r["origin"].startswith("run by") and r["epochs"]:
            cell = (r["teacher"], r["student"], r["method"], r["recipe"])
            by_cell.setdefault(cell, set()).add(r["epochs"])
    two_lengths = [c for c, lengths in by_cell.items() if len(lengths) > 1]
    assert bool(effect(Cause.EPOCHS).sizes) == bool(two_lengths)


def test_the_rms_of_sizes() -> None:
    made_up = Effect(Cause.CODE, "", (3.0, -4.0))
    assert made_up.rms == pytest.approx(math.sqrt(12.5)) and made_up.mean == pytest.approx(-0.5)
