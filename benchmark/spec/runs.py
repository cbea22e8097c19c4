"""Runs: the description of one training, and the key that identifies it.

A `Request` names a data set, protocol, profile, pair and method. `benchmark.spec.resolver` turns a request
and a seed into a `Run`, in which every hyper-parameter has its value, and the teacher and the other runs that
it needs are known.

A run's key is its path below the results folder, readable and stable:

    cifar100/crd/paper/resnet56-resnet20/crd+kd/seed0-1f0c9a2b7d

The last part is a hash. It covers every resolved hyper-parameter, the seed, the teacher (the key and epoch of
its run, or the hash of an imported checkpoint's weights), the methods' revisions and, for a data set made of
the user's files, the identity of these files. The machine, the pack and the precision are not part of it.

A run may also measure a trained network (benchmark/measures). Its key lies beside that of the measured run:

    cifar100/crd/paper/resnet56-resnet20/crd+kd/probe-stl10-seed0-8c2d3e4f5a
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import models
from benchmark import data, plugins
from benchmark.errors import InputError, unknown
from benchmark.measures import MeasureSpec
from benchmark.methods import MethodSpec
from benchmark.plugins.networks import user_networks
from benchmark.settings import scaled
from benchmark.spec import profiles, protocols, recipes
from benchmark.spec.recipes import Recipe

models.provide_user_networks(user_networks)

NONE = "none"
"""In a pair: no teacher, or (when a teacher's head is trained) no student."""

IMPORTED = "imported"
"""The method name of runs that only measure an imported checkpoint."""

Overrides = tuple[tuple[str, Any], ...]
"""Checked `--set` values as sorted pairs of key and value."""


@dataclass(frozen=True)
class TeacherRef:
    """A teacher: either a run of this suite (`run` is set) or an imported checkpoint (`weights` is set)."""

    network: str

    run: Run | None = None
    """The plain training that produces the teacher."""

    epoch: str = "last"
    """Which checkpoint of that run, or of an imported training, teaches: `last` or `best`."""

    weights: str = ""
    """Hash of an imported checkpoint's weights (`models.weights_hash`)."""

    path: str = ""
    """File of the imported checkpoint; not part of any key."""

    description_only: bool = False
    """The file only describes the checkpoint (see `benchmark.spec.imported`), so nothing can be trained with
    it."""

    has_classifier: bool = True
    """False for an imported self-supervised network, whose top-1 means nothing."""

    other_epoch: TeacherRef | None = None
    """The best epoch of an imported checkpoint's training, if this is its last one and both are here."""

    def at(self, epoch: str) -> TeacherRef:
        """Return the checkpoint of this epoch (`last` or `best`) if there is one, else this one."""
        other = self.other_epoch
        return other if other is not None and other.epoch == epoch else self

    @property
    def identity(self) -> str:
        """The part of a run's key that identifies the teacher."""
        return f"weights:{self.weights}" if self.run is None else f"{self.run.key}@{self.epoch}"


@dataclass(frozen=True)
class Request:
    """A requested training, before it is resolved."""

    dataset: str
    protocol: str
    profile: str
    teacher: str
    student: str
    method: str
    overrides: Overrides = ()

    teacher_weights: str = ""
    """Hash of the weights of the teacher that `teachers.toml` names for the table; "" leaves the choice to
    the resolver."""


@dataclass(frozen=True)
class Resolved:
    """The result of resolving a request; the same for every seed."""

    recipe: Recipe
    spec: MethodSpec

    teacher: TeacherRef | None
    """The teacher, None for a run without one."""

    heads: tuple[Run, ...]
    """Trainings of teacher heads that the methods require."""

    settings_json: str
    """Everything that the key's hash covers except the seed, as canonical JSON."""

    evaluates: TeacherRef | None = None
    """The network of a run that trains nothing and only measures it: a run of this suite, or an imported
    checkpoint."""

    measure: MeasureSpec | None = None
    """What is measured. None for the accuracy of an imported checkpoint on the test set."""


@dataclass(frozen=True, eq=False)
class Run:
    """One training. Runs are equal if their keys are."""

    request: Request
    seed: int
    resolved: Resolved

    @functools.cached_property
    def key(self) -> str:
        r = self.request
        folder = f"{r.dataset}/{r.protocol}/{r.profile}/{self.teacher}-{self.student}/{self.method}"
        if self.evaluates is not None and self.measure is None:
            return f"{folder}/{self.evaluates.weights}"
        digest = hashlib.sha256(f"{self.settings_json}|seed={self.seed}".encode()).hexdigest()[:10]
        name = ""
        if self.measure is not None:
            target = re.sub(r"[^A-Za-z0-9_]+", "_", self.measured_on)
            name = f"{self.measure.name}-{target}-"
        return f"{folder}/{name}seed{self.seed}-{digest}"

    @property
    def dataset(self) -> str:
        return self.request.dataset

    @property
    def protocol(self) -> str:
        return self.request.protocol

    @property
    def profile(self) -> str:
        return self.request.profile

    @property
    def teacher(self) -> str:
        """Name of the pair's teacher, `none` for a run without one."""
        return self.request.teacher

    @property
    def student(self) -> str:
        """Name of the pair's student, `none` when a teacher's head is trained."""
        return self.request.student

    @property
    def method(self) -> str:
        """The method's canonical name, for example `crd+kd`."""
        imported = self.evaluates is not None and self.evaluates.run is None
        return IMPORTED if imported else self.spec.name

    @property
    def doing(self) -> str:
        """The method, and what is measured on the trained network if it is: `crd+kd, probe on stl10`."""
        return (
            self.method
            if self.measure is None
            else f"{self.method}, {self.measure.name} on {self.measured_on}"
        )

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    @property
    def spec(self) -> MethodSpec:
        return self.resolved.spec

    @property
    def teacher_ref(self) -> TeacherRef | None:
        return self.resolved.teacher

    @property
    def heads(self) -> tuple[Run, ...]:
        return self.resolved.heads

    @property
    def evaluates(self) -> TeacherRef | None:
        return self.resolved.evaluates

    @property
    def measure(self) -> MeasureSpec | None:
        return self.resolved.measure

    @property
    def measured_on(self) -> str:
        """The data set that a measure is made on, "" for a run that measures nothing."""
        return "" if self.measure is None else self.measure.target or self.dataset

    @property
    def settings_json(self) -> str:
        return self.resolved.settings_json

    @property
    def pair(self) -> str:
        return f"{self.teacher}:{self.student}"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the key's hash covers except the seed, as plain JSON data."""
        settings: dict[str, Any] = json.loads(self.settings_json)
        return settings

    @property
    def needs_runs(self) -> tuple[Run, ...]:
        """Runs that must be done before this one: its teacher's and its heads', or the one it measures."""
        refs = (self.teacher_ref, self.evaluates)
        return tuple(ref.run for ref in refs if ref is not None and ref.run is not None) + self.heads

    @property
    def init_epochs(self) -> tuple[tuple[str, int], ...]:
        """`(method, epochs)` of each initialisation stage, scaled to this run's schedule."""
        return init_epochs(self.spec, self.recipe)

    @property
    def lr_scale(self) -> float:
        """The profile's factor on published learning rates.

        `recipe.lr` already contains it; learning rates that are fixed in a method's code do not.
        """
        return profiles.get_profile(self.profile).lr_scale(protocols.get_protocol(self.protocol))

    def order(self) -> dict[str, Any]:
        """Return the run as plain JSON data.

        `Resolver.from_order` restores the run in another process.
        """
        r = self.request
        return {
            "dataset": r.dataset,
            "protocol": r.protocol,
            "profile": r.profile,
            "teacher": r.teacher,
            "student": r.student,
            "method": r.method,
            "overrides": [list(o) for o in r.overrides],
            "seed": self.seed,
            "key": self.key,
            "evaluates": self.evaluates is not None and self.evaluates.run is None,
            **self._measure_order(),
            **({"teacher_weights": r.teacher_weights} if r.teacher_weights else {}),
        }

    def _measure_order(self) -> dict[str, Any]:
        if self.measure is None or self.evaluates is None:
            return {}
        ref = self.evaluates
        which = {"weights": ref.weights} if ref.run is None else {"epoch": ref.epoch}
        return {"measure": {**self.measure.order(), **which}}

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.key == self.key

    def __repr__(self) -> str:
        return f"Run({self.key})"


def network_info(name: str, num_classes: int, size: int = 32) -> models.NetInfo:
    """Return `models.info`. Raises `InputError` for an unknown name, and a user's network that is wrong."""
    if name not in models.names():
        raise unknown("network", name, models.names(), plugins.remark_if_none())
    try:
        return models.info(name, num_classes, size)
    except models.NetworkError as error:
        raise InputError(str(error)) from error


def network_on(name: str, dataset: str) -> models.NetInfo:
    """Return the sizes and shapes of a network on the images of a data set."""
    info = data.info(dataset)
    return network_info(name, info.num_classes, info.size)


def parse_pair(text: str) -> tuple[str, str]:
    """Split `teacher:student` into both names; the teacher may be `none`.

    Raises `InputError` for anything else.
    """
    teacher, colon, student = text.partition(":")
    if not colon or not student or not teacher:
        raise InputError(f"pair '{text}' is not written teacher:student, for example resnet56:resnet20")
    for name in (teacher, student):
        if name != NONE and name not in models.names():
            raise unknown("network", name, models.names(), plugins.remark_if_none())
    if student == NONE:
        raise InputError(
            f"pair '{text}' has no student; write for example resnet56:resnet20, "
            f"or {NONE}:resnet20 without a teacher"
        )
    return teacher, student


def recipe_only(overrides: Overrides) -> Overrides:
    """Return the overrides of recipe fields (`recipe.FIELD`)."""
    return tuple((k, v) for k, v in overrides if k.startswith("recipe."))


def teacher_overrides(overrides: Overrides) -> Overrides:
    """Return the overrides of recipe fields that also hold for the training of a run's teacher."""
    return tuple((k, v) for k, v in recipe_only(overrides) if k.partition(".")[2] not in recipes.STUDENT_ONLY)


def closure(runs: Iterable[Run]) -> list[Run]:
    """Return the runs and all runs that they need, each once, required runs first."""
    ordered: dict[str, Run] = {}

    def visit(run: Run) -> None:
        if run.key not in ordered:
            for needed in run.needs_runs:
                visit(needed)
            ordered[run.key] = run

    for run in runs:
        visit(run)
    return list(ordered.values())


def init_epochs(spec: MethodSpec, recipe: Recipe) -> tuple[tuple[str, int], ...]:
    """Return `(method, epochs)` of each initialisation stage, scaled to the recipe's schedule."""
    return tuple(
        (c.method.name, scaled(c.method.init_epochs, recipe.epochs, recipe.published_epochs))
        for c in spec.init_stages
    )


@functools.cache
def _skip(spec: MethodSpec, teacher: str, student: str, num_classes: int, size: int) -> str | None:
    return spec.skip(
        None if student == NONE else network_info(student, num_classes, size),
        None if teacher == NONE else network_info(teacher, num_classes, size),
    )


def skip_reason(run: Run) -> str | None:
    """Return why the method cannot train this pair, None if it can. The table prints N/A with this reason."""
    recipe = run.recipe
    mixed = run.spec.skip_mixed(mixup=recipe.mixup > 0, label_smoothing=recipe.label_smoothing > 0)
    info = data.info(run.dataset)
    return mixed or _skip(run.spec, run.teacher, run.student, info.num_classes, info.size)
