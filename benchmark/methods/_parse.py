"""Parsing: from text such as `crd+kd` and settings such as `crd.weight=0.5` to a `MethodSpec`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from benchmark import plugins
from benchmark.data.samplers import SHUFFLE, Sampler
from benchmark.data.views import NORMAL, View
from benchmark.errors import InputError, unknown
from benchmark.methods._pairs import PROTOCOL, constants_of
from benchmark.methods._registry import PLAIN, build_config, call_classmethod, get, names
from benchmark.methods.base import Method, MethodConfig, Needs
from benchmark.settings import coerce

if TYPE_CHECKING:
    from models import NetInfo


@dataclass(frozen=True)
class Component:
    """A method of a combination, with its resolved hyper-parameters.

    Its functions call the class methods of the same name of `Method`.
    """

    method: type[Method]
    config: MethodConfig

    def needs(self) -> Needs:
        """Return what the main stage reads."""
        needs: Needs = call_classmethod(self.method, "needs", self.config)
        return needs

    def init_needs(self) -> Needs:
        """Return what the initialisation stage reads."""
        needs: Needs = call_classmethod(self.method, "init_needs", self.config)
        return needs

    def stages(self) -> list[Needs]:
        """Return what each stage reads: the main one, then the initialisation if there is one."""
        return [self.needs(), *([self.init_needs()] if self.method.init_epochs else [])]

    def weights(self) -> dict[str, float]:
        """Return the weight of each term of the loss, without a warm-up's factor."""
        return dict(call_classmethod(self.method, "weights", self.config))

    def skip(self, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        """Return why the method cannot train this pair, or None."""
        reason = call_classmethod(self.method, "skip", self.config, student, teacher)
        return str(reason) if reason else None

    def missing_part(self, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        """Return which part of the features the method reads and a network of the user's lacks, or None."""
        stages = self.stages()
        read_by_student = frozenset[str]().union(*(n.student for n in stages))
        read_of_teacher = frozenset[str]().union(*(n.teacher | n.teacher_in_train for n in stages))
        for net, parts in ((student, read_by_student), (teacher, read_of_teacher)):
            if net is not None and (missing := parts - net.parts):
                what = "pre-activations" if "preacts" in missing else sorted(missing)[0]
                return f"{net.name} gives no {what}, which {self.method.title or self.method.name} reads"
        return None

    def requires(self) -> tuple[str, ...]:
        """Return the names of the methods whose run on the same teacher must be done first."""
        return tuple(call_classmethod(self.method, "requires", self.config))

    def buffer_elements(self, num_train: int, num_classes: int, teacher: NetInfo | None) -> int:
        """Return the size of the method's large buffers in elements of 4 bytes."""
        return int(
            call_classmethod(self.method, "buffer_elements", self.config, num_train, num_classes, teacher)
        )


@dataclass(frozen=True)
class MethodSpec:
    """A resolved combination of methods."""

    name: str
    """Canonical name: the methods sorted by name, then `kd`, then wrappers; `plain` without a method. So
    `kd+at` and `at+kd` are the same run."""

    components: tuple[Component, ...]
    """The methods, in the order of `name`."""

    ce: float
    """Weight of the cross-entropy. By default, the config's `ce` for a single method (wrappers do not count),
    and 1.0 in a combination."""

    protocol: tuple[tuple[str, Any], ...] = ()
    """Protocol fields that the authors chose for this pair, with their values."""

    def settings(self) -> dict[str, Any]:
        """Return everything about the methods that a run's key depends on, as JSON values."""
        return {
            "ce": self.ce,
            "components": {
                c.method.name: {"revision": c.method.revision, **_key_fields(c.config)}
                for c in self.components
            },
        }

    def skip(self, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        """Return the first component's reason why the pair cannot be trained, or None."""
        for c in self.components:
            if reason := c.missing_part(student, teacher) or c.skip(student, teacher):
                return reason
        return None

    def skip_mixed(self, *, mixup: bool, label_smoothing: bool) -> str | None:
        """Return why the methods cannot be trained with mixed images, or smoothed labels, or None."""
        for c in self.components:
            title = c.method.title or c.method.name
            if (mixup or label_smoothing) and c.method.task_loss is not Method.task_loss:
                return f"{title} replaces the cross-entropy, whose targets the recipe changes"
            if mixup and reads_single_images(c):
                return f"{title} reads labels, indices or further views of single images, which mixup mixes"
        return None

    @property
    def sampler(self) -> Sampler:
        """How an epoch is cut into batches."""
        return next((c.method.sampler for c in self.components if c.method.sampler is not SHUFFLE), SHUFFLE)

    @property
    def trains_student(self) -> bool:
        """Whether the run leaves a trained student."""
        return all(c.method.trains_student for c in self.components)

    @property
    def self_teacher(self) -> bool:
        """Whether the teacher is a plainly trained network of the student's own architecture."""
        return any(c.method.self_teacher for c in self.components)

    @property
    def needs_teacher(self) -> bool:
        """Whether any stage reads a teacher."""
        main = any(c.needs().reads_teacher for c in self.components)
        return main or any(c.init_needs().reads_teacher for c in self.init_stages)

    @property
    def pretrains(self) -> bool:
        """Whether the run leaves a network that is meant to teach others."""
        return not self.components or any(c.method.pretrains for c in self.components)

    @property
    def reads_preacts(self) -> bool:
        """Whether any stage reads the student's pre-activations."""
        stages = [self.needs(), *(c.init_needs() for c in self.init_stages)]
        return any("preacts" in needs.student for needs in stages)

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of the methods whose run on the same teacher must be done first."""
        return tuple(dict.fromkeys(name for c in self.components for name in c.requires()))

    @property
    def init_stages(self) -> tuple[Component, ...]:
        """Components with an initialisation stage, in order."""
        return tuple(c for c in self.components if c.method.init_epochs > 0)

    def needs(self) -> Needs:
        """Return the union of what the components read in the main stage.

        The student's logits of the normal view are always part of it: the cross-entropy reads them.
        """
        parts = [c.needs() for c in self.components]
        views = tuple(dict.fromkeys([NORMAL, *(v for n in parts for v in n.views)]))
        passes: tuple[View, ...] = tuple(dict.fromkeys(v for n in parts for v in n.passes))
        student: frozenset[str] = frozenset()
        if self.trains_student:
            student = frozenset({"logits"}).union(*(n.student for n in parts))
        teacher: frozenset[str] = frozenset().union(*(n.teacher for n in parts))
        in_train: frozenset[str] = frozenset().union(*(n.teacher_in_train for n in parts))
        return Needs(
            student=student,
            teacher=teacher,
            views=views,
            teacher_views=passes,
            images=tuple(dict.fromkeys(v for n in parts for v in n.images)),
            separate_passes=any(n.separate_passes for n in parts),
            teacher_in_train=in_train,
            parts_apart=any(n.parts_apart for n in parts),
        )

    def schedule(self) -> Mapping[str, Any]:
        """Return the protocol fields that the methods replace: by `schedule`, if there is a single method,
        and by their constants for the pair."""
        single = len(self.components) == 1
        fields = call_classmethod(self.components[0].method, "schedule") if single else {}
        return {**fields, **dict(self.protocol)}


def reads_single_images(component: Component) -> bool:
    """Return whether a method may read what belongs to single images, so that mixup would make it wrong.

    That is a sampler of its own, another view than the normal one, or the word `labels` or `indices` in a
    function of the method's file.
    """
    method = component.method
    views = {view.name for needs in component.stages() for view in (*needs.views, *needs.passes)}
    if method.sampler is not SHUFFLE or views - {NORMAL.name}:
        return True
    holders = [*(c for c in method.__mro__ if c not in Method.__mro__), sys.modules[method.__module__]]
    codes = [code for holder in holders for code in _codes(holder, method.__module__)]
    while codes:
        code = codes.pop()
        if {"labels", "indices", "train_labels"} & set(code.co_names):
            return True
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    return False


def _codes(holder: Any, module: str) -> list[CodeType]:
    """Return the code of the functions that a class or module holds and the module defines."""
    functions = [getattr(value, "__func__", value) for value in vars(holder).values()]
    return [f.__code__ for f in functions if isinstance(f, FunctionType) and f.__module__ == module]


def _key_fields(config: MethodConfig) -> dict[str, Any]:
    """Return the values that a run's key contains: all but `ce`, and but the defaults of fields with
    `keep_keys`."""
    return {
        f.name: value
        for f in dataclasses.fields(config)
        if f.name != "ce"
        and ((value := getattr(config, f.name)) != f.default or not f.metadata.get("keep_keys"))
    }


def check_override(key: str, value: Any) -> Any:
    """Return the value of one setting, `METHOD.FIELD` or `ce`, in the type of its field.

    A string, as it comes from the command line, is parsed; any other value must have the type of the field.
    Raises `InputError` for an unknown method or field and for a wrong value.
    """
    if key == "ce":
        return coerce(key, value, float)
    name, _, field_name = key.partition(".")
    fields = {f.name: f for f in dataclasses.fields(get(name).Config)}
    if field_name not in fields:
        raise unknown(f"setting of {name}", field_name, sorted(fields))
    field = fields[field_name]
    return coerce(key, value, type(field.default), field.metadata.get("allowed"))


def parse(
    text: str, overrides: Mapping[str, Any] | None = None, teacher: str = "", student: str = ""
) -> MethodSpec:
    """Return the combination of methods that `text` names, such as `crd+kd`, with its hyper-parameters.

    overrides: values by `METHOD.FIELD` or `ce`. They are all checked; those of methods outside the
        combination have no effect.
    teacher, student: names of the pair's networks; some papers tuned constants by pair.

    Each value comes from the last of these that gives one: the default of the config, `combined_defaults`,
    `pair_constants` of the method, `pair_constants` of the other methods, `pair_defaults`, `partner_defaults`
    of the other methods, the overrides. Raises `InputError` for an unknown method or setting, a wrong value,
    and methods that cannot be combined.
    """
    overrides = {key: check_override(key, value) for key, value in (overrides or {}).items()}
    words = [word.strip() for word in text.split("+")]
    if words == [PLAIN]:
        return MethodSpec(name=PLAIN, components=(), ce=float(overrides.get("ce", 1.0)))
    classes = _classes(text, words)
    losses = [m for m in classes if not m.is_wrapper()]
    _check_wrappers(text, classes, losses)
    components = []
    present = [m.name for m in classes]
    for method in classes:
        values = dict(method.combined_defaults) if len(losses) > 1 else {}
        owners = (method, *(other for other in classes if other is not method))
        tables = [table for owner in owners for table in owner.pair_constants]
        values |= constants_of(method.name, tables, present, teacher, student)
        values |= call_classmethod(method, "pair_defaults", teacher, student)
        for other in classes:
            if other is not method:
                values |= call_classmethod(other, "partner_defaults", method.name, teacher, student)
        prefix = f"{method.name}."
        values |= {k.removeprefix(prefix): v for k, v in overrides.items() if k.startswith(prefix)}
        components.append(Component(method, build_config(method, **values)))
    _check_combination(text, classes)
    return MethodSpec(
        name="+".join(m.name for m in classes),
        components=tuple(components),
        ce=_ce_weight(text, overrides, components, single=len(losses) == 1),
        protocol=_protocol_fields(classes, teacher, student) if len(losses) == 1 else (),
    )


def _protocol_fields(
    classes: Sequence[type[Method]], teacher: str, student: str
) -> tuple[tuple[str, Any], ...]:
    """Return the protocol fields in the methods' constants for this pair; those of wrappers, which come last,
    have precedence."""
    tables = [table for m in classes for table in m.pair_constants]
    found = constants_of(PROTOCOL, tables, [m.name for m in classes], teacher, student)
    return tuple(sorted(found.items()))


def _classes(text: str, words: Sequence[str]) -> list[type[Method]]:
    """Return the methods of these names in canonical order."""
    if PLAIN in words:
        raise InputError(f"method '{text}': `{PLAIN}` cannot be combined with other methods")
    if len(set(words)) < len(words):
        raise InputError(f"method '{text}' contains a method twice; name each method once")
    for word in words:
        if word not in names():  # unlike in `get`, `plain` is among the allowed names here
            raise unknown("method", word, [PLAIN, *names()], plugins.remark_if_none())
    return sorted(map(get, words), key=lambda m: (m.is_wrapper(), m.name == "kd", m.name))


def _check_wrappers(text: str, classes: Sequence[type[Method]], losses: Sequence[type[Method]]) -> None:
    """Raise `InputError` for a wrapper that changes nothing that another method reads."""
    for wrapper in (m for m in classes if m.is_wrapper()):
        changed = call_classmethod(wrapper, "needs", build_config(wrapper)).teacher
        read = [call_classmethod(m, "needs", build_config(m)).teacher for m in losses]
        if not any(changed & parts for parts in read):
            raise InputError(
                f"'{text}': {wrapper.name} changes the teacher's {' and '.join(sorted(changed))}, which no "
                f"other method here reads; combine it with one that does, e.g. kd+{wrapper.name}"
            )


def _check_combination(text: str, classes: Sequence[type[Method]]) -> None:
    """Raise `InputError` for methods that exclude each other."""
    if sum(m.task_loss is not Method.task_loss for m in classes) > 1:
        raise InputError(
            f"'{text}': more than one of these methods replaces the cross-entropy; keep one of them"
        )
    if len({m.sampler.name for m in classes} - {SHUFFLE.name}) > 1:
        raise InputError(f"'{text}': these methods need different samplers, so they cannot be combined")
    if not all(m.trains_student for m in classes) and len(classes) > 1:
        raise InputError(f"'{text}': a method that trains no student cannot be combined with other methods")


def _ce_weight(
    text: str, overrides: Mapping[str, Any], components: Sequence[Component], *, single: bool
) -> float:
    """Return the weight of the cross-entropy: `METHOD.ce`, else `ce`, else the default."""
    explicit = {overrides[key] for c in components if (key := f"{c.method.name}.ce") in overrides}
    if len(explicit) > 1:
        raise InputError(
            f"'{text}': its methods are given different weights of the cross-entropy; set one weight with ce="
        )
    if explicit:
        return float(explicit.pop())
    return float(overrides.get("ce", components[0].config.ce if single else 1.0))


def check_loss(spec: MethodSpec, teacher: str, student: str) -> None:
    """Raise `InputError` if every term of the loss has weight 0, or if the settings made a weight negative.

    A method may have a negative weight by default; such a term is accepted.

    teacher, student: names of the pair's networks.
    """
    weights = _all_weights(spec)
    if negative := [term for term, weight in weights.items() if weight < 0]:
        defaults = _all_weights(parse(spec.name, {}, teacher, student))
        for term in negative:
            if defaults.get(term, 0.0) >= 0:
                raise InputError(
                    f"'{spec.name}': the term {term} has weight {weights[term]}; allowed: 0 and more"
                )
    if not any(weights.values()):
        raise nothing_to_minimise(spec)


def nothing_to_minimise(spec: MethodSpec) -> InputError:
    """Return the error for a loss without a term."""
    return InputError(
        f"'{spec.name}': every term of the loss has weight 0; give at least one term another weight"
    )


def _all_weights(spec: MethodSpec) -> dict[str, float]:
    """Return the weight of every term, including the cross-entropy, without a warm-up's factor."""
    weights = {"ce": spec.ce} if spec.trains_student else {}
    for component in spec.components:
        weights |= component.weights()
    return weights
