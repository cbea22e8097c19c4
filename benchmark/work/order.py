"""Work orders: the runs of a pack and the settings to train them with, as JSON.

A work order is what `run` hands to its worker processes and `submit` to its jobs.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.errors import InputError
from benchmark.spec import imported, teacher_cache_rule
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Run
from benchmark.training import processes, teacher_cache
from benchmark.training.execution import Execution, ExecutionRequest
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.training.pack_trainer import PackTrainer
from benchmark.training.reporter import Outcome, Reporter
from benchmark.training.run_files import epochs_done
from results.store import Store


@dataclass(frozen=True)
class WorkSettings:
    """The settings of a worker: its folders, what it keeps, and how it computes."""

    results: Path
    """Folder of the results."""
    data: Path
    """Folder of the data sets."""
    teachers: Path | None = None
    """Folder of imported checkpoints."""
    network: str = ""
    """The network of a checkpoint in `teachers` that fits several."""
    accept_weak_teacher: bool = False
    """See `TrainingOptions.accept_weak_teacher`."""
    keep: str = "all"
    """See `TrainingOptions.keep`."""
    teacher_cache: str = "auto"
    """`auto`, `on` or `off`: see benchmark/spec/teacher_cache_rule.py."""
    accept_edit: bool = False
    """See `TrainingOptions.accept_edit`."""
    until: int | None = None
    """See `TrainingOptions.until`."""
    execution: ExecutionRequest = field(default_factory=ExecutionRequest)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values; `settings_from_json` reads them."""
        return {
            "results": str(self.results),
            "data": str(self.data),
            "teachers": "" if self.teachers is None else str(self.teachers),
            "network": self.network,
            "accept_weak_teacher": self.accept_weak_teacher,
            "keep": self.keep,
            "teacher_cache": self.teacher_cache,
            "accept_edit": self.accept_edit,
            **({} if self.until is None else {"until": self.until}),
            "execution": asdict(self.execution),
        }

    def training_options(
        self,
        packs: Sequence[Sequence[Run]],
        reporter: Reporter | None = None,
    ) -> TrainingOptions:
        """Return the trainer's options for these packs.

        All packs of a plan must be given, since they decide together which teachers are cached.
        """
        execution = self.execution.resolve()
        return TrainingOptions(
            execution=execution,
            data_folder=self.data,
            keep=self.keep,
            accept_weak_teacher=self.accept_weak_teacher,
            cached_teachers=self.cached_teachers(
                packs,
                device=execution.torch_device.type,
                precision=execution.precision,
                until=self.until,
            ),
            accept_edit=self.accept_edit,
            until=self.until,
            reporter=reporter or Reporter(),
        )

    def cached_teachers(
        self, packs: Sequence[Sequence[Run]], *, device: str, precision: str, until: int | None = None
    ) -> frozenset[str]:
        """Return the identities of the teachers that get a teacher cache in these packs.

        The rule counts what is left to do in the results folder. device: `cpu` or `cuda`.
        """
        store = Store(self.results)

        def built(run: Run, parts: frozenset[str]) -> float:
            return teacher_cache.built_share(
                self.results / teacher_cache.FOLDER,
                identity=teacher_cache_rule.teacher_identity([run]),
                device=device,
                precision=precision,
                parts=parts,
                train_images=run.recipe.train_images,
            )

        return teacher_cache_rule.cached_teachers(
            self.teacher_cache,
            packs,
            precision,
            device=device,
            until=until,
            epochs_done=functools.partial(epochs_done, store),
            built=built,
            free_bytes=shutil.disk_usage(self.results).free if self.results.is_dir() else math.inf,
        )


def work_order(runs: Sequence[Run], settings: WorkSettings) -> str:
    """Return a work order for the runs of a pack."""
    return json.dumps({"runs": [run.order() for run in runs], "settings": settings.as_json()})


def work(order: str, reporter: Reporter | None = None) -> list[Outcome]:
    """Train the pack of a work order in this process. Raises `InputError` if it is not a valid work order."""
    run_orders, settings = _parse(order)
    resolver = _resolver(settings)
    runs = [resolver.from_order(o) for o in run_orders]
    return train_pack(runs, Store(settings.results), settings.training_options([runs], reporter))


def follow(settings: WorkSettings, team: processes.Joined) -> None:
    """Train the packs of process 0 with it, until it has none left.

    settings: those of process 0. Raises `ProcessLost` if it ends, and what it raises for wrong input.
    """
    resolver = _resolver(settings)
    while (command := team.next_command()) is not None:
        runs = [resolver.from_order(order) for order in command["runs"]]
        execution = Execution(**command["execution"])
        execution = execution.shared_by(team, sync_norms=execution.sync_norms)
        options = TrainingOptions(
            execution=execution,
            data_folder=settings.data,
            accept_weak_teacher=settings.accept_weak_teacher,
            keep=settings.keep,
            until=settings.until,
        )
        PackTrainer(runs, Store(settings.results), options, claims={}, execution=execution).train()


def _resolver(settings: WorkSettings) -> Resolver:
    """Return the resolver for work orders with these settings; their folder of data sets is used from now."""
    data.use_folder(settings.data)
    return Resolver(imported.teachers_in(settings.teachers, settings.network))


# --- checks of a work order's form --------------------------------------------------------------------------

_SETTINGS = {
    "results": str,
    "data": str,
    "teachers": str,
    "network": str,
    "accept_weak_teacher": bool,
    "keep": str,
    "teacher_cache": str,
    "accept_edit": bool,
    "until": int,
    "execution": dict,
}
_EXECUTION = {
    "device": str,
    "precision": str,
    "threads": int,
    "student_threads": int,
    "sync_norms": bool,
}
_MEASURE = {"name": str, "settings": dict, "target": str}
_RUN = {
    **dict.fromkeys(("dataset", "protocol", "profile", "teacher", "student", "method", "key"), str),
    "seed": int,
    "evaluates": bool,
    "overrides": list,
}


def _parse(text: str) -> tuple[list[dict[str, Any]], WorkSettings]:
    """Return the runs and the settings of a work order. Whether their values make sense is checked later."""
    try:
        order = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid("is not JSON") from error
    if not isinstance(order, dict):
        raise _invalid("is not an object")
    runs = order.get("runs")
    if not isinstance(runs, list) or not runs:
        raise _invalid("has no `runs`")
    for run in runs:
        _check("run", run, {**_RUN, "measure": dict}, required=tuple(_RUN), closed=False)
        if "measure" in run:
            _check("measure", run["measure"], _MEASURE, required=tuple(_MEASURE), closed=False)
        if not all(isinstance(o, list) and len(o) == 2 and isinstance(o[0], str) for o in run["overrides"]):
            raise _invalid("has `overrides` that are not pairs of a name and a value")
    return runs, settings_from_json(order.get("settings"))


def settings_from_json(values: Any) -> WorkSettings:
    """Return the settings that `WorkSettings.as_json` wrote. Raises `InputError` for any other value."""
    _check("settings", values, _SETTINGS, required=("results", "data"))
    execution = values.get("execution", {})
    _check("execution", execution, _EXECUTION)
    return WorkSettings(
        results=Path(values["results"]),
        data=Path(values["data"]),
        teachers=Path(values["teachers"]) if values.get("teachers") else None,
        network=values.get("network", ""),
        accept_weak_teacher=values.get("accept_weak_teacher", False),
        keep=values.get("keep", "all"),
        teacher_cache=values.get("teacher_cache", "auto"),
        accept_edit=values.get("accept_edit", False),
        until=values.get("until"),
        execution=ExecutionRequest(**execution),
    )


def _check(
    name: str,
    values: Any,
    types: Mapping[str, type],
    required: Sequence[str] = (),
    closed: bool = True,
) -> None:
    """Raise `InputError` unless `values` is an object with the required fields, all of the right type.

    closed: fields that are not in `types` are refused.
    """
    if not isinstance(values, dict):
        raise _invalid(f"has no valid `{name}`")
    for key in required:
        if key not in values:
            raise _invalid(f"has a `{name}` without `{key}`")
    for key, value in values.items():
        if key in types and type(value) is not types[key]:
            raise _invalid(f"has a `{name}` whose `{key}` is not of type {types[key].__name__}")
        if closed and key not in types:
            raise _invalid(f"has a `{name}` with an unknown field `{key}`")


def _invalid(problem: str) -> InputError:
    return InputError(f"the work order {problem}; pass one that `run` or `submit` wrote")
