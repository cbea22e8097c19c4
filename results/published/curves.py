"""Complete training curves that others left of the benchmark's recipes, epoch by epoch.

    crd_recipe.csv.gz               25 runs of 240 epochs (KD 0.1/0.9, CRD 0.8, RKD) on 9 pairs, by three independent users of RepDistiller
    logit_standardization.csv.gz    40 runs (KD, DKD, MLLD, each with logit standardisation, `+ls`; mdistiller's loop) on 14 pairs, 240 to 960 epochs

Parsed from training logs in public repositories; `source` names the repository at a commit, and the log where it is a file of its own.
train_loss is the mean total loss of the epoch, accuracies are percent, epochs count from 1. CRD's teachers were used in both.

`run` names a run among those of its pair and method: the user in crd_recipe; in logit_standardization the settings that its log's name gives,
base temperature and weight, and for DKD a third number (by its values DKD's beta). The paper's text says base temperature 2 and weight 9,
the logs have 2 to 4 and 6 to 18.

Two users' KD runs of resnet32x4 -> resnet8x4 agree in train loss within 0.9% over epochs 1 to 5 and 2.2% over all 240. The loss of the third
user's 18 runs (Vamsi-344) does not fall where CRD's schedule lowers the learning rate: another schedule, whatever the log says.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parent / "numbers" / "curves"
COLUMNS = (
    *("dataset", "recipe", "teacher", "student", "method", "run", "epoch"),
    *("train_loss", "train_acc", "test_acc", "test_acc_top5", "test_loss", "source"),
)
RUN = ("dataset", "recipe", "teacher", "student", "method", "run", "source")
"""The columns that tell one run from another."""


@functools.cache
def _all() -> pd.DataFrame:
    parts = []
    for path in sorted(FOLDER.glob("*.csv.gz")):
        frame = pd.read_csv(path).rename(columns={"setting": "run"})
        frame["method"] = frame["method"].str.lower()
        parts.append(frame[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def curves(teacher: str | None = None, student: str | None = None, method: str | None = None) -> pd.DataFrame:
    """Published curves, a row an epoch, columns `COLUMNS`, the epochs of a run in order; None fits everything.

    A pair and method that nobody left a curve of gives no rows.
    """
    frame = _all()
    for name, wanted in (("teacher", teacher), ("student", student), ("method", method)):
        if wanted is not None:
            frame = frame[frame[name] == wanted]
    return frame.reset_index(drop=True)
