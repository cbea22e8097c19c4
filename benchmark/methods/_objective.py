"""The objective: the loss that a run minimises, made of the cross-entropy and the terms of its methods."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.mixup import partners
from benchmark.errors import InputError
from benchmark.methods._calls import MethodError, NoWatch, Watch, as_method_error, call
from benchmark.methods._parse import MethodSpec, nothing_to_minimise
from benchmark.methods.base import Method, MethodContext, Step, Terms, teachers_part
from benchmark.user_code import is_of_the_user_code

if TYPE_CHECKING:
    from models import Features


class Objective(nn.Module):
    """The loss of a run: `ce * task loss + sum of weight * term` over the terms of all methods.

    The task loss is the cross-entropy with the labels, unless a method replaces it. The state dict holds
    the state of all methods.
    """

    def __init__(
        self,
        spec: MethodSpec,
        context: MethodContext,
        seed_of: Callable[[str], int],
        watch: Watch | None = None,
    ) -> None:
        """Build the methods of `spec`.

        seed_of: returns the seed under which the modules of the method of that name are initialised. watch:
        checks what each function of a method leaves behind. Raises `MethodError` for an error in a method,
        as do all functions of this class.
        """
        super().__init__()
        self.spec = spec
        self.label_smoothing = 0.0
        """That of the recipe. It smooths the targets of the cross-entropy, not those of the methods."""
        self.watch: Watch = watch or NoWatch()
        methods = {}
        for c in spec.components:
            with torch.random.fork_rng(devices=[]):
                seed = seed_of(c.method.name)
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
                method = call(self.watch, c.method, "__init__", c.method, c.config, context)
            _refuse_teacher(method, "__init__")
            methods[c.method.name] = method.to(context.device)
        self.methods = nn.ModuleDict(methods)

    def call(self, method: Method, hook: str, *args: Any) -> Any:
        """Return the result of a function of a method. Raises `MethodError` for every error in it."""
        return call(self.watch, type(method), hook, getattr(method, hook), *args)

    def set_mode(self, training: bool) -> None:
        """Put the methods into train or eval mode."""
        self.training = self.methods.training = training
        for method in self:
            self.call(method, "train", training)

    def state_of(self, method: Method) -> dict[str, Any]:
        """Return the state dict of a method."""
        state: dict[str, Any] = self._named("state_dict", method.state_dict)
        return state

    def saved(self) -> dict[str, Any]:
        """Return the state dict."""
        before = self.watch.before()
        state: dict[str, Any] = self._named("state_dict", self.state_dict)
        for method in self:
            self.watch.after(method.name, "state_dict", before)
            _refuse_teacher(method, "state_dict")
        for name, value in state.items():
            if name.endswith("_extra_state"):
                self._check_extra_state(self.method(name.split(".")[1]), value)
        return state

    def _check_extra_state(self, method: Method, value: Any) -> None:
        """Raise `MethodError` if a checkpoint with this extra state could not be written and read back."""
        try:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:
            raise MethodError(
                method.name,
                "get_extra_state",
                "a checkpoint cannot hold what it returns; return tensors, numbers, strings, and lists and "
                "dictionaries of them",
            ) from error

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what `saved` returned."""
        before = self.watch.before()
        self._named("load_state_dict", lambda: self.load_state_dict(state))
        for method in self:
            self.watch.after(method.name, "load_state_dict", before)

    def _named(self, hook: str, function: Callable[[], Any]) -> Any:
        """Return `function()`, which calls functions of all methods. An error names its method."""
        try:
            return function()
        except BaseException as error:
            if not is_of_the_user_code(error) or not len(self.methods):
                raise
            raise as_method_error(self._culprit(error), hook, error) from error

    def blamed(self, hook: str, error: Exception) -> Exception:
        """Return the error as one that names the method in whose code it was raised.

        Returns the error itself if the run has no method.
        """
        return as_method_error(self._culprit(error), hook, error) if len(self.methods) else error

    def _culprit(self, error: BaseException) -> type[Method]:
        """Return the class of the method in whose code the error was raised; the first one if unknown."""
        trace = error.__traceback__
        while trace is not None:
            holder = trace.tb_frame.f_locals.get("self")
            owner = next((m for m in self if any(holder is module for module in m.modules())), None)
            if owner is not None:
                return type(owner)
            trace = trace.tb_next
        return type(next(iter(self)))

    def set_autocast(self, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        """Set the context in which the methods run their own networks (`Method.run_network`)."""
        for method in self:
            method.autocast = autocast

    def method(self, name: str) -> Method:
        """Return the built method `name`."""
        method = self.methods[name]
        assert isinstance(method, Method)
        return method

    def __iter__(self) -> Iterator[Method]:
        return iter(self._by_name().values())

    def _by_name(self) -> dict[str, Method]:
        return {name: self.method(name) for name in self.methods}

    def start_epoch(self, epoch: int) -> None:
        """Prepare the methods for an epoch of the main stage. Epochs count from 1."""
        for method in self:
            self.call(method, "start_epoch", epoch)

    def forward(self, steps: Mapping[str, Step]) -> tuple[Tensor, Terms]:
        """Return the total loss and its unweighted terms, `ce` among them.

        steps: the step for each method by name (they differ in their generator). For a spec without methods,
            a single step under any name.
        """
        terms: Terms = {}
        total: Tensor | None = None
        methods = self._by_name()
        wrappers = [method for method in methods.values() if method.is_wrapper()]
        for name, method in methods.items():
            step = steps[name]
            for wrapper in wrappers:
                step = self.call(wrapper, "transform", step) if wrapper is not method else step
            if step is not steps[name]:
                step = dataclasses.replace(step, before_wrappers=steps[name])
            for term, value in _checked(method, "loss", self.call(method, "loss", step)).items():
                terms[term] = value
                weighted = self._weight(method, term) * value
                total = weighted if total is None else total + weighted
        if self.spec.trains_student and self.spec.ce != 0:
            terms["ce"] = self._task_loss(methods, steps)
            weighted = self.spec.ce * terms["ce"]
            total = weighted if total is None else total + weighted
        if total is None:
            raise nothing_to_minimise(self.spec)
        return total, terms

    def init_loss(self, method: Method, step: Step) -> Terms:
        """Return the terms of the initialisation stage of a method."""
        return _checked(method, "init_loss", self.call(method, "init_loss", step))

    def _weight(self, method: Method, term: str) -> float:
        try:
            return method.weight_of(term)
        except InputError:
            raise  # it names the method
        except BaseException as error:
            if not is_of_the_user_code(error):
                raise
            raise as_method_error(type(method), "weights", error) from error

    def _task_loss(self, methods: Mapping[str, Method], steps: Mapping[str, Step]) -> Tensor:
        for name, method in methods.items():
            if type(method).task_loss is Method.task_loss:
                continue
            replacement: Tensor | None = self.call(method, "task_loss", steps[name])
            if replacement is not None:
                return replacement
        step = next(iter(steps.values()))
        z, smoothing = step.student.logits, self.label_smoothing
        ce = F.cross_entropy(z, step.labels, label_smoothing=smoothing)
        if step.mix is None:
            return ce
        other = F.cross_entropy(z, partners(step.labels), label_smoothing=smoothing)
        return step.mix * ce + (1 - step.mix) * other

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the methods' state after the optimiser's step."""
        for method in self:
            if type(method).after_step is not Method.after_step:
                self.call(method, "after_step")

    @property
    def predictors(self) -> list[Method]:
        """The methods that replace the student's logits at test time."""
        return [method for method in self if type(method).predict is not Method.predict]

    @property
    def saved_projector(self) -> nn.Module | None:
        """The projector that is stored with the student's weights, None for most runs."""
        return next(filter(None, (self.call(method, "saved_projector") for method in self)), None)

    def predict(self, features: Features) -> Tensor:
        """Return the logits `[B, C]` that are evaluated at test time, from the student's features."""
        for method in self:
            logits: Tensor | None = self.call(method, "predict", features)
            if logits is not None:
                return logits
        return features.logits


def _checked(method: Method, hook: str, terms: Any) -> Terms:
    """Return the terms of a loss. Raises `MethodError` if they are not a dictionary."""
    if not isinstance(terms, Mapping):
        raise MethodError(
            method.name,
            hook,
            f"it returns a value of type {type(terms).__name__}; it must return a dictionary of terms",
        )
    return dict(terms)


def _refuse_teacher(method: Method, hook: str) -> None:
    """Raise `MethodError` if a module or tensor of the teacher is part of the method."""
    if (name := teachers_part(method)) is not None:
        raise MethodError(
            method.name,
            hook,
            f"self.{name} belongs to the teacher, so it would be trained and saved with the method; keep "
            "`self.teacher = context.teacher_net`, which stays outside, or a copy (copy.deepcopy)",
        )
