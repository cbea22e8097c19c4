"""Read the training logs of other code bases: top-1 of every epoch, and what else the log states.

    RepDistiller    its standard output, and that of SemCKD and SimKD, which are built on it
    mdistiller      worklog.txt, and that of the code bases built on it
    JSON            one object an epoch, as CTKD writes
    torchdistill    the log file of its image classification
    tensorboard     event files with the tag `test_acc`; needs the package tensorboard

Top-1 is in percent, and epochs count from 1, also where a log counts from 0. `read` recognises the format by
the content.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from results.record_check import is_count, is_number

_NUMBER = r"(?:tensor\()?\[?(\d+(?:\.\d+)?)"  # RepDistiller prints tensors
_COUNT = r"(\d{1,9})(?!\d)"

MOST_EPOCHS = 1_000_000
"""A larger number of an epoch is damage."""


class LogError(ValueError):
    """A file is no training log that can be read. The message is one line."""


class LogFormat(StrEnum):
    """What wrote a log."""

    REPDISTILLER = "RepDistiller"
    MDISTILLER = "mdistiller"
    JSON = "JSON"
    TORCHDISTILL = "torchdistill"
    TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class LoggedEpoch:
    """What a log states of one epoch. Accuracies are in percent; None for what it does not state."""

    epoch: int
    test_acc: float
    test_acc_top5: float | None = None
    test_loss: float | None = None
    train_acc: float | None = None
    train_loss: float | None = None
    lr: float | None = None


@dataclass(frozen=True)
class Log:
    """The log of one training."""

    path: Path
    format: LogFormat
    epochs: tuple[LoggedEpoch, ...]
    """In order of epoch, at least one. Of an epoch that the log has twice, after a resumption, the second."""
    configured_epochs: int | None = None
    """Length of the training by the log's configuration. None where it states none."""
    finished: bool = False
    """Whether the log has the line that its code writes after the last epoch."""
    teacher_top1: float | None = None
    stated_best: float | None = None
    """The best top-1 that the log states at its end."""
    batch_size: int | None = None
    teacher: str = ""
    """The teacher by the log's configuration, in the spelling of its code."""
    student: str = ""

    @property
    def last_epoch(self) -> int:
        """Number of the last epoch."""
        return self.epochs[-1].epoch

    @property
    def last(self) -> float:
        """Top-1 of the last epoch."""
        return self.epochs[-1].test_acc

    @property
    def best(self) -> float:
        """Top-1 of the best epoch."""
        return max(e.test_acc for e in self.epochs)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the best top-1."""
        return next(e.epoch for e in self.epochs if e.test_acc == self.best)

    def is_complete(self, published_epochs: int) -> bool:
        """Whether the training reached its last epoch.

        published_epochs: the length that counts where the log neither states its length nor has its last
        line.
        """
        if self.configured_epochs is not None:
            return self.last_epoch >= self.configured_epochs
        return self.finished or self.last_epoch >= published_epochs

    def remarks(self, published_epochs: int) -> list[str]:
        """Say what is wrong with the log, and what differs from a training of the published length."""
        lines = []
        if not self.is_complete(published_epochs):
            length = self.configured_epochs or published_epochs
            lines.append(f"incomplete: {self.last_epoch} of {length} epochs; not used")
        elif self.last_epoch != published_epochs:
            lines.append(f"{self.last_epoch} epochs, where {published_epochs} are published")
        if missing := self.last_epoch - len(self.epochs):
            lines.append(f"{missing} of {self.last_epoch} epochs have no test accuracy in the log")
        if self.stated_best is not None and abs(self.stated_best - self.best) > 0.0051:
            lines.append(f"its last line states best {self.stated_best:.2f}, its epochs have {self.best:.2f}")
        return lines


@dataclass
class _Draft:
    """A log while it is read."""

    format: LogFormat
    by_epoch: dict[int, LoggedEpoch] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)
    """Other fields of `Log`."""

    def add(self, entry: LoggedEpoch) -> None:
        """Add an epoch. What cannot be an accuracy in percent, or is not finite, counts as not stated."""
        if 1 <= entry.epoch <= MOST_EPOCHS and _is_percent(entry.test_acc):
            wrong: dict[str, Any] = {
                name: None
                for name, value in dataclasses.asdict(entry).items()
                if not (_is_percent(value) if "_acc" in name else _is_finite(value))
            }
            self.by_epoch[entry.epoch] = dataclasses.replace(entry, **wrong)

    def log(self, path: Path) -> Log:
        epochs = tuple(entry for _, entry in sorted(self.by_epoch.items()))
        percents = ("teacher_top1", "stated_best")
        stated = {k: v for k, v in self.stated.items() if k not in percents or _is_percent(v)}
        return Log(path=path, format=self.format, epochs=epochs, **stated)


def _is_percent(value: float | None) -> bool:
    return value is None or 0 <= value <= 100


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _add(drafts: list[_Draft], entry: LoggedEpoch) -> None:
    """Add an epoch to the last training. Where epoch 1 comes again, another training begins."""
    if entry.epoch == 1 and drafts[-1].by_epoch:
        shared = {k: v for k, v in drafts[-1].stated.items() if k not in ("finished", "stated_best")}
        drafts.append(_Draft(drafts[-1].format, stated=shared))
    drafts[-1].add(entry)


def read(path: Path) -> list[Log]:
    """Return the trainings that a file logs: one, or several where each was appended to the last.

    mdistiller does that if two trainings have the same name.

    path: a file; or, for tensorboard, also the folder of its event files.

    Raises `LogError` if the file is missing, or is no log of a known format.
    """
    if not path.exists():
        raise LogError(f"{path}: no such file; give a training log")
    if path.is_dir() or "tfevents" in path.name:
        return [_read_events(path)]
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror})") from None
    readers: tuple[Callable[[str], list[_Draft]], ...] = (
        _read_torchdistill,
        _read_repdistiller,
        _read_mdistiller,
        _read_json,
    )
    for reader in readers:
        if drafts := [d for d in reader(text) if d.by_epoch]:
            return [d.log(path) for d in drafts]
    raise LogError(
        f"{path}: no training log with a test accuracy for each epoch; allowed: the output of RepDistiller, "
        "mdistiller's worklog.txt, CTKD's JSON, torchdistill's log, tensorboard's event files"
    )


def _match(pattern: str, line: str) -> float | None:
    match = re.search(pattern, line)
    return None if match is None else float(match[1])


# --- RepDistiller -----------------------------------------------------------------------------------------


def _read_repdistiller(text: str) -> list[_Draft]:
    """Read ` * Acc@1 x Acc@5 y`, which comes after training, then `epoch N, total time`, then after testing.

    SemCKD and SimKD write ` * Epoch N, GPU g, Acc@1 x` after training and ` ** Acc@1 x` after testing. The
    same line without an epoch before it is that of the teacher.
    """
    drafts = [_Draft(LogFormat.REPDISTILLER)]
    epoch: int | None = None
    train_acc: float | None = None
    for line in text.splitlines():
        if (teacher := _match(rf"^teacher accuracy: *{_NUMBER}", line)) is not None:
            drafts[-1].stated["teacher_top1"] = teacher
        elif (best := _match(rf"^best accuracy: *{_NUMBER}", line)) is not None:
            drafts[-1].stated |= {"stated_best": best, "finished": True}
        elif number := re.search(rf"^epoch {_COUNT}, total time", line):
            epoch = int(number[1])
        elif (top1 := _match(rf"^ ?\*\*? .*?Acc@1 {_NUMBER}", line)) is not None:
            if number := re.search(rf"^ ?\* Epoch {_COUNT},", line):
                epoch, train_acc = int(number[1]), top1
            elif epoch is None:
                train_acc = top1
            else:
                top5 = _match(rf"Acc@5 {_NUMBER}", line)
                _add(drafts, LoggedEpoch(epoch, test_acc=top1, test_acc_top5=top5, train_acc=train_acc))
                epoch = None
    return drafts


# --- mdistiller -------------------------------------------------------------------------------------------

_MDISTILLER_FIELDS = ("test_acc", "test_acc_top5", "test_loss", "train_acc", "train_loss", "lr")


def _read_mdistiller(text: str) -> list[_Draft]:
    """Read blocks of `name: value` between lines of dashes, and the configuration before them."""
    drafts = [_Draft(LogFormat.MDISTILLER)]
    block: dict[str, float] = {}
    section = ""

    def end_block() -> None:
        if {"epoch", "test_acc"} <= block.keys():
            values = {k: v for k, v in block.items() if k in _MDISTILLER_FIELDS}
            _add(drafts, LoggedEpoch(int(block["epoch"]), **values))
        block.clear()

    for line in text.splitlines():
        if line.startswith("-----"):
            end_block()
        elif (best := _match(rf"^best_acc\s+{_NUMBER}", line)) is not None:
            drafts[-1].stated |= {"stated_best": best, "finished": True}
        elif heading := re.fullmatch(r"([A-Z_]+): *", line):
            section = heading[1]
        elif setting := re.fullmatch(r" +([A-Z_]+): *'?([^']*?)'? *", line):
            if drafts[-1].by_epoch:  # the configuration of an appended training
                drafts.append(_Draft(LogFormat.MDISTILLER))
            _take_setting(drafts[-1], f"{section}.{setting[1]}", setting[2])
        elif value := re.fullmatch(r"([a-z_0-9]+): ([-+.\deE]+|nan|inf)", line.strip()):
            number = _number(value[2])
            if number is not None:
                block[value[1]] = number
    end_block()
    return drafts


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


_SETTINGS: dict[str, tuple[str, type]] = {
    "SOLVER.EPOCHS": ("configured_epochs", int),
    "SOLVER.BATCH_SIZE": ("batch_size", int),
    "DISTILLER.TEACHER": ("teacher", str),
    "DISTILLER.STUDENT": ("student", str),
}


def _take_setting(draft: _Draft, name: str, value: str) -> None:
    if name in _SETTINGS:
        field_name, kind = _SETTINGS[name]
        if kind is str or (re.fullmatch(_COUNT, value) and int(value) > 0):
            draft.stated[field_name] = kind(value)


# --- JSON -------------------------------------------------------------------------------------------------


def _read_json(text: str) -> list[_Draft]:
    """Read JSON objects with `epoch` and `test_acc`, with or without anything between them."""
    drafts = [_Draft(LogFormat.JSON)]
    for entry in _json_objects(text):
        epoch: Any = entry.get("epoch")
        values: dict[str, Any] = {k: entry.get(k) for k in _MDISTILLER_FIELDS}
        known = {k: float(v) for k, v in values.items() if is_number(v)}
        if is_count(epoch) and "test_acc" in known:
            _add(drafts, LoggedEpoch(epoch, **known))
    return drafts


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, position = json.JSONDecoder(), 0
    text = text.strip()
    while position < len(text) and text[position] == "{":
        try:
            entry, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return  # the end of an interrupted log, or damage
        yield entry
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1


# --- torchdistill -----------------------------------------------------------------------------------------


def _read_torchdistill(text: str) -> list[_Draft]:
    """Read ` * Acc@1 x Acc@5 y` after `Epoch: [n] Total time` and a validation. Epochs count from 0.

    At the end, `[Teacher: ...]` and `[Student: ...]` are tested. If a training has several stages, the epochs
    of each begin at 0; the last stage counts.
    """
    draft = _Draft(LogFormat.TORCHDISTILL)
    epoch: int | None = None
    tested = ""
    for line in text.splitlines():
        if number := re.search(rf"Epoch: \[{_COUNT}\] Total time", line):
            epoch, tested = int(number[1]) + 1, ""
            if epoch == 1:
                draft.by_epoch.clear()
        elif title := re.search(r"(?:^|\t)\[(Teacher|Student): ", line):
            epoch, tested = None, title[1]
        elif length := re.findall(rf"'num_epochs': {_COUNT}", line):
            draft.stated["configured_epochs"] = int(length[-1])
        elif "Training time " in line:
            draft.stated["finished"] = True
        elif (top1 := _match(rf"\* Acc@1 {_NUMBER}", line)) is not None:
            if epoch is not None:
                draft.add(LoggedEpoch(epoch, test_acc=top1, test_acc_top5=_match(rf"Acc@5 {_NUMBER}", line)))
                epoch = None
            elif tested == "Teacher":
                draft.stated["teacher_top1"] = top1
    return [draft]


# --- tensorboard ------------------------------------------------------------------------------------------


def _read_events(path: Path) -> Log:
    if path.is_dir() and not list(path.glob("*tfevents*")):
        raise LogError(f"{path}: a folder without event files of tensorboard; give a training log")
    if importlib.util.find_spec("tensorboard") is None:
        raise LogError(
            f"{path}: event files are read by tensorboard, which is not installed; pip install tensorboard"
        )
    # by name, because the package is optional
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    series = {
        tag: {s.step: s.value for s in events.Scalars(tag)} for tag in _MDISTILLER_FIELDS if tag in tags
    }
    if not series.get("test_acc"):
        known = ", ".join(tags) or "none"
        raise LogError(f"{path}: event files without the tag test_acc; its tags: {known}")
    return _from_series(series).log(path)


def _from_series(series: dict[str, dict[int, float]]) -> _Draft:
    """Return a log of scalars. series: tag -> step -> value. Some code counts epochs from 0."""
    draft = _Draft(LogFormat.TENSORBOARD)
    shift = 1 - min(1, *_steps(series.values()))
    for step, test_acc in series["test_acc"].items():
        others = {tag: values[step] for tag, values in series.items() if tag != "test_acc" and step in values}
        draft.add(LoggedEpoch(step + shift, test_acc=test_acc, **others))
    return draft


def _steps(series: Iterable[dict[int, float]]) -> list[int]:
    return [step for values in series for step in values]
