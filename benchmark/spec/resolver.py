"""Resolving: turns requests into runs, with every hyper-parameter, teacher and required run filled in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import models
from benchmark import data, measures, methods
from benchmark.errors import InputError
from benchmark.measures import MeasureSpec
from benchmark.methods import PLAIN, MethodSpec
from benchmark.spec import profiles, protocols, recipes, teacher_table
from benchmark.spec.recipes import Recipe
from benchmark.spec.runs import (
    NONE,
    Overrides,
    Request,
    Resolved,
    Run,
    TeacherRef,
    init_epochs,
    network_info,
    recipe_only,
    teacher_overrides,
)

ENGINE_REVISION = 1
"""Raised when a correction of the trainer, the augmentation or a network makes older records invalid."""


class Resolver:
    """Turns requests into runs. Results are cached, so that 10^5 runs are resolved in seconds."""

    def __init__(self, imported: Mapping[tuple[str, str], TeacherRef] | None = None) -> None:
        """imported: `(dataset, network)` -> the checkpoint that teaches instead of a run of this suite."""
        self.imported = dict(imported or {})
        self._resolved: dict[Request, Resolved] = {}
        self._runs: dict[tuple[Request, int], Run] = {}
        self._teachers: dict[tuple[Any, ...], TeacherRef] = {}

    def from_order(self, order: Mapping[str, Any]) -> Run:
        """Return the run of an order (see `Run.order`).

        Raises `InputError` if its key differs here, because the code, the imported teachers or the
        data have changed since.
        """
        names = ("dataset", "protocol", "profile", "teacher", "student", "method")
        request = Request(
            **{name: order[name] for name in names},
            overrides=tuple((k, v) for k, v in order["overrides"]),
            teacher_weights=order.get("teacher_weights", ""),
        )
        if order["evaluates"]:
            weights = order.get("measure", {}).get("weights") or str(order["key"]).rpartition("/")[2]
            ref = self._of_weights(weights, request.dataset, request.student) or self.imported.get(
                (request.dataset, request.student)
            )
            if ref is None:
                raise InputError(
                    f"{order['key']}: its imported checkpoint is not here; "
                    "set TEACHERS= to the folder that has it"
                )
            run = self.imported_run(
                ref, dataset=request.dataset, protocol=request.protocol, profile=request.profile
            )
        else:
            run = self.run(request, order["seed"])
        if (wanted := order.get("measure")) is not None:
            spec = measures.parse(wanted["name"], wanted["settings"], wanted["target"])
            epoch = wanted.get("epoch", "last")
            run = self.measuring(
                run.evaluates or TeacherRef(request.student, run=run, epoch=epoch), spec, run
            )
        if run.key != order["key"]:
            raise InputError(
                f"{order['key']} has the key {run.key} here: the code, the teachers or the data have changed "
                "since it was ordered; order it again"
            )
        return run

    def listed_teacher(self, network: str, *, dataset: str, student: str, table: str) -> TeacherRef | None:
        """Return the teacher that `teachers.toml` names; None if it names none. table: "" for no table."""
        entry = teacher_table.choose(
            teacher_table.entries(), dataset=dataset, network=network, student=student, table=table
        )
        return None if entry is None else entry.ref()

    def _of_weights(self, weights: str, dataset: str, network: str) -> TeacherRef | None:
        """Return the listed or imported teacher that has these weights, None if none has."""
        for entry in teacher_table.entries():
            if (entry.dataset, entry.network) == (dataset, network) and entry.ref().weights == weights:
                return entry.ref()
        ref = self.imported.get((dataset, network))
        return next((r for r in (ref, ref and ref.other_epoch) if r and r.weights == weights), None)

    def teacher(
        self, network: str, *, dataset: str, protocol: str, profile: str, overrides: Overrides = ()
    ) -> TeacherRef:
        """Return the teacher of an architecture that is not listed in `teachers.toml`.

        It is the imported checkpoint if there is one, else seed 0 of the network's training by the protocol's
        `teacher_method` under its teacher protocol. Of `overrides`, only those of the recipe that concern a
        teacher count.
        """
        overrides = teacher_overrides(overrides)
        cache_key = (dataset, protocol, profile, network, overrides)
        if cache_key not in self._teachers:
            p = protocols.get_protocol(protocol)
            if (dataset, network) in self.imported:
                self._teachers[cache_key] = self.imported[dataset, network].at(p.teacher_epoch)
            else:
                request = Request(
                    dataset=dataset,
                    protocol=p.teacher_protocol,
                    profile=profile,
                    teacher=NONE,
                    student=network,
                    method=p.teacher_method,
                    overrides=overrides,
                )
                self._teachers[cache_key] = TeacherRef(
                    network, run=self.run(request, seed=0), epoch=p.teacher_epoch
                )
        return self._teachers[cache_key]

    def run(self, request: Request, seed: int) -> Run:
        """Return the run of a request and a seed.

        Raises `InputError` for names that do not exist. It does not check whether the method can train this
        pair; `skip_reason` does.
        """
        run = self._runs.get((request, seed))
        if run is None:
            if request not in self._resolved:
                self._resolved[request] = self._resolve(request)
            run = self._runs[request, seed] = Run(request, seed, self._resolved[request])
        return run

    def imported_run(self, ref: TeacherRef, *, dataset: str, protocol: str, profile: str) -> Run:
        """Return the run that measures an imported checkpoint on the test set, without any training."""
        request = Request(
            dataset=dataset,
            protocol=protocol,
            profile=profile,
            teacher=NONE,
            student=ref.network,
            method=PLAIN,
        )
        plain = self.run(request, seed=0)
        settings = {"dataset": dataset, "normalise": plain.settings["normalise"], "imported": ref.weights}
        resolved = Resolved(
            recipe=plain.recipe,
            spec=plain.spec,
            teacher=None,
            heads=(),
            settings_json=json.dumps(settings, sort_keys=True),
            evaluates=ref,
        )
        return Run(request, 0, resolved)

    def measuring(self, subject: TeacherRef, spec: MeasureSpec, run: Run) -> Run:
        """Return the run that measures a network.

        run: the one that trained the network, or `imported_run` of its checkpoint. The measuring run has its
        pair, method and seed.
        """
        settings = {
            "dataset": run.dataset,
            "normalise": run.settings["normalise"],
            "network": {"network": subject.network, "identity": subject.identity},
            "measure": spec.settings(run.dataset),
        }
        if identity := data.info(run.dataset).identity:
            settings["data"] = identity
        resolved = dataclasses.replace(
            run.resolved,
            teacher=None,
            heads=(),
            settings_json=json.dumps(settings, sort_keys=True),
            evaluates=subject,
            measure=spec,
        )
        return Run(run.request, run.seed, resolved)

    def _resolve(self, request: Request) -> Resolved:
        r = request
        protocols.get_protocol(r.protocol)
        profiles.get_profile(r.profile)
        dataset = data.info(r.dataset)
        method_overrides = {k: v for k, v in r.overrides if not k.startswith("recipe.")}
        protocol_settings = dict(protocols.get_protocol(r.protocol).method_settings)
        spec = methods.parse(r.method, protocol_settings | method_overrides, r.teacher, r.student)
        methods.check_loss(spec, r.teacher, r.student)
        for name in (r.teacher, r.student):
            if name != NONE:
                network_info(name, dataset.num_classes)
        teacher_network = _teacher_network(request, spec)
        recipe = self._recipe(request, spec)
        teacher = listed = None
        if teacher_network != NONE:
            listed = self._teacher_of(request, teacher_network)
            teacher = listed or self.teacher(
                teacher_network,
                dataset=r.dataset,
                protocol=r.protocol,
                profile=r.profile,
                overrides=r.overrides,
            )
        # a head is trained on the same teacher, whatever the pair and the table are
        heads = self._heads(request, spec, "" if listed is None else listed.weights)
        mean, std = normalisation(r.protocol, r.dataset)
        settings = {
            "engine": ENGINE_REVISION,
            "dataset": r.dataset,
            **({"data": dataset.identity} if dataset.identity else {}),
            "normalise": {"mean": mean, "std": std},
            "recipe": recipe.settings(),
            "init_epochs": dict(init_epochs(spec, recipe)),
            "teacher": None
            if teacher is None
            else {"network": teacher_network, "identity": teacher.identity},
            "student": None if r.student == NONE else r.student,
            **_user_sources(teacher_network, r.student),
            "method": {"name": spec.name, **spec.settings()},
            "sampler": spec.sampler.name,
            "heads": {h.method: h.key for h in heads},
        }
        return Resolved(
            recipe=recipe,
            spec=spec,
            teacher=teacher,
            heads=heads,
            settings_json=json.dumps(settings, sort_keys=True),
        )

    def _recipe(self, request: Request, spec: MethodSpec) -> Recipe:
        dataset = data.info(request.dataset)
        recipe = recipes.resolve(
            protocols.get_protocol(request.protocol),
            profiles.get_profile(request.profile),
            network=request.student,
            available=(dataset.train_images, dataset.test_images),
            schedule=spec.schedule(),
            overrides={k.partition(".")[2]: v for k, v in recipe_only(request.overrides)},
            reads_preacts=spec.reads_preacts,
        )
        recipe.selection.check(dataset.num_classes)
        return recipe

    def _teacher_of(self, request: Request, network: str) -> TeacherRef | None:
        """Return the teacher of a request that is chosen by `teachers.toml`, None if it does not choose."""
        r = request
        if not r.teacher_weights:
            return self.listed_teacher(network, dataset=r.dataset, student=r.student, table="")
        ref = self._of_weights(r.teacher_weights, r.dataset, network)
        if ref is None:
            raise InputError(
                f"the teacher {network} with weights {r.teacher_weights} is not here; restore it in "
                "teachers.toml, or set TEACHERS= to the folder that has it"
            )
        return ref

    def _heads(self, request: Request, spec: MethodSpec, teacher_weights: str) -> tuple[Run, ...]:
        shared = ("recipe.train_images", "recipe.test_images", "recipe.batch_size")
        overrides = tuple(
            (k, v) for k, v in request.overrides if k in shared or k.partition(".")[0] in spec.requires
        )
        return tuple(
            self.run(
                Request(
                    dataset=request.dataset,
                    protocol=request.protocol,
                    profile=request.profile,
                    teacher=request.teacher,
                    student=NONE,
                    method=name,
                    overrides=overrides,
                    teacher_weights=teacher_weights,
                ),
                seed=0,
            )
            for name in spec.requires
        )


def _user_sources(*networks: str) -> dict[str, dict[str, str]]:
    """Return the part of a key that identifies the files of the users' networks; {} without any."""
    users = models.user_networks()
    sources = {name: users[name].source for name in sorted(set(networks)) if name in users}
    return {"networks": sources} if sources else {}


def _teacher_network(request: Request, spec: MethodSpec) -> str:
    """Return the name of the teacher's network (the student's in self-distillation), or `none`.

    Raises `InputError` if the method does not fit a pair with, or without, a teacher.
    """
    r = request
    if spec.name == PLAIN and r.teacher != NONE:
        raise InputError(f"method {PLAIN} trains without a teacher; use the pair {NONE}:{r.student}")
    if spec.self_teacher and r.teacher != NONE:
        raise InputError(
            f"the teacher of method {spec.name} has the student's architecture; "
            f"use the pair {NONE}:{r.student}"
        )
    network = r.student if spec.self_teacher else r.teacher
    if spec.needs_teacher and network == NONE:
        raise InputError(f"method {spec.name} needs a teacher; use a pair teacher:{r.student}")
    return network


def normalisation(protocol: str, dataset: str) -> tuple[data.Channels, data.Channels]:
    """Return the mean and standard deviation that normalise a data set under a protocol.

    Protocols define them for CIFAR-100 only, those of ImageNet for every data set; other data sets define
    their own.
    """
    p = protocols.get_protocol(protocol)
    if dataset == "cifar100" or p.normalises_all:
        return p.mean, p.std
    info = data.info(dataset)
    return info.mean, info.std
