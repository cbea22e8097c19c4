"""Logs of other code bases, made up in their form: every value is known by construction."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from results import imported_logs, logs
from results.logs import LogError, LogFormat
from results.store import COLUMNS, load, record_keys

TEST = [50.25, 70.5, 70.0]
"""Test top-1 of three epochs: the second is the best one."""
TEACHER = 79.42


def repdistiller(test: Sequence[float] = TEST) -> str:
    lines = ["Test: [0/157]\tAcc@1 79.000 (79.000)", f" * Acc@1 {TEACHER:.3f} Acc@5 94.5"]
    lines += [f"teacher accuracy:  tensor({TEACHER:.4f}, device='cuda:0')"]
    for epoch, top1 in enumerate(test, 1):
        lines += ["==> training...", f"Epoch: [{epoch}][0/782]\tLoss 1.0 (1.0)\tAcc@1 10.0 (10.0)"]
        lines += [f" * Acc@1 {top1 / 2:.3f} Acc@5 99.000", f"epoch {epoch}, total time 12.34"]
        lines += ["Test: [0/157]\tAcc@1 1.000 (1.000)", f" * Acc@1 {top1:.3f} Acc@5 {top1 + 20:.3f}"]
    return "\n".join([*lines, f"best accuracy: tensor({max(test):.4f}, device='cuda:0')", ""])


def simkd(test: Sequence[float] = TEST) -> str:
    lines = [f"teacher accuracy:  {TEACHER}"]
    for epoch, top1 in enumerate(test, 1):
        lines += [f" * Epoch {epoch}, GPU 0, Acc@1 {top1 / 2:.3f}, Acc@5 99.000, Time 9.00"]
        lines += ["GPU 0 validating", f" ** Acc@1 {top1:.3f}, Acc@5 {top1 + 20:.3f}"]
    return "\n".join([*lines, f"best accuracy: {max(test)}"])


def mdistiller(test: Sequence[float] = TEST, epochs: int | None = None) -> str:
    """Return a worklog. epochs: what its configuration states; None: a worklog without configuration."""
    dashes, lines = "-" * 25, []
    if epochs is not None:
        lines = [
            "CONFIG:",
            "DATASET:",
            "  TEST:",
            "    BATCH_SIZE: 999",
            "DISTILLER:",
            "  STUDENT: resnet8x4",
        ]
        lines += ["  TEACHER: resnet32x4", "SOLVER:", "  BATCH_SIZE: 64", f"  EPOCHS: {epochs}", dashes]
    for epoch, top1 in enumerate(test, 1):
        lines += [dashes, f"epoch: {epoch}", "lr: 0.05", f"train_acc: {top1 / 2:.2f}", "train_loss: 1.50"]
        lines += [f"test_acc: {top1:.2f}", f"test_acc_top5: {top1 + 20:.2f}", "test_loss: nan", dashes]
    return "\n".join([*lines, f"best_acc\t{max(test):.2f}"])


def torchdistill(test: Sequence[float] = TEST) -> str:
    head = "2021/05/30 10:22:02\tINFO\t"
    lines = [f"{head}__main__\tNamespace(config='kd.yaml')", f"{head}__main__\t{{'num_epochs': {len(test)}}}"]
    for epoch, top1 in enumerate(test):
        lines += [f"{head}torchdistill.misc.log\tEpoch: [{epoch}]  [  0/196]  loss: 1.0 (1.0)"]
        lines += [f"{head}torchdistill.misc.log\tEpoch: [{epoch}] Total time: 0:01:00"]
        lines += [f"{head}torchdistill.misc.log\tValidation: Total time: 0:00:03"]
        lines += [f"{head}__main__\t * Acc@1 {top1:.4f}\tAcc@5 {top1 + 20:.4f}", ""]
    lines += [f"{head}__main__\tTraining time 1:00:00", f"{head}__main__\t[Teacher: resnet34]"]
    lines += [
        f"{head}__main__\t * Acc@1 {TEACHER:.4f}\tAcc@5 94.0000",
        f"{head}__main__\t[Student: resnet18]",
    ]
    return "\n".join([*lines, f"{head}__main__\t * Acc@1 {max(test):.4f}\tAcc@5 91.0000", ""])


def ctkd(test: Sequence[float] = TEST) -> str:
    entries = [
        {"test_acc": top1, "test_acc_top5": top1 + 20, "best_acc": 0, "epoch": epoch, "temp": "2.0"}
        for epoch, top1 in enumerate(test, 1)
    ]
    return "".join(json.dumps(e, indent=4) for e in entries)


def write(folder: Path, text: str, name: str = "log.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("make", "kind", "teacher"),
    [
        (repdistiller, LogFormat.REPDISTILLER, TEACHER),
        (simkd, LogFormat.REPDISTILLER, TEACHER),
        (mdistiller, LogFormat.MDISTILLER, None),
        (torchdistill, LogFormat.TORCHDISTILL, TEACHER),
        (ctkd, LogFormat.JSON, None),
    ],
)
def test_every_format_gives_last_best_and_teacher(
    make: Callable[[], str], kind: LogFormat, teacher: float | None, tmp_path: Path
) -> None:
    (log,) = logs.read(write(tmp_path, make()))
    assert log.format is kind and log.teacher_top1 == teacher
    assert [(e.epoch, e.test_acc, e.test_acc_top5) for e in log.epochs] == [
        (i, x, x + 20) for i, x in enumerate(TEST, 1)
    ]
    assert (log.last, log.best, log.best_epoch, log.last_epoch) == (70.0, 70.5, 2, 3)
    assert log.is_complete(3) and not log.remarks(3)


def test_the_training_accuracy_is_not_taken_for_the_test_accuracy(tmp_path: Path) -> None:
    for make in (repdistiller, simkd, mdistiller):
        (log,) = logs.read(write(tmp_path, make()))
        assert [e.train_acc for e in log.epochs] == pytest.approx([x / 2 for x in TEST], abs=0.006)


def test_a_worklogs_configuration_is_read(tmp_path: Path) -> None:
    (log,) = logs.read(write(tmp_path, mdistiller(epochs=3)))
    assert (log.teacher, log.student, log.batch_size, log.configured_epochs) == (
        *("resnet32x4", "resnet8x4"),
        *(64, 3),
    )


def test_an_incomplete_log_is_named(tmp_path: Path) -> None:
    text = mdistiller(epochs=5).rpartition("best_acc")[0]
    (log,) = logs.read(write(tmp_path, text))
    assert not log.is_complete(3) and "3 of 5 epochs" in log.remarks(3)[0]
    # without a configuration and a last line, the published length counts
    (log,) = logs.read(write(tmp_path, mdistiller().rpartition("best_acc")[0]))
    assert log.is_complete(3) and not log.is_complete(240) and "3 of 240" in log.remarks(240)[0]
    # with its last line, the training is complete, and of another length
    (log,) = logs.read(write(tmp_path, repdistiller()))
    assert log.is_complete(240) and "3 epochs" in log.remarks(240)[0]


def test_a_file_with_two_trainings_gives_two_logs(tmp_path: Path) -> None:
    second = [40.0, 60.0, 65.0]
    for make in (mdistiller, repdistiller, ctkd):
        text = make() + "\n" + make(second)  # type: ignore[operator]
        assert [x.last for x in logs.read(write(tmp_path, text))] == [TEST[-1], second[-1]]
    both = logs.read(write(tmp_path, mdistiller(epochs=3) + "\n" + mdistiller(second, epochs=4)))
    assert [x.configured_epochs for x in both] == [3, 4]


def test_after_a_resumption_the_later_epoch_counts(tmp_path: Path) -> None:
    text = mdistiller().rpartition("best_acc")[0]
    again = f"{'-' * 25}\nepoch: 3\ntest_acc: 71.25\n{'-' * 25}\n"
    (log,) = logs.read(write(tmp_path, text + again))
    assert [e.test_acc for e in log.epochs] == [*TEST[:2], 71.25] and log.best_epoch == 3


def test_only_the_last_stage_of_torchdistill_counts(tmp_path: Path) -> None:
    first = torchdistill([10.0, 20.0, 30.0, 40.0]).partition("Training time")[0]
    (log,) = logs.read(write(tmp_path, first + torchdistill()))
    assert [e.test_acc for e in log.epochs] == TEST


def test_missing_epochs_and_another_best_are_named(tmp_path: Path) -> None:
    text = repdistiller().replace("epoch 2, total", "no epoch")
    (log,) = logs.read(write(tmp_path, text))
    remarks = "; ".join(log.remarks(3))
    assert "1 of 3 epochs have no test accuracy" in remarks and "states best 70.50" in remarks


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00\xff\x00", b"epoch: 1\n", b'{"a": 1}', b"{"])
def test_other_files_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(LogError, match="no training log") as error:
        logs.read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(LogError, match="no such file"):
        logs.read(tmp_path / "absent")
    with pytest.raises(LogError, match="without event files"):
        logs.read(tmp_path)


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 100_000,
        f'{{"epoch": 1, "test_acc": {DIGITS[:400]}}}',
        '{"epoch": 1, "test_acc": 1e999}',
        f'{{"epoch": {DIGITS[:30]}, "test_acc": 70}}',
        '{"epoch": true, "test_acc": 70}',
        f"epoch {DIGITS}, total time 1\n",
        f"Epoch: [{DIGITS}] Total time: 1\n",
        f"SOLVER:\n  EPOCHS: {DIGITS}\n",
        "-----\nepoch: 1e300\ntest_acc: 70\n-----\n",
    ],
)
def test_numbers_without_measure_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no training log"):
        logs.read(write(tmp_path, text))


def test_what_cannot_be_an_accuracy_counts_as_not_stated(tmp_path: Path) -> None:
    entry = '{"epoch": 1, "test_acc": 70, "test_acc_top5": NaN, "train_acc": 101, "test_loss": Infinity}'
    (log,) = logs.read(write(tmp_path, entry))
    assert log.epochs == (logs.LoggedEpoch(1, test_acc=70.0),)
    results, names = tmp_path / "runs", {"teacher": "resnet56", "student": "resnet20", "method": "kd"}
    imported_logs.write(results, log, dataset="cifar100", protocol="crd", **names)
    assert imported_logs.load(results)["top1_last"].tolist() == [70.0]
    text = repdistiller().replace(f"tensor({TEACHER:.4f}", "tensor(7942").replace("Acc@5 70.250", "Acc@5 702")
    (log,) = logs.read(write(tmp_path, text))
    assert log.teacher_top1 is None
    assert [e.test_acc_top5 for e in log.epochs] == [None, 90.5, 90.0]


def test_event_files_name_the_package_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LogError, match="pip install tensorboard"):
        logs.read(write(tmp_path, "", "events.out.tfevents.1"))


@pytest.mark.parametrize("first", [0, 1])
def test_event_files_give_the_tags_of_every_epoch(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the interface of tensorboard's reader, whose steps count from 0 or 1."""
    scalars = {"test_acc": TEST, "train_loss": [3.0, 2.0, 1.0], "lr": [0.05] * 3}

    class Events:
        def __init__(self, path: str, size_guidance: dict[str, int]) -> None:
            assert size_guidance == {"scalars": 0}  # all of them, not a sample

        def Reload(self) -> None: ...

        def Tags(self) -> dict[str, list[str]]:
            return {"scalars": list(scalars)}

        def Scalars(self, tag: str) -> list[types.SimpleNamespace]:
            return [types.SimpleNamespace(step=i, value=v) for i, v in enumerate(scalars[tag], first)]

    name = "tensorboard.backend.event_processing.event_accumulator"
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(EventAccumulator=Events))  # type: ignore[arg-type]
    (log,) = logs.read(write(tmp_path, "", "events.out.tfevents.1"))
    assert [(e.epoch, e.test_acc, e.train_loss) for e in log.epochs] == [
        *((1, TEST[0], 3.0), (2, TEST[1], 2.0), (3, TEST[2], 1.0)),
    ]
    scalars["accuracy"] = scalars.pop("test_acc")
    with pytest.raises(LogError, match="without the tag test_acc; its tags: train_loss, lr, accuracy"):
        logs.read(tmp_path / "events.out.tfevents.1")


def test_real_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    for epoch, top1 in enumerate(TEST, 1):
        writer.add_scalar("test_acc", top1, epoch)
    writer.close()
    (log,) = logs.read(tmp_path)
    assert [e.test_acc for e in log.epochs] == TEST


def test_imported_logs_are_records_apart(tmp_path: Path) -> None:
    (log,) = logs.read(write(tmp_path, repdistiller()))
    names = {"dataset": "cifar100", "protocol": "crd", "teacher": "resnet56", "student": "resnet20"}
    results = tmp_path / "runs"
    key = imported_logs.write(results, log, **names, method="kd")
    assert imported_logs.write(results, log, **names, method="kd") == key
    frame = imported_logs.load(results)
    assert list(frame.columns) == list(COLUMNS) and len(frame) == 1
    row = frame.iloc[0]
    assert (row["top1_last"], row["top1_best"], row["best_epoch"], row["epochs"]) == (70.0, 70.5, 2, 3)
    assert row["origin"] == "imported log" and row["teacher_top1"] == TEACHER and row["top5_last"] == 90.0
    assert load(results).empty and not record_keys(results)
    assert (results / imported_logs.FOLDER / key / "curve.csv").read_text().count("\n") == 4
