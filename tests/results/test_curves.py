"""The published training curves: complete, of our pairs, and as the registry describes them."""

from __future__ import annotations

import pandas as pd
import pytest

import models
from results import published
from results.published.curves import COLUMNS, FOLDER, RUN


def runs() -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    return [(key, part) for key, part in published.curves().groupby(list(RUN))]


def test_every_run_is_complete() -> None:
    lengths = {}
    for key, part in runs():
        assert list(part["epoch"]) == list(range(1, len(part) + 1)), key
        lengths[key] = len(part)
    crd = [n for key, n in lengths.items() if key[1] == "crd"]
    ls = [n for key, n in lengths.items() if key[1] == "mdistiller"]
    assert crd == [240] * 25 and len(ls) == 40 and sorted(set(ls)) == [240, 480, 960]
    assert all(("mlld" in key[4]) == (n > 240) for key, n in lengths.items())


def test_values_are_plausible() -> None:
    frame = published.curves()
    assert tuple(frame.columns) == COLUMNS and not frame.isna().any().any()
    assert frame[["train_acc", "test_acc", "test_acc_top5"]].ge(0).all().all()
    assert frame[["train_acc", "test_acc", "test_acc_top5"]].le(100).all().all()
    assert (frame["test_acc_top5"] >= frame["test_acc"]).all() and (frame["train_loss"] > 0).all()
    assert set(frame["teacher"]) | set(frame["student"]) <= set(models.names())
    assert frame["source"].str.match(r"github:[\w.-]+/[\w.-]+@[0-9a-f]{7}").all()


def test_a_pair_and_method() -> None:
    found = published.curves("resnet56", "resnet20", "kd")
    assert list(found["epoch"]) == list(range(1, 241)) and set(found["run"]) == {"LeSN-Lab-1"}
    assert (found["train_loss"].iloc[0], found["test_acc"].iloc[-1]) == (11.8, 70.67)
    assert published.curves("resnet56", "resnet20", "nst").empty
    assert len(published.curves("resnet32x4", "resnet8x4", "kd")["run"].unique()) == 2


def test_two_users_agree() -> None:
    losses = published.curves("resnet32x4", "resnet8x4", "kd").pivot(
        index="epoch", columns="run", values="train_loss"
    )
    difference = (losses.iloc[:, 0] / losses.iloc[:, 1] - 1).abs()
    assert difference.iloc[:5].max() < 0.0095 and 0.021 < difference.max() < 0.022


def test_one_user_has_another_schedule() -> None:
    for key, part in runs():
        if key[1] != "crd":
            continue
        loss = part.set_index("epoch")["train_loss"]
        falls = 1 - loss[151] / loss[150]
        assert (falls < 0.04) == (key[5] == "Vamsi-344-1") and (falls > 0.14) == (key[5] != "Vamsi-344-1"), (
            key
        )


@pytest.mark.parametrize(
    ("method", "cells", "low", "high"), [("mlld+ls", 5, 0.0, 0.0), ("kd+ls", 4, 0.50, 0.84)]
)
def test_the_errata_describe_the_released_logs(method: str, cells: int, low: float, high: float) -> None:
    gaps = []
    for key, part in runs():
        if key[1] == "mdistiller" and key[4] == method:
            printed = [
                published.value("lskd", table, key[2], key[3], method) for table in ("table1", "table2")
            ]
            (value,) = {x.value for x in printed if x is not None and x.value is not None}
            gaps.append(round(part["test_acc"].max() - value, 2))
    found = [g for g in gaps if low <= g <= high and (g == 0 or g >= 0.5)]
    assert len(found) == cells and (min(found), max(found)) == (low, high)


def test_size() -> None:
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 1_000_000
