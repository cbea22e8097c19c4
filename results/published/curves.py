"""Complete training curves of the benchmark's recipes, epoch by epoch, from logs that others published.

    crd_recipe.csv.gz             25 runs of 240 epochs (KD 0.1/0.9, CRD 0.8, RKD) on 9 pairs,
                                  by three independent users of RepDistiller; 7 of them have CRD's schedule
    logit_standardization.csv.gz  40 runs of 240 to 960 epochs (KD, DKD, MLLD, each with logit
                                  standardisation, `+ls`; mdistiller's loop) on 14 pairs

They were parsed from training logs in public repositories. `source` names the repository at a commit, and the
log if it is a separate file. train_loss is the mean total loss of the epoch, accuracies are in percent, and
epochs count from 1. Both groups used CRD's teachers (`TEACHERS_OF`).

`run` tells the runs of one pair and method apart. In crd_recipe it is the user. In logit_standardization it
is the settings in the log's name: base temperature, weight, and for DKD a third number (judging by its
values, DKD's beta). The paper's text gives base temperature 2 and weight 9; the logs have 2 to 4 and 6 to 18.

The KD runs of two users on resnet32x4 -> resnet8x4 agree in train loss within 0.9% over epochs 1 to 5 and
within 2.2% over all 240. The loss of the third user's 18 runs (Vamsi-344) does not fall where CRD's schedule
lowers the learning rate, so they have another schedule, even though the log claims this one
(`has_step_schedule`).
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parent / "numbers" / "curves"
COLUMNS = (
    *("dataset", "recipe", "teacher", "student", "method", "run", "epoch"),
    *("train_loss", "train_acc", "test_acc", "test_acc_top5", "test_loss", "source"),
)
RUN = ("dataset", "recipe", "teacher", "student", "method", "run", "source")
"""The columns that identify a run."""

TEACHERS_OF = "crd"
"""The paper whose checkpoints all these runs learnt from."""

FIRST_MILESTONE = 150
"""The epoch after which CRD's schedule, and mdistiller's of 240 epochs, lowers the learning rate to a tenth.
"""

STEP_FALL = 0.08
"""With a step schedule, the train loss falls by at least this fraction in the epoch after the first
milestone.
"""


class LogGroup(StrEnum):
    """The groups of logs in which best and last epoch are compared."""

    CRD = "CRD's recipe"
    NOT_CRD = "called CRD's recipe, with another schedule"
    LSKD = "logit standardisation, 240 epochs"
    LSKD_LONG = "logit standardisation, 480 and 960 epochs"


@dataclass(frozen=True)
class BestMinusLast:
    """How much higher the best epoch is than the last one, over a group of logs. In percentage points."""

    title: str
    logs: int
    mean: float
    std: float
    most: float


@functools.cache
def _all() -> pd.DataFrame:
    parts = []
    for path in sorted(FOLDER.glob("*.csv.gz")):
        frame = pd.read_csv(path).rename(columns={"setting": "run"})
        frame["method"] = frame["method"].str.lower()
        parts.append(frame[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def curves(teacher: str | None = None, student: str | None = None, method: str | None = None) -> pd.DataFrame:
    """Return published curves with the columns `COLUMNS`, one row an epoch, the epochs of a run in order.

    None matches everything. The result is empty if nobody published such a curve.
    """
    frame = _all()
    for name, wanted in (("teacher", teacher), ("student", student), ("method", method)):
        if wanted is not None:
            frame = frame[frame[name] == wanted]
    return frame.reset_index(drop=True)


def has_step_schedule(curve: pd.DataFrame, milestone: int = FIRST_MILESTONE) -> bool:
    """Whether the train loss falls as it does where a schedule lowers the learning rate to a tenth.

    A curve that does not reach the milestone counts as one that does.
    """
    fall = loss_fall(curve, milestone)
    return fall is None or fall >= STEP_FALL


def loss_fall(curve: pd.DataFrame, milestone: int = FIRST_MILESTONE) -> float | None:
    """Return by which fraction the train loss falls after the milestone; None if an epoch is missing."""
    losses = curve.set_index("epoch")["train_loss"]
    if not {milestone, milestone + 1} <= set(losses.index):
        return None
    return 1 - float(losses[milestone + 1]) / float(losses[milestone])


def best_gaps() -> dict[LogGroup, list[float]]:
    """Return by how much the best epoch is above the last one, for each log of a group."""
    groups: dict[LogGroup, list[float]] = {}
    for (_, recipe, *_), run in _all().groupby(list(RUN)):
        if recipe != "crd":
            group = LogGroup.LSKD if int(run["epoch"].max()) == 240 else LogGroup.LSKD_LONG
        else:
            group = LogGroup.CRD if has_step_schedule(run) else LogGroup.NOT_CRD
        accuracy = run.sort_values("epoch")["test_acc"]
        groups.setdefault(group, []).append(float(accuracy.max() - accuracy.iloc[-1]))
    return groups


def best_minus_last() -> list[BestMinusLast]:
    """Return the difference of best and last epoch, over the logs of one recipe each."""
    return [
        BestMinusLast(
            title=title,
            logs=len(values),
            mean=statistics.fmean(values),
            std=statistics.stdev(values),
            most=max(values),
        )
        for title, values in sorted(best_gaps().items())
    ]
