"""The teacher of a pack: load it, look at its accuracy, open its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.errors import InputError
from benchmark.spec import cost, measured_speed, teacher_cache_rule
from benchmark.spec.runs import Run, TeacherRef
from benchmark.training import kept_weights, processes, teacher_cache, teacher_check
from benchmark.training.execution import Execution
from benchmark.training.options import TrainingOptions
from benchmark.training.pack_data import PackData
from benchmark.training.teacher_cache import TeacherCache
from models import Network
from results.store import Store


@dataclass(frozen=True)
class PackTeacher:
    """A loaded teacher."""

    ref: TeacherRef
    net: Network

    info: dict[str, Any]
    """What the records of its students say of it: network, identity, epoch, weights' hash, top-1."""

    @classmethod
    def load(
        cls, ref: TeacherRef, run: Run, images: PackData, store: Store, options: TrainingOptions
    ) -> PackTeacher:
        """Load the teacher of a pack, of which `run` is one run, and name it if it is weak.

        Raises `Damaged` if the file of a teacher of this suite is damaged, `InputError` if that of an
        imported one is, or if an imported one is near chance and the user does not accept that.
        """
        net, weights = kept_weights.load_teacher(ref, run.dataset, store)
        images.execution.teacher_to_device(net)
        info = {
            "network": ref.network,
            "identity": ref.identity,
            "epoch": ref.epoch,
            "weights": weights,
            "top1": _top1(ref, net, run, images, store, options),
        }
        return cls(ref, net, info)

    def open_cache(
        self, runs: Sequence[Run], images: PackData, store: Store, options: TrainingOptions
    ) -> TeacherCache | None:
        """Open the teacher's cache. None unless the plan chose one and some run can read it."""
        execution = images.execution
        if execution.is_shared:
            return None  # each process would read and build all of it
        if self.ref.identity not in options.cached_teachers:
            return None
        if execution.precision != options.execution.precision:
            return None  # the cache was chosen for the plan's precision, and resumed runs keep another one
        parts = teacher_cache_rule.cached_parts(runs)
        if not parts:
            return None
        return TeacherCache.open(
            store.folder / teacher_cache.FOLDER,
            teacher=self.net,
            split=images.train,
            normalise=(images.mean, images.std),
            execution=execution,
            parts=parts,
            identity=self.ref.identity,
            seconds_of=lambda count: self._seconds(runs[0].dataset, count, execution, store),
            note=options.reporter.note,
        )

    def _seconds(self, dataset: str, images: int, execution: Execution, store: Store) -> float:
        """Return how long passes of this many images take, an estimate."""
        device = execution.torch_device.type
        factor = measured_speed.factor_of(store, device)
        return cost.teacher_seconds(self.ref.network, dataset, images, device, factor)


def _top1(
    ref: TeacherRef, net: Network, run: Run, images: PackData, store: Store, options: TrainingOptions
) -> float:
    """Return the teacher's top-1, by its record or measured here; see `PackTeacher.load`."""
    count = len(images.test.labels)
    recorded = teacher_check.recorded_top1(ref, run, store, images.execution, count)
    top1 = processes.current().agree(recorded)
    if top1 is None:
        top1 = images.score(net, images.test).top1
    finding = teacher_check.weakness(ref, top1, run, count)
    if finding is None or net.projector is not None:  # self-supervised: it never learnt the classes
        return top1
    if teacher_check.must_refuse(finding, ref, run) and not options.accept_weak_teacher:
        raise InputError(
            f"{finding.text}; give another file, or add --accept-weak-teacher to train with it anyway"
        )
    if finding.text not in options.weak_teachers:
        options.weak_teachers.add(finding.text)
        options.reporter.note(finding.text)
    return top1
