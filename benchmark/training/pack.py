"""The trainer: one pack, one teacher pass, many students.

Each step draws one batch, runs the teacher once for each view that some run of the pack needs, and steps every student. The runs
never touch each other: in fp32 on the CPU a run's weights are bit-equal alone and in any pack. After each epoch every run has a
checkpoint of its own; runs that are behind (after a crash between two checkpoints, or a pack that was put together anew) catch up first.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

import models
from benchmark import data
from benchmark.data.samplers import SHUFFLE
from benchmark.data.stream import Stream
from benchmark.errors import InputError
from benchmark.provenance import git_state, versions, where
from benchmark.spec import imported, teacher_cache_rule
from benchmark.spec.runs import Run, TeacherRef
from benchmark.training import checkpoint, graphs, teacher_cache
from benchmark.training.active_run import MAIN, ActiveRun, Best, stored_precision
from benchmark.training.evaluate import Score, evaluate, logits, per_class, score
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep
from benchmark.training.teacher_cache import TeacherCache
from models import Network
from results.files import Claim, append_line, write_json
from results.store import SCHEMA, Store

T = TypeVar("T")


class Reporter:
    """Is told how a pack goes on; the base class says nothing. See benchmark/work/progress.py."""

    def begin(self, pack: Sequence[Run], steps_total: int, steps_done: int) -> None: ...
    def step(self, stage: str, epoch: int, steps: int, images: int) -> None: ...
    def epoch(self, run: Run, row: Mapping[str, Any]) -> None: ...
    def outcome(self, run: Run, outcome: Outcome) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run of a pack ended. status: `done`, `diverged`, `stopped` (as told), `failed`, `blocked` (what it needs is not there),
    `waiting` (what it needs is under way or stopped; the same command goes on) or `busy` (someone else has it)."""

    run: Run
    status: str
    reason: str = ""


@dataclass
class Options:
    """What a worker is told. until: stop after so many epochs of the main stage, to go on another time. keep: whether weights of finished
    runs are kept (`all`), or dropped where nobody builds on them (`none`). cached_teachers: identities of the teachers whose outputs are
    read from a table (`teacher_cache_rule.cached_teachers`)."""

    execution: Execution
    data_folder: Path = Path("data")
    keep: str = "all"
    reporter: Reporter = field(default_factory=Reporter)
    until: int | None = None
    after_epoch: Callable[[ActiveRun], None] = lambda item: None
    cached_teachers: frozenset[str] = frozenset()


def train_pack(runs: Sequence[Run], store: Store, options: Options) -> list[Outcome]:
    """Trains the runs (all of one `pack_key`) to their end and writes their records. Returns one outcome a run, in the given order.

    An error of one run (its method, its loss) ends that run alone; it is stored as its failure. `KeyboardInterrupt` passes through;
    everything up to the last finished epoch is on disk.
    """
    outcomes: dict[str, Outcome] = {}
    claims: dict[str, Claim] = {}
    try:
        for run in runs:
            if store.is_done(run.key):
                outcomes[run.key] = Outcome(run, str((store.record(run.key) or {})["status"]))
            elif (claim := store.claim(run.key)) is None:
                holder = store.holder(run.key) or {}
                outcomes[run.key] = Outcome(
                    run, "busy", f"works on it: process {holder.get('pid')} on {holder.get('host')}"
                )
            elif store.is_done(run.key):  # it was finished between the look and the claim
                claim.release()
                outcomes[run.key] = Outcome(run, str((store.record(run.key) or {})["status"]))
            else:
                claims[run.key] = claim
                if aside := store.set_aside(run.key):
                    options.reporter.note(f"{aside}: a record that cannot be used; its run is trained again")
        mine = [r for r in runs if r.key in claims]
        if mine:
            with _heart(list(claims.values())), options.execution.applied():
                _Pack(mine, store, options, claims).train(outcomes)
    finally:
        for claim in claims.values():
            claim.release()
        options.reporter.end()
    return [outcomes[r.key] for r in runs]


@contextlib.contextmanager
def _heart(claims: list[Claim], every: float = 10.0) -> Iterator[None]:
    """Beats for the claims until the block ends; a thread, so that a long epoch does not look like a death."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every):
            for claim in claims:
                claim.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Pack:
    def __init__(self, runs: list[Run], store: Store, options: Options, claims: Mapping[str, Claim]) -> None:
        self.runs, self.store, self.options, self.claims = runs, store, options, claims
        self.execution = options.execution
        self.reporter = options.reporter
        self.outcomes: dict[str, Outcome] = {}
        self._said = 0.0

    # --- from start to end ------------------------------------------------------------------------------------------------

    def train(self, outcomes: dict[str, Outcome]) -> None:
        self.outcomes = outcomes
        ready = [r for r in self.runs if not self._blocked(r)]
        if not ready:
            return
        self._keep_precision(ready)
        with self.execution.applied():  # in its own precision, which need not be the plan's
            self._train(ready)

    def _train(self, ready: list[Run]) -> None:
        first = ready[0]
        device = self.execution.torch_device
        dataset = data.load(first.dataset, self.options.data_folder)
        self.classes = dataset.classes
        self.train_split = dataset.train.take(first.recipe.train_images).to(device)
        self.test_split = dataset.test.take(first.recipe.test_images).to(device)
        mean, std = (tuple(first.settings["normalise"][k]) for k in ("mean", "std"))
        self.mean, self.std = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        if first.evaluates is not None:
            for run in ready:
                self._record_imported(run)
            return
        try:
            self.teacher, self.teacher_info = self._teacher(first)
        except InputError as error:
            if first.teacher_ref is None or first.teacher_ref.run is None:
                raise  # a checkpoint that was given to us: nothing that uses it can be right
            weights = teacher_path(first.teacher_ref, self.store)
            for run in ready:  # one that was trained here: other packs have other teachers
                self._fail(run, checkpoint.Damaged(weights, str(error)))
            return
        self.stream = Stream(
            self.train_split,
            mean=mean,
            std=std,
            sampler=first.spec.sampler,
            batch_size=first.recipe.batch_size,
            drop_last=first.recipe.drop_last,
            seed=first.seed,
            augment=first.recipe.augment,
        )
        self.table = self._table(ready)
        self.graphs = graphs.of(self.execution, self.reporter.note)
        self.items = [item for r in ready if (item := self._open(r)) is not None]
        steps = self.stream.steps(MAIN, 1)
        left = sum(s.epochs for i in self.items for s in i.stages[i.stage_index :]) - sum(
            i.epoch for i in self.items
        )
        total = sum(s.epochs for i in self.items for s in i.stages)
        self.reporter.begin(ready, total * steps, (total - left) * steps)
        for item in self.items:
            item.until = self.options.until
            if item.finished:
                self._finish(item)
        while units := {u for i in self.items if (u := i.next_unit) is not None}:
            unit = min(units)
            self._epoch(unit, [i for i in self.items if i.next_unit == unit])
        for item in self.items:
            if item.stopped:
                self.outcomes[item.run.key] = Outcome(
                    item.run, "stopped", f"after epoch {item.epoch} of {item.stage.epochs}, as told"
                )

    def _keep_precision(self, runs: list[Run]) -> None:
        """A run that was begun in one precision goes on in it; a pack has one, that of its first begun run."""
        for run in runs:
            try:
                stored = stored_precision(self.store.path(run.key))
            except Exception:
                stored = None  # a damaged checkpoint is answered where the run is opened
            if stored is not None and stored != self.execution.precision:
                self.reporter.note(f"going on in {stored}, in which {run.key} was begun")
                self.execution = replace(self.execution, precision=stored)
                return

    def _open(self, run: Run) -> ActiveRun | None:
        folder = self.store.path(run.key)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            artifacts = {
                h.method: checkpoint.load(self.store.path(h.key) / "state.pt", self.execution.torch_device)
                or {}
                for h in run.heads
            }
            item = ActiveRun.open(
                run, folder, self.execution, self.teacher, self.train_split.labels, artifacts
            )
        except InputError:
            raise
        except Exception as error:
            self._fail(run, error)
            return None
        self.store.clear_failure(run.key)  # of an earlier try: a run in training has not failed
        self._log(
            run,
            f"{'going on at' if item.resumes else 'begin'} stage {item.stage.name}, epoch {item.epoch + 1}; "
            f"pack of {len(self.runs)}; {self.execution.describe()}",
        )
        return item

    def _blocked(self, run: Run) -> bool:
        for needed in run.needs_runs:
            state = self.store.state(needed.key)
            if state == "done":
                continue
            why = (self.store.failure(needed.key) or {}).get("reason", "")
            reason = f"needs {needed.key}, which is {state}{': ' + why if why else ''}"
            if state not in (
                "failed",
                "diverged",
                "absent",
            ):  # it may yet be done: nothing is kept that would leave the run out
                self.outcomes[run.key] = Outcome(run, "waiting", reason)
                return True
            self.outcomes[run.key] = Outcome(run, "blocked", reason)
            self.store.write_failure(run.key, reason, "", _now(), blocked=True)
            self._log(run, f"blocked: {reason}")
            self.reporter.outcome(run, self.outcomes[run.key])
            return True
        return False

    def _teacher(self, run: Run) -> tuple[Network | None, dict[str, Any] | None]:
        ref = run.teacher_ref
        if ref is None:
            return None, None
        net = imported.load_teacher(ref, run.dataset, teacher_path(ref, self.store))
        weights = models.weights_hash(net)
        self.execution.teacher_to_device(net)
        found = evaluate(net, self.test_split, self.mean, self.std, self.execution)
        return net, {
            "network": ref.network,
            "identity": ref.identity,
            "epoch": ref.epoch,
            "weights": weights,
            "top1": found.top1,
        }

    def _table(self, runs: list[Run]) -> TeacherCache | None:
        """The teacher's table, built if it is not there, where the plan chose one and some run can read it."""
        ref = runs[0].teacher_ref
        if self.teacher is None or ref is None or ref.identity not in self.options.cached_teachers:
            return None
        if self.execution.precision != self.options.execution.precision:
            return None  # it was chosen for the plan's precision, and begun runs go on in another
        parts = teacher_cache_rule.cached_parts(runs)
        if not parts:
            return None
        folder = self.store.folder / teacher_cache.FOLDER
        return TeacherCache.open(
            folder,
            self.teacher,
            self.train_split,
            (self.mean, self.std),
            self.execution,
            parts,
            self.reporter.note,
        )

    # --- an epoch -----------------------------------------------------------------------------------------------------------

    def _epoch(self, unit: tuple[int, str, int], items: list[ActiveRun]) -> None:
        began = time.perf_counter()
        for item in items:
            self._alone(item, item.begin_epoch)
        lockstep = Lockstep(items, self.teacher, self.execution, self.table, self.graphs)
        _, stream, epoch = unit
        images = 0
        steps = lockstep.steps(self.stream, stream, epoch, lambda item, error: self._fail(item.run, error))
        for number, (size, alive) in enumerate(steps):
            images += size
            self.reporter.step(items[0].stage.name, epoch, alive, size * alive)
            self._say(items, number, began, images)
            if not alive:
                return
        wall = time.perf_counter() - began
        alive_items = [i for i in items if i.failure is None]
        for item in alive_items:
            item.seconds += wall
            item.share_seconds += wall / len(alive_items)
            self._close_epoch(item, wall, images)

    def _close_epoch(self, item: ActiveRun, wall: float, images: int) -> None:
        if not self.claims[item.run.key].mine():
            self._lost(item)
            return
        main = item.stage.name == MAIN
        row = item.end_epoch()
        row["seconds"] = round(wall, 3)
        if not math.isfinite(row["train_loss"]):
            item.diverged = True
        elif main and item.student is not None:
            began = time.perf_counter()
            found = self._alone(item, lambda: self._evaluate(item))
            if found is None:
                return
            item.seconds += time.perf_counter() - began
            item.share_seconds += time.perf_counter() - began
            row |= {"test_acc": found.top1, "test_acc_top5": found.top5, "test_loss": found.loss}
            if found.top1 > item.best.top1:  # the first of equals, as in the papers' code
                item.best = Best(item.epoch, found.top1)
                self._save_weights(item, "best.pt", found)
        item.curve.append({k: _finite(v) for k, v in row.items()})
        item.save()
        checkpoint.write_curve(item.folder / "curve.csv", item.curve)
        self._log(
            item.run, " ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        )
        self._progress(item, len(item.curve), images / wall if wall else 0.0)
        self.reporter.epoch(item.run, row)
        self.options.after_epoch(item)
        if item.finished:
            self._finish(item)

    def _alone(self, item: ActiveRun, call: Callable[[], T]) -> T | None:
        """`call()`, which may be a method's own code: an error of it ends this item's run alone, and None is returned."""
        try:
            return call()
        except InputError:
            raise
        except Exception as error:
            item.failure = error
            self._fail(item.run, error)
            return None

    def _lost(self, item: ActiveRun) -> None:
        """This process stood still for so long (suspended, a dead network file system) that another took the run over: it has it, and nothing
        more is written here."""
        holder = self.store.holder(item.run.key) or {}
        why = f"taken over by process {holder.get('pid')} on {holder.get('host')} while this one stood still"
        item.failure = RuntimeError(why)
        self.outcomes[item.run.key] = Outcome(item.run, "busy", why)
        self.reporter.outcome(item.run, self.outcomes[item.run.key])

    def _evaluate(self, item: ActiveRun) -> Score:
        assert item.student is not None
        item.objective.eval()
        predict = (lambda f: item.objective.predict(f.float())) if item.objective.predictors else None
        return evaluate(item.student, self.test_split, self.mean, self.std, self.execution, predict)

    # --- what is left on disk -------------------------------------------------------------------------------------------------

    def _save_weights(self, item: ActiveRun, name: str, found: Score | None) -> None:
        if item.student is not None:
            models.save_weights(
                item.student,
                item.folder / name,
                epoch=item.epoch,
                key=item.run.key,
                **({} if found is None else {"top1": found.top1}),
                **{f"at_test_{m.name}": m.state_dict() for m in item.objective.predictors},
            )

    def _finish(self, item: ActiveRun) -> None:
        run = item.run
        main = [r for r in item.curve if r["stage"] == MAIN]
        last = main[-1] if main else {}
        if not item.diverged:
            self._save_weights(item, "last.pt", None)
            if run.spec.components and not run.spec.trains_student:
                checkpoint.save(
                    item.folder / "state.pt",
                    item.objective.method(run.spec.components[0].method.name).state_dict(),
                )
        trained = not item.diverged and item.student is not None
        record = {
            **self._head(run),
            "status": "diverged" if item.diverged else "done",
            "settings": run.settings,
            "order": run.order(),
            "top1_last": last.get("test_acc") if trained else None,
            "top1_best": item.best.top1 if item.best.epoch else None,
            "best_epoch": item.best.epoch or None,
            "best_chosen_on": "test set",
            "top5_last": last.get("test_acc_top5") if trained else None,
            "test_loss_last": last.get("test_loss") if trained else None,
            "epochs": len(main),
            "reason": f"loss not finite in stage {item.curve[-1]['stage']}, epoch {item.curve[-1]['epoch']}"
            if item.diverged
            else None,
            "seconds": round(item.seconds, 3),
            "share_seconds": round(item.share_seconds, 3),
            "images_per_second": round(
                sum(len(self.train_split.labels) for _ in item.curve) / max(item.share_seconds, 1e-9), 1
            ),
            "pack": len(self.runs),
            "resumes": item.resumes,
            "teacher_cache": item.teacher_cache if run.teacher_ref is not None else "off",
            "teacher_info": self.teacher_info,
            "student_params": None
            if item.student is None
            else sum(p.numel() for p in item.student.parameters()),
            "method_params": sum(p.numel() for p in item.objective.parameters() if p.requires_grad),
        }
        if self.options.keep == "none" and run.spec.components:
            for name in ("last.pt", "best.pt"):
                (item.folder / name).unlink(missing_ok=True)
        self.store.write_record(run.key, record)
        (item.folder / "checkpoint.pt").unlink(missing_ok=True)
        (item.folder / "progress.json").unlink(missing_ok=True)
        self.outcomes[run.key] = Outcome(run, record["status"], record["reason"] or "")
        self._log(
            run,
            f"{record['status']}: top-1 last {record['top1_last']}, best {record['top1_best']} (chosen on the test set)",
        )
        self.reporter.outcome(run, self.outcomes[run.key])

    def _record_imported(self, run: Run) -> None:
        ref = run.evaluates
        assert ref is not None
        began = time.perf_counter()
        net = imported.load_teacher(ref, run.dataset, Path(ref.path))
        self.execution.to_device(net)
        # the accuracy of a checkpoint is a fact about it, so it is measured in the reference precision
        exact = replace(self.execution, precision="fp32")
        with exact.applied():
            z = logits(net, self.test_split, self.mean, self.std, exact)
        found = score(z, self.test_split.labels)
        classes = self.classes or tuple(map(str, range(z.shape[1])))
        by_class = zip(classes, per_class(z, self.test_split.labels), strict=True)
        checkpoint_file = imported.read_checkpoint(Path(ref.path), ref.network)
        extra = {k: v for k, v in checkpoint_file.extra.items() if isinstance(v, int | float | str | bool)}
        self.store.write_record(
            run.key,
            {
                **self._head(run),
                "precision": "fp32",
                "status": "done",
                "settings": run.settings,
                "order": run.order(),
                "top1_last": found.top1,
                "top1_best": found.top1,
                "best_epoch": None,
                "top5_last": found.top5,
                "test_loss_last": found.loss,
                "epochs": 0,
                "seconds": round(time.perf_counter() - began, 3),
                "share_seconds": 0.0,
                "per_class": {name: round(top1, 4) for name, top1 in by_class if math.isfinite(top1)},
                "imported": {"file": Path(ref.path).name, "weights": ref.weights, "says": extra},
            },
        )
        self.outcomes[run.key] = Outcome(run, "done")
        self.reporter.outcome(run, self.outcomes[run.key])

    def _head(self, run: Run) -> dict[str, Any]:
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
            **self.execution.describe(),
            "versions": versions(),
            "git": git_state(),
            **where(),
            "finished": _now(),
            "test_images": len(self.test_split.labels),
        }

    def _fail(self, run: Run, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        self.store.write_failure(run.key, reason, "".join(traceback.format_exception(error)), _now())
        self.outcomes[run.key] = Outcome(run, "failed", reason)
        self._log(run, "".join(traceback.format_exception(error)))
        self.reporter.outcome(run, self.outcomes[run.key])

    def _log(self, run: Run, text: str) -> None:
        append_line(self.store.path(run.key) / "log.txt", f"{_now()} {text}")

    def _say(self, items: Iterable[ActiveRun], number: int, began: float, images: int) -> None:
        """Writes the runs' progress files every few seconds, so that `status` sees them live within a long epoch."""
        now = time.monotonic()
        if now - self._said < 5.0:
            return
        self._said = now
        for item in items:
            if item.failure is None:
                done = (
                    sum(s.epochs for s in item.stages[: item.stage_index])
                    + item.epoch
                    + (number + 1) / max(self.stream.steps(MAIN, 1), 1)
                )
                self._progress(item, done, images / (time.perf_counter() - began))

    def _progress(self, item: ActiveRun, done: float, images_per_second: float) -> None:
        total = sum(s.epochs for s in item.stages)
        left = (
            (total - done) * len(self.train_split.labels) / images_per_second if images_per_second else None
        )
        top1 = next((r["test_acc"] for r in reversed(item.curve) if r.get("test_acc") is not None), None)
        write_json(
            item.folder / "progress.json",
            {
                "key": item.run.key,
                "stage": item.stage.name,
                "epoch": item.epoch,
                "epochs": item.stage.epochs,
                "done": round(done / total, 4),
                "top1": top1,
                "images_per_second": round(images_per_second, 1),
                "eta_seconds": None if left is None else round(left),
                "time": time.time(),
                **where(),
            },
        )


def teacher_path(ref: TeacherRef, store: Store) -> Path:
    """Where a teacher's weights lie."""
    return Path(ref.path) if ref.run is None else store.path(ref.run.key) / f"{ref.epoch}.pt"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


__all__ = ["SHUFFLE", "Options", "Outcome", "Reporter", "teacher_path", "train_pack"]
