"""The methods: found by being there, combined with `+`.

Every module of this folder (and of the folders in the environment variable KD_METHODS) that defines a `Method` with a name is a
method. `parse("crd+kd", {"crd.weight": 0.5})` resolves a combination and its hyper-parameters; `Objective` is the loss that the
trainer minimises for it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.samplers import SHUFFLE, Sampler
from benchmark.data.views import NORMAL, View
from benchmark.errors import InputError, unknown
from benchmark.methods.base import (
    PARTS,
    Method,
    MethodConfig,
    MethodContext,
    Needs,
    Step,
    Terms,
    hyper_parameters,
    param,
)
from benchmark.settings import coerce

if TYPE_CHECKING:
    from models import Features, NetInfo

__all__ = [
    "PARTS",
    "PLAIN",
    "Component",
    "Method",
    "MethodConfig",
    "MethodSpec",
    "Needs",
    "Objective",
    "MethodContext",
    "Step",
    "Terms",
    "ask",
    "check_loss",
    "check_override",
    "get",
    "hyper_parameters",
    "is_user_method",
    "names",
    "user_method_folders",
    "param",
    "parse",
]

PLAIN = "plain"
"""The name of training without any method: cross-entropy alone (plain students, teachers)."""

TAKEN = (PLAIN, "teacher", "student", "none", "imported", "ce", "recipe")
"""Words that rows, keys and settings use where a method's name may stand."""

_STATED: dict[str, Any] = {
    "title": str, "formula": str, "paper": str, "bibtex": str, "at_test": str, "revision": int, "init_epochs": int, "trains_student": bool,
    "self_teacher": bool, "combined_defaults": Mapping, "sampler": Sampler,
}  # fmt: skip
_ANSWERS: dict[str, Any] = {
    "needs": (Needs,), "init_needs": (Needs,), "skip": (str, type(None)), "requires": (tuple, list), "pair_defaults": (Mapping,),
    "partner_defaults": (Mapping,), "schedule": (Mapping,), "weights": (Mapping,),
}  # fmt: skip
"""What a class states and answers, by type: users write methods too, and a wrong one is to be named before it is trained."""


def user_method_folders() -> list[Path]:
    """The folders of KD_METHODS."""
    return [Path(p).expanduser() for p in os.environ.get("KD_METHODS", "").split(os.pathsep) if p]


def _modules() -> list[ModuleType]:
    found = []
    for entry in sorted(pkgutil.iter_modules(__path__), key=lambda e: e.name):
        if entry.name not in ("base",) and not entry.name.startswith("_"):
            found.append(importlib.import_module(f"{__name__}.{entry.name}"))
    for folder in user_method_folders():
        if not folder.is_dir():
            raise InputError(
                f"KD_METHODS: no folder {folder}; allowed: folders that hold method files (*.py)"
            )
        for path in sorted(folder.glob("[!_]*.py")):
            spec = importlib.util.spec_from_file_location(f"kd_methods_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = (
                module  # a dataclass whose annotations are words looks its module up there
            )
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[spec.name]
                raise InputError(
                    f"KD_METHODS: {path} cannot be imported: {type(error).__name__}: {error}"
                ) from error
            found.append(module)
    return found


@functools.cache
def _registry() -> dict[str, type[Method]]:
    methods: dict[str, type[Method]] = {}
    for module in _modules():
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, Method)
                and value.name
                and value.__module__ == module.__name__
            ):
                _check(value)
                value.source = hashlib.sha256(Path(_file(value)).read_bytes()).hexdigest()[:10]
                if value.name in methods:
                    raise InputError(
                        f"two methods are called '{value.name}'; allowed: one file for each name"
                    )
                methods[value.name] = value
    return methods


def _check(method: type[Method]) -> None:
    """`InputError` for a class that states what no method can be run with; its file is named."""

    def wrong(field: str, value: object, allowed: str) -> InputError:
        return InputError(
            f"{_file(method)}: {field} of class {method.__name__} is {value!r}; allowed: {allowed}"
        )

    name = method.name
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise wrong("name", name, "a lower-case letter, then lower-case letters, digits and _")
    if name in TAKEN or hasattr(nn.ModuleDict(), name):  # `Objective` keeps its methods in one, by name
        raise wrong(
            "name",
            name,
            f"a name that is not taken, as {', '.join(TAKEN)} and the attributes of nn.ModuleDict are",
        )
    for field, kind in _STATED.items():
        if not isinstance(getattr(method, field), kind):
            raise wrong(field, getattr(method, field), kind.__name__)
    for question in _ANSWERS:
        if not inspect.ismethod(getattr(method, question)):
            raise wrong(
                question, getattr(method, question), "a class method: it is asked before the method is built"
            )
    config = method.Config
    whole = isinstance(config, type) and issubclass(config, MethodConfig)
    if not whole or any(
        isinstance(v, dataclasses.Field) for v in vars(config).values()
    ):  # a field is left where @dataclass is not
        raise wrong(
            "Config", config, "a subclass of MethodConfig under @dataclass(frozen=True, kw_only=True)"
        )
    ask(method, "Config")


def _file(method: type[Method]) -> str:
    return str(sys.modules[method.__module__].__file__)


def is_user_method(method: type[Method]) -> bool:
    """Whether it is of a file of KD_METHODS."""
    return not method.__module__.startswith(f"{__name__}.")


def ask(method: type[Method], question: str, *args: Any, **values: Any) -> Any:
    """What a method answers. Whatever goes wrong in its code is one line that names it and its file."""
    where = f"{_file(method)}: {question} of method '{method.name}'"
    try:
        answer = getattr(method, question)(*args, **values)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{where} ends in {type(error).__name__}: {error}") from error
    kinds = _ANSWERS.get(question, (object,))
    if not isinstance(answer, kinds):
        raise InputError(f"{where} answers {answer!r}; allowed: {' or '.join(k.__name__ for k in kinds)}")
    return answer


def names() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    return tuple(sorted(_registry()))


def get(name: str) -> type[Method]:
    """The method of that name; `InputError` for an unknown one."""
    registry = _registry()
    if name == PLAIN:
        raise InputError(
            f"{PLAIN} is training without any method: nothing to describe or set; allowed: {', '.join(names())}"
        )
    if name not in registry:
        raise unknown("method", name, names())
    return registry[name]


@dataclass(frozen=True)
class Component:
    """A method with its resolved hyper-parameters."""

    method: type[Method]
    config: MethodConfig

    def weights(self) -> dict[str, float]:
        """The full weights of its terms."""
        return dict(ask(self.method, "weights", self.config))


@dataclass(frozen=True)
class MethodSpec:
    """A resolved combination of methods.

    name: canonical (components sorted, `kd` last, then wrappers, so that `kd+at` and `at+kd` are one run); `plain` for none.
    ce: weight of the cross-entropy: that of the one method (wrappers do not count), 1.0 in a combination, unless set.
    """

    name: str
    components: tuple[Component, ...]
    ce: float

    def settings(self) -> dict[str, Any]:
        """Everything about the method that a run's key depends on."""
        return {
            "ce": self.ce,
            "components": {
                c.method.name: {"revision": c.method.revision, **_without_ce(c.config)}
                for c in self.components
            },
        }

    def skip(self, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        """The first component's reason why the pair cannot be done, or None."""
        for c in self.components:
            if reason := ask(c.method, "skip", c.config, student, teacher):
                return str(reason)
        return None

    @property
    def sampler(self) -> Sampler:
        return next((c.method.sampler for c in self.components if c.method.sampler is not SHUFFLE), SHUFFLE)

    @property
    def trains_student(self) -> bool:
        return all(c.method.trains_student for c in self.components)

    @property
    def self_teacher(self) -> bool:
        """Whether the teacher is the plain training of the student's own architecture."""
        return any(c.method.self_teacher for c in self.components)

    @property
    def needs_teacher(self) -> bool:
        """Whether any stage reads a teacher."""
        main = any(ask(c.method, "needs", c.config).teacher for c in self.components)
        return main or any(ask(c.method, "init_needs", c.config).teacher for c in self.init_stages)

    @property
    def requires(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(name for c in self.components for name in ask(c.method, "requires", c.config))
        )

    @property
    def init_stages(self) -> tuple[Component, ...]:
        """Components with an initialisation stage, in order."""
        return tuple(c for c in self.components if c.method.init_epochs > 0)

    def needs(self) -> Needs:
        """The union of what the components' main stages read, with the logits of the normal view for the cross-entropy."""
        parts: list[Needs] = [ask(c.method, "needs", c.config) for c in self.components]
        views = tuple(dict.fromkeys([NORMAL, *(v for n in parts for v in n.views)]))
        passes: tuple[View, ...] = tuple(dict.fromkeys(v for n in parts for v in n.passes))
        student = (
            frozenset({"logits"}).union(*(n.student for n in parts)) if self.trains_student else frozenset()
        )
        teacher = frozenset().union(*(n.teacher for n in parts)) if parts else frozenset()
        return Needs(student, teacher, views, passes)


def _without_ce(config: MethodConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "ce"}


def check_override(key: str, value: Any) -> Any:
    """Checks one `method.field` (or `ce`) setting and returns its value in the field's type; `InputError` says what is allowed.

    Strings (from the command line) are parsed; other values must have the field's type.
    """
    if key == "ce":
        return coerce(key, value, float, None)
    name, _, field_name = key.partition(".")
    config_class = get(name).Config
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    if field_name not in fields:
        raise unknown(f"setting of {name}", field_name, sorted(fields))
    f = fields[field_name]
    return coerce(key, value, type(f.default), f.metadata.get("allowed"))


def parse(
    text: str, overrides: Mapping[str, Any] | None = None, teacher: str = "", student: str = ""
) -> MethodSpec:
    """Resolves `a+b` and the settings that concern it.

    teacher, student: the pair's names, where constants were chosen by pair. A default is the config's; then comes `combined`,
    then `pair_defaults`, then what another method of the combination gives it (`partner_defaults`), then the overrides.

    overrides: `method.field` or `ce` -> value; settings of methods that are not in the combination are ignored here (their
    existence is checked by `check_override`). Raises `InputError` for unknown methods, fields, types.
    """
    overrides = {k: check_override(k, v) for k, v in (overrides or {}).items()}
    words = [w.strip() for w in text.split("+")]
    if words == [PLAIN]:
        return MethodSpec(PLAIN, (), float(overrides.get("ce", 1.0)))
    if PLAIN in words:
        raise InputError(f"method '{text}': {PLAIN} is training without any method; allowed: it alone")
    if len(set(words)) < len(words):
        raise InputError(f"method '{text}' names a method twice; allowed: each once")
    for w in words:
        if w not in _registry():  # here, unlike in `get`, plain is a name too
            raise unknown("method", w, [PLAIN, *names()])
    classes = [get(w) for w in words]
    classes.sort(key=lambda m: (m.is_wrapper(), m.name == "kd", m.name))
    losses = [m for m in classes if not m.is_wrapper()]
    for wrapper in classes[len(losses) :]:
        read = ask(wrapper, "needs", wrapper.Config()).teacher
        if not any(read & ask(m, "needs", m.Config()).teacher for m in losses):
            what = " and ".join(sorted(read))
            raise InputError(
                f"'{text}': {wrapper.name} changes the {what} that other methods read of the teacher, and none here does; "
                f"allowed: one that does, e.g. kd+{wrapper.name}"
            )
    components = []
    for method in classes:
        values = dict(method.combined_defaults) if len(losses) > 1 else {}
        values |= ask(method, "pair_defaults", teacher, student)
        for other in classes:
            if other is not method:
                values |= ask(other, "partner_defaults", method.name, teacher, student)
        own = {
            k.partition(".")[2]: v
            for k, v in overrides.items()
            if k.partition(".")[0] == method.name and "." in k
        }
        components.append(Component(method, ask(method, "Config", **{**values, **own})))
    if sum(m.task_loss is not Method.task_loss for m in classes) > 1:
        raise InputError(
            f"'{text}': more than one of these methods replaces the cross-entropy; allowed: one that does"
        )
    if len({m.sampler.name for m in classes} - {SHUFFLE.name}) > 1:
        raise InputError(
            f"'{text}': these methods need different samplers; allowed: one that is not the usual shuffle"
        )
    if not all(m.trains_student for m in classes) and len(classes) > 1:
        raise InputError(f"'{text}': a method that trains no student cannot be combined; allowed: it alone")
    ce = components[0].config.ce if len(losses) == 1 else 1.0
    explicit = {v for k, v in overrides.items() if k.endswith(".ce") and k.partition(".")[0] in words}
    if len(explicit) > 1:
        raise InputError(
            f"'{text}': its methods are given different weights of the cross-entropy; allowed: one, as ce="
        )
    ce = explicit.pop() if explicit else overrides.get("ce", ce)
    return MethodSpec("+".join(m.name for m in classes), tuple(components), float(ce))


def check_loss(spec: MethodSpec, teacher: str, student: str) -> None:
    """`InputError` where no term of the loss is left, or where settings make a weight negative (a method may have such a term itself)."""
    weights = _weights(spec)
    if negative := [term for term, weight in weights.items() if weight < 0]:
        usual = _weights(parse(spec.name, {}, teacher, student))
        for term in negative:
            if usual.get(term, 0.0) >= 0:
                raise InputError(
                    f"'{spec.name}': the term {term} has weight {weights[term]}; allowed: 0 and more"
                )
    if not any(weights.values()):
        raise InputError(f"'{spec.name}': every term has weight 0; allowed: at least one that is not")


def _weights(spec: MethodSpec) -> dict[str, float]:
    """The full weights of all terms of a loss."""
    found = {"ce": spec.ce} if spec.trains_student else {}
    for component in spec.components:
        found |= component.weights()
    return found


class Objective(nn.Module):
    """The loss of a run: `ce * task loss + sum over components of weight * term`. Its state dict holds all methods' state."""

    def __init__(self, spec: MethodSpec, context: MethodContext, seed_of: Any) -> None:
        """seed_of: `(method name) -> int`, the seed under which that method's modules are built."""
        super().__init__()
        self.spec = spec
        methods = {}
        for c in spec.components:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(c.method.name))
                methods[c.method.name] = c.method(c.config, context).to(context.device)
        self.methods = nn.ModuleDict(methods)

    def run_networks_under(self, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """Gives the methods the context for their own networks' passes (`Method.run_network`)."""
        for m in self:
            m.autocast = autocast

    def method(self, name: str) -> Method:
        found = self.methods[name]
        assert isinstance(found, Method)
        return found

    def __iter__(self) -> Any:
        return iter(self.methods.values())

    def start_epoch(self, epoch: int) -> None:
        for m in self:
            m.start_epoch(epoch)

    def forward(self, steps: Mapping[str, Step]) -> tuple[Tensor, Terms]:
        """`(total, terms)`. `steps` holds the step as each component sees it (own generator); terms are unweighted, `ce` among them."""
        terms: Terms = {}
        total: Tensor | None = None
        wrappers = [m for m in self if m.is_wrapper()]
        for name, m in self.methods.items():
            assert isinstance(m, Method)
            step = steps[name]
            for wrapper in wrappers:
                step = wrapper.transform(step) if wrapper is not m else step
            for term, value in m.loss(step).items():
                terms[term] = value
                part = m.weight_of(term) * value
                total = part if total is None else total + part
        if self.spec.trains_student and self.spec.ce != 0:
            task = None
            for name, m in self.methods.items():
                assert isinstance(m, Method)
                task = m.task_loss(steps[name]) if task is None else task
            if task is None:
                step = next(iter(steps.values()))
                task = F.cross_entropy(step.student.logits, step.labels)
            terms["ce"] = task
            total = self.spec.ce * task if total is None else total + self.spec.ce * task
        if total is None:
            raise InputError(
                f"'{self.spec.name}': every term has weight 0; allowed: at least one that is not"
            )
        return total, terms

    @torch.no_grad()
    def after_step(self) -> None:
        for m in self:
            m.after_step()

    @property
    def predictors(self) -> list[Method]:
        """The methods that put something in the place of the student's own logits at test time."""
        return [m for m in self if type(m).predict is not Method.predict]

    def predict(self, features: Features) -> Tensor:
        for m in self:
            if (logits := m.predict(features)) is not None:
                return logits
        return features.logits
