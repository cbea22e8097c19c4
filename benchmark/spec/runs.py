"""What a run is: dataset, protocol, profile, pair, method, seed, resolved to settings and a key.

A key is the run's path below the results folder, readable and stable:

    cifar100/crd/paper/resnet56-resnet20/crd+kd/seed0-1f0c9a2b7d

whose last part is a hash of every resolved hyper-parameter, the teacher (its own run's key and epoch, or the hash of an imported
one's weights), the methods' revisions and, where the data are a folder's own, their identity. Nothing about the machine, the pack or the
precision is in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import models
from benchmark import data
from benchmark import methods as methods_room
from benchmark.errors import InputError, unknown
from benchmark.methods import PLAIN, MethodSpec
from benchmark.settings import scaled
from benchmark.spec import protocols
from benchmark.spec.protocols import Recipe

ENGINE_REVISION = 1
"""Raised when the trainer, the augmentation or a network is mended so that older records no longer count."""

NONE = "none"


@dataclass(frozen=True)
class TeacherRef:
    """Who teaches. Exactly one of the two is set.

    run, epoch: a run of ours and which of its checkpoints (`last` or `best`).
    weights: the hash of an imported checkpoint's weights (`models.weights_hash`), path: where it lies (not part of any key).
    """

    network: str
    run: Run | None = None
    epoch: str = "last"
    weights: str = ""
    path: str = ""

    @property
    def identity(self) -> str:
        return f"weights:{self.weights}" if self.run is None else f"{self.run.key}@{self.epoch}"


@dataclass(frozen=True)
class Run:
    """One training. `teacher` or `student` may be `none` (a plain student; the training of a teacher's head).

    settings: everything that the hash is made of, plain JSON data. needs_runs: runs that must be done before.
    request: what it was resolved from. evaluates: an imported checkpoint, for the "run" that only measures it on the test set.
    """

    dataset: str
    protocol: str
    profile: str
    teacher: str
    student: str
    method: str
    seed: int
    recipe: Recipe
    spec: MethodSpec
    teacher_ref: TeacherRef | None
    heads: tuple[Run, ...]
    settings_json: str
    key: str
    request: Request
    evaluates: TeacherRef | None = None

    @property
    def pair(self) -> str:
        return f"{self.teacher}:{self.student}"

    @property
    def settings(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.settings_json)
        return loaded

    @property
    def needs_runs(self) -> tuple[Run, ...]:
        own = () if self.teacher_ref is None or self.teacher_ref.run is None else (self.teacher_ref.run,)
        return own + self.heads

    @property
    def init_epochs(self) -> tuple[tuple[str, int], ...]:
        """`(method, epochs)` of each initialisation stage, in this run's length."""
        return tuple(
            (c.method.name, scaled(c.method.init_epochs, self.recipe.epochs, self.recipe.published_epochs))
            for c in self.spec.init_stages
        )

    @property
    def lr_scale(self) -> float:
        """What the profile multiplies published learning rates by; in `recipe.lr` already, not in those that a method's own code fixes."""
        return protocols.get_profile(self.request.profile).lr_scale(
            protocols.get_protocol(self.request.protocol)
        )

    def order(self) -> dict[str, Any]:
        """The run as plain JSON data, from which `Resolver.from_order` makes it again in another process."""
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
            "evaluates": self.evaluates is not None,
        }

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.key == self.key

    def __repr__(self) -> str:
        return f"Run({self.key})"


def network_info(name: str, num_classes: int) -> models.NetInfo:
    """`models.info`, with an `InputError` for an unknown name."""
    if name not in models.names():
        raise unknown("network", name, models.names())
    return models.info(name, num_classes)


def parse_pair(text: str) -> tuple[str, str]:
    """`teacher:student` -> both names; `InputError` for anything else. The teacher may be `none`: no network."""
    teacher, colon, student = text.partition(":")
    if not colon or not student or not teacher:
        raise InputError(f"pair '{text}' is not of the form teacher:student; allowed: e.g. resnet56:resnet20")
    for name in (teacher, student):
        if name != NONE and name not in models.names():
            raise unknown("network", name, models.names())
    if student == NONE:
        raise InputError(
            f"pair '{text}' has no student; allowed: e.g. resnet56:resnet20, or {NONE}:resnet20 without a teacher"
        )
    return teacher, student


@dataclass(frozen=True)
class Request:
    """What is asked for, before it is resolved. overrides: checked `--set` values by key, as a sorted tuple of pairs."""

    dataset: str
    protocol: str
    profile: str
    teacher: str
    student: str
    method: str
    overrides: tuple[tuple[str, Any], ...] = ()


class Resolver:
    """Turns requests into runs. Holds the imported teachers; caches what requests share, so that 10^5 runs are resolved in seconds."""

    def __init__(self, imported: Mapping[tuple[str, str], TeacherRef] | None = None) -> None:
        """imported: `(dataset, network)` -> the checkpoint that teaches instead of a run of ours."""
        self.imported = dict(imported or {})
        self._prepared: dict[Request, tuple[Any, ...]] = {}
        self._runs: dict[tuple[Request, int], Run] = {}
        self._teachers: dict[tuple[Any, ...], TeacherRef] = {}

    def from_order(self, order: Mapping[str, Any]) -> Run:
        """The run of an order. `InputError` if it resolves to another key here: the code or the imported teachers have changed since."""
        o = dict(order)
        names = ("dataset", "protocol", "profile", "teacher", "student", "method")
        request = Request(**{f: o[f] for f in names}, overrides=tuple((k, v) for k, v in o["overrides"]))
        if o["evaluates"]:
            ref = self.imported.get((o["dataset"], o["student"]))
            if ref is None:
                raise InputError(
                    f"{o['key']}: the imported teacher is gone; allowed: TEACHERS= the folder that held it"
                )
            run = self.imported_run(request.dataset, request.profile, ref, request.protocol)
        else:
            run = self.run(request, o["seed"])
        if run.key != o["key"]:
            raise InputError(
                f"{o['key']} resolves to {run.key} here: code, teachers or data differ from those it was ordered with; order it again"
            )
        return run

    def teacher(
        self, dataset: str, protocol: str, profile: str, network: str, overrides: tuple[tuple[str, Any], ...]
    ) -> TeacherRef:
        """The teacher of that architecture: imported if there is one, else seed 0 of its plain training under the protocol's teacher protocol."""
        key = (dataset, protocol, profile, network, overrides)
        if key not in self._teachers:
            p = protocols.get_protocol(protocol)
            if (dataset, network) in self.imported:
                self._teachers[key] = self.imported[dataset, network]
            else:
                recipe_only = tuple((k, v) for k, v in overrides if k.startswith("recipe."))
                run = self.run(
                    Request(dataset, p.teacher_protocol, profile, NONE, network, PLAIN, recipe_only), seed=0
                )
                self._teachers[key] = TeacherRef(network, run=run, epoch=p.teacher_epoch)
        return self._teachers[key]

    def _prepare(self, request: Request) -> tuple[Any, ...]:
        r = request
        overrides = dict(r.overrides)
        protocol, profile = protocols.get_protocol(r.protocol), protocols.get_profile(r.profile)
        dataset = data.info(r.dataset)
        own = {k: v for k, v in overrides.items() if not k.startswith("recipe.")}
        spec = methods_room.parse(r.method, own, r.teacher, r.student)
        methods_room.check_loss(spec, r.teacher, r.student)
        for name in (r.teacher, r.student):
            if name != NONE:
                network_info(name, dataset.num_classes)
        if spec.name == PLAIN and r.teacher != NONE:
            raise InputError(f"method {PLAIN} has no teacher; allowed: the pair {NONE}:{r.student}")
        if spec.self_teacher and r.teacher != NONE:
            raise InputError(
                f"method {spec.name} is taught by a network of the student's own kind; allowed: the pair {NONE}:{r.student}"
            )
        taught_by = r.student if spec.self_teacher else r.teacher
        if spec.needs_teacher and taught_by == NONE:
            raise InputError(f"method {spec.name} needs a teacher; allowed: a pair teacher:{r.student}")
        recipe = protocols.resolve(
            protocol,
            profile,
            r.student,
            (dataset.train_images, dataset.test_images),
            spec.schedule(),
            {k.partition(".")[2]: v for k, v in overrides.items() if k.startswith("recipe.")},
        )
        ref = (
            None
            if taught_by == NONE
            else self.teacher(r.dataset, r.protocol, r.profile, taught_by, r.overrides)
        )
        concerns_heads = ("recipe.train_images", "recipe.test_images", "recipe.batch_size")
        head_overrides = tuple(
            (k, v) for k, v in r.overrides if k in concerns_heads or k.partition(".")[0] in spec.requires
        )
        heads = tuple(
            self.run(Request(r.dataset, r.protocol, r.profile, r.teacher, NONE, name, head_overrides), seed=0)
            for name in spec.requires
        )
        mean, std = statistics(r.protocol, r.dataset)
        settings = {
            "engine": ENGINE_REVISION,
            "dataset": r.dataset,
            **({"data": dataset.identity} if dataset.identity else {}),
            "normalise": {"mean": mean, "std": std},
            "recipe": recipe.settings(),
            "init_epochs": {
                c.method.name: scaled(c.method.init_epochs, recipe.epochs, recipe.published_epochs)
                for c in spec.init_stages
            },
            "teacher": None if ref is None else {"network": taught_by, "identity": ref.identity},
            "student": None if r.student == NONE else r.student,
            "method": {"name": spec.name, **spec.settings()},
            "sampler": spec.sampler.name,
            "heads": {h.method: h.key for h in heads},
        }
        canonical = json.dumps(settings, sort_keys=True)
        return recipe, spec, ref, heads, canonical

    def run(self, request: Request, seed: int) -> Run:
        """The run of a request and a seed. `InputError` for names that do not exist; whether the pair can be done is `skip_reason`'s business."""
        known = self._runs.get((request, seed))
        if known is not None:
            return known
        if request not in self._prepared:
            self._prepared[request] = self._prepare(request)
        recipe, spec, ref, heads, canonical = self._prepared[request]
        r = request
        digest = hashlib.sha256(f"{canonical}|seed={seed}".encode()).hexdigest()[:10]
        key = f"{r.dataset}/{r.protocol}/{r.profile}/{r.teacher}-{r.student}/{spec.name}/seed{seed}-{digest}"
        found = self._runs[request, seed] = Run(
            r.dataset,
            r.protocol,
            r.profile,
            r.teacher,
            r.student,
            spec.name,
            seed,
            recipe,
            spec,
            ref,
            heads,
            canonical,
            key,
            r,
        )
        return found

    def imported_run(self, dataset: str, profile: str, ref: TeacherRef, protocol: str) -> Run:
        """The record-to-be of an imported checkpoint: nothing is trained, its top-1 on the test set is measured."""
        request = Request(dataset, protocol, profile, NONE, ref.network, PLAIN)
        plain = self.run(request, seed=0)
        settings = {"dataset": dataset, "normalise": plain.settings["normalise"], "imported": ref.weights}
        key = f"{dataset}/{protocol}/{profile}/{NONE}-{ref.network}/imported/{ref.weights}"
        return dataclasses.replace(
            plain,
            method="imported",
            settings_json=json.dumps(settings, sort_keys=True),
            key=key,
            evaluates=ref,
        )


def statistics(protocol: str, dataset: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation that the protocol normalises this data set with (its own numbers are CIFAR-100's)."""
    if dataset == "cifar100":
        p = protocols.get_protocol(protocol)
        return p.mean, p.std
    info = data.info(dataset)
    return info.mean, info.std


@functools.cache
def _skip(spec: MethodSpec, teacher: str, student: str, num_classes: int) -> str | None:
    return spec.skip(
        None if student == NONE else network_info(student, num_classes),
        None if teacher == NONE else network_info(teacher, num_classes),
    )


def skip_reason(run: Run) -> str | None:
    """Why the run's method cannot be done on its pair, or None. The table prints N/A with this reason."""
    return _skip(run.spec, run.teacher, run.student, data.info(run.dataset).num_classes)
