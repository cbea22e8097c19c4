"""The files that a run writes during training and at its end.

The files are listed in results/store.py. Checkpoints are written by `ActiveRun`, which also reads them back.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from benchmark.methods import MethodError
from benchmark.provenance import git_state, versions, where
from benchmark.spec.runs import Run
from benchmark.training import checkpoint, kept_weights, parts
from benchmark.training.active_run import ActiveRun
from benchmark.training.evaluate import Score
from benchmark.training.execution import Execution
from benchmark.training.reporter import Status
from benchmark.training.stages import MAIN
from benchmark.user_code import RunCodeError
from results.claims import check_folder
from results.files import append_line, write_json
from results.store import SCHEMA, Store

_OF_ONE_PATH = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
)


def is_of_one_path(error: OSError) -> bool:
    """Return whether a file cannot be used because of what is at its path, for example a folder.

    Such an error of a run's file ends this run alone. Any other one, such as that of a full disk, would come
    again with the files of the next run.
    """
    return error.errno in _OF_ONE_PATH


@dataclass(frozen=True)
class PackInfo:
    """What the records of all runs of a pack have in common."""

    execution: Execution
    size: int
    """Number of runs that were trained together."""
    train_images: int
    test_images: int
    teacher: Mapping[str, Any] | None = None
    """Network, identity, epoch, weights' hash and top-1 of the teacher; None without one."""
    images: str = ""
    """How the training images are read, "" if they are held in memory."""


class RunFiles:
    """The files of one run, in its folder of the results."""

    def __init__(self, run: Run, store: Store) -> None:
        self.run, self.store = run, store
        self.folder: Path = store.path(run.key)

    def begin(self, active: ActiveRun, pack: PackInfo) -> None:
        """Write down that training begins or resumes, and its conditions. Deletes an earlier failure."""
        self.store.clear_failure(self.run.key)
        conditions = pack.execution.describe()
        learns_from = kept_weights.learns_from(self.run, self.store)
        if pack.teacher is not None:
            learns_from[kept_weights.TEACHER] = pack.teacher["weights"]
        active.conditions = parts.conditions(self.run, pack.execution, learns_from)
        if active.resumes:
            self._complete(active)
        if not active.resumes or not (self.folder / "began.json").exists():
            began = None if active.resumes else now()  # unknown for a run begun by an older version
            write_json(self.folder / "began.json", {"began": began, **conditions})
        if active.resumes:
            # an interruption may have come between the checkpoint and the curve, also of the last epoch
            checkpoint.write_curve(self.folder / "curve.csv", active.curve)
        self.log(
            f"{'resumed' if active.resumes else 'began'} at stage {active.stage.name}, "
            f"epoch {active.epoch + 1}; pack of {pack.size}; {in_words(conditions)}"
        )

    def _complete(self, active: ActiveRun) -> None:
        """Write what was missing when the run was interrupted, or was not written by an older version."""
        if "sources" not in active.parts[0]:
            began = self.store.began(self.run.key) or {}
            active.parts[0] = {**began, **active.parts[0]}
            active.parts[0].pop("began", None)
        if active.best.epoch == active.epoch > 0:
            # the checkpoint is written before best.pt: the process may have been killed between them
            active.best.weights = kept_weights.hash_of(active)
            self.save_weights(active, "best.pt")

    def log(self, text: str) -> None:
        """Append a line with the time to the run's log."""
        append_line(self.folder / "log.txt", f"{now()} {text}")

    def save_weights(self, active: ActiveRun, name: str) -> None:
        """Write `best.pt` or `last.pt`: the student's weights, and the modules that it predicts with.

        Raises `ClaimLost` if another process has taken over the run.
        """
        if active.student is None:
            return
        predicting = {m.name: active.objective.state_of(m) for m in active.objective.predictors}
        check_folder(self.folder)
        try:
            models.save_weights(
                active.student,
                self.folder / name,
                active.objective.saved_projector,
                epoch=active.epoch,
                key=self.run.key,
                **({"top1": active.best.top1} if name == "best.pt" else {}),
                **{kept_weights.AT_TEST + method: state for method, state in predicting.items()},
            )
        except FileNotFoundError:
            check_folder(self.folder)  # the new holder of the run has removed the temporary file
            raise

    def write_epoch(self, active: ActiveRun, row: Mapping[str, Any]) -> None:
        """Write the files of an epoch: the checkpoint, the curve with its new last row, a line of the log.

        If it is the best epoch so far, best.pt too. It is written after the checkpoint, which holds the same
        weights and their hash, so that both agree after any interruption.
        """
        active.curve.append({name: _finite(value) for name, value in row.items()})
        is_best = active.best.epoch == active.epoch > 0
        if is_best:
            active.best.weights = kept_weights.hash_of(active)
        active.save()
        if is_best:
            self.save_weights(active, "best.pt")
        checkpoint.write_curve(self.folder / "curve.csv", active.curve)
        self.log(" ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))

    def write_progress(
        self, active: ActiveRun, epochs_done: float, images_per_second: float, train_images: int
    ) -> None:
        """Write the progress of the run, for `status`.

        epochs_done: over all stages, with the finished part of the current epoch.
        """
        total = sum(stage.epochs for stage in active.stages)
        left = (total - epochs_done) * train_images / images_per_second if images_per_second else None
        tested = (row["test_acc"] for row in reversed(active.curve) if row.get("test_acc") is not None)
        write_json(
            self.folder / "progress.json",
            {
                "key": self.run.key,
                "stage": active.stage.name,
                "epoch": active.epoch,
                "epochs": active.stage.epochs,
                "done": round(epochs_done / total, 4),
                "top1": next(tested, None),
                "images_per_second": round(images_per_second, 1),
                "eta_seconds": None if left is None else round(left),
                "time": time.time(),
                **where(),
            },
        )

    def finish(self, active: ActiveRun, pack: PackInfo, keep_weights: bool) -> dict[str, Any]:
        """Write the last weights and the record of a run that is done or diverged. Returns the record.

        Without `keep_weights`, the weights of runs that no other run builds on are removed.
        """
        components = self.run.spec.components
        weights = {"best": active.best.weights} if active.best.weights else {}
        if not active.diverged:
            self.save_weights(active, "last.pt")
            if active.student is not None:
                weights["last"] = kept_weights.hash_of(active)
            if components and not self.run.spec.trains_student:
                method = active.objective.method(components[0].method.name)
                weights["state"] = checkpoint.save(
                    self.folder / "state.pt", active.objective.state_of(method)
                )
        record = self._record(active, pack)
        if not self.run.spec.pretrains and not keep_weights:
            for name in ("last", "best"):
                (self.folder / f"{name}.pt").unlink(missing_ok=True)
                weights.pop(name, None)
        self.store.write_record(self.run.key, record | {"weights": weights})
        for name in (checkpoint.FILE, "progress.json", "began.json"):
            (self.folder / name).unlink(missing_ok=True)
        self.log(
            f"{record['status']}: top-1 last {record['top1_last']}, "
            f"best {record['top1_best']} (chosen on the test set)"
        )
        return record

    def _record(self, active: ActiveRun, pack: PackInfo) -> dict[str, Any]:
        run = self.run
        main = [row for row in active.curve if row["stage"] == active.stages[-1].name]
        last = main[-1] if main and not active.diverged and active.student is not None else {}
        reason = None
        if active.diverged:
            row = active.curve[-1]
            reason = f"loss not finite in stage {row['stage']}, epoch {row['epoch']}"
        images = pack.train_images * len(active.curve)
        return {
            **self.record_head(pack),
            "status": str(Status.DIVERGED if active.diverged else Status.DONE),
            "settings": run.settings,
            "order": run.order(),
            "top1_last": last.get("test_acc"),
            "top1_best": active.best.top1 if active.best.epoch else None,
            "best_epoch": active.best.epoch or None,
            "best_chosen_on": "test set",
            **_by_held_out(main),
            "top5_last": last.get("test_acc_top5"),
            "top5_best": next(
                (row.get("test_acc_top5") for row in main if row["epoch"] == active.best.epoch), None
            ),
            "test_loss_last": last.get("test_loss"),
            "epochs": len(main),
            "reason": reason,
            "seconds": round(active.seconds, 3),
            "share_seconds": round(active.share_seconds, 3),
            "images_per_second": round(images / max(active.share_seconds, 1e-9), 1),
            "pack": pack.size,
            "resumes": active.resumes,
            "parts": active.parts,
            "teacher_cache": active.teacher_cache if run.teacher_ref is not None else "off",
            "teacher_info": None if pack.teacher is None else dict(pack.teacher),
            "student_params": None
            if active.student is None
            else sum(p.numel() for p in active.student.parameters()),
            "method_params": sum(p.numel() for p in active.objective.parameters() if p.requires_grad),
        }

    def write_imported(
        self,
        pack: PackInfo,
        score: Score,
        per_class: Mapping[str, float],
        extra: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Write the record of a checkpoint that was evaluated and not trained.

        per_class: top-1 in percent by class name. extra: what the checkpoint's file states about itself.
        """
        ref = self.run.evaluates
        assert ref is not None
        self.store.write_record(
            self.run.key,
            {
                **self.record_head(pack),
                "precision": "fp32",
                "status": str(Status.DONE),
                "settings": self.run.settings,
                "order": self.run.order(),
                "top1_last": score.top1,
                "top1_best": score.top1,
                "best_epoch": None,
                "top5_last": score.top5,
                "top5_best": score.top5,
                "test_loss_last": score.loss,
                "epochs": 0,
                "seconds": round(seconds, 3),
                "share_seconds": 0.0,
                "per_class": {name: round(top1, 4) for name, top1 in per_class.items()},
                "imported": {"file": Path(ref.path).name, "weights": ref.weights, "says": dict(extra)},
            },
        )

    def record_head(self, pack: PackInfo) -> dict[str, Any]:
        """Return the fields of every record: the run, the software, the machine and the time."""
        run = self.run
        return {
            "schema": SCHEMA,
            "key": run.key,
            "dataset": run.dataset,
            "protocol": run.protocol,
            "profile": run.profile,
            "teacher": run.teacher,
            "student": run.student,
            "method": run.method,
            "seed": run.seed,
            "sources": {c.method.name: c.method.source for c in run.spec.components},
            **pack.execution.describe(),
            "versions": versions(),
            "git": git_state(),
            **where(),
            "finished": now(),
            "test_images": pack.test_images,
            **({"images": pack.images} if pack.images else {}),
        }

    def fail(self, error: BaseException) -> str:
        """Store the error that ended the run. Returns its reason, one line."""
        text = str(error).splitlines()[0] if str(error) else ""
        one_line = isinstance(error, MethodError | RunCodeError)
        reason = text if one_line else f"{type(error).__name__}: {text}"
        trace = "".join(traceback.format_exception(error))
        self._store_failure(reason, trace)
        return reason

    def block(self, reason: str) -> None:
        """Store that the run cannot be trained because a run that it needs has no result."""
        self._store_failure(reason, blocked=True)

    def _store_failure(self, reason: str, trace: str = "", blocked: bool = False) -> None:
        try:
            self.store.write_failure(
                self.run.key,
                reason=reason,
                traceback=trace,
                time=now(),
                blocked=blocked,
                settings=self.run.settings,
            )
        except OSError as error:
            if not is_of_one_path(error):
                raise
        with contextlib.suppress(OSError):  # the log may be what has failed
            self.log(trace or f"blocked: {reason}")


def in_words(conditions: Mapping[str, Any]) -> str:
    """Return conditions as text, without those that are not set: `device cpu, channels last, threads 1`."""
    named = ((name.replace("_", " "), value) for name, value in conditions.items())
    return ", ".join(n if v is True else f"{n} {v}" for n, v in named if v is not None and v is not False)


def epochs_done(store: Store, run: Run) -> int:
    """Return how many epochs of its main stage an unfinished run has done, as its progress file states it."""
    progress = store.progress(run.key) or {}
    epoch = progress.get("epoch")
    counts = progress.get("stage") == MAIN and (store.path(run.key) / checkpoint.FILE).exists()
    return epoch if counts and isinstance(epoch, int) else 0


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _finite(value: Any) -> Any:
    """Return the value, or None for NaN and infinities, which CSV readers read back in different ways."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_held_out(main: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the result by the epoch that is best on the images held out, {} for a run without such images.

    main: the rows of the main stage. Of equal epochs the first counts, as for the best on the test set.
    """
    tested = [row for row in main if row.get("held_out_acc") is not None]
    if not tested:
        return {}
    best = max(tested, key=lambda row: (row["held_out_acc"], -row["epoch"]))
    return {
        "top1_held_out": best["test_acc"],
        "held_out_epoch": best["epoch"],
        "held_out_acc": best["held_out_acc"],
    }
