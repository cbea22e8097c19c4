"""The objective: the loss that a run minimises, made of the cross-entropy and the terms of its methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.methods._parse import MethodSpec, nothing_to_minimise
from benchmark.methods.base import Method, MethodContext, Step, Terms

if TYPE_CHECKING:
    from models import Features


class Objective(nn.Module):
    """The loss of a run: `ce * task loss + sum of weight * term` over the terms of all methods.

    The task loss is the cross-entropy with the labels, unless a method replaces it. The state dict holds
    the state of all methods.
    """

    def __init__(self, spec: MethodSpec, context: MethodContext, seed_of: Callable[[str], int]) -> None:
        """Build the methods of `spec`.

        seed_of: returns the seed under which the modules of the method of that name are initialised.
        """
        super().__init__()
        self.spec = spec
        methods = {}
        for c in spec.components:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(c.method.name))
                methods[c.method.name] = c.method(c.config, context).to(context.device)
        self.methods = nn.ModuleDict(methods)

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
            method.start_epoch(epoch)

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
                step = wrapper.transform(step) if wrapper is not method else step
            for term, value in method.loss(step).items():
                terms[term] = value
                weighted = method.weight_of(term) * value
                total = weighted if total is None else total + weighted
        if self.spec.trains_student and self.spec.ce != 0:
            terms["ce"] = self._task_loss(methods, steps)
            weighted = self.spec.ce * terms["ce"]
            total = weighted if total is None else total + weighted
        if total is None:
            raise nothing_to_minimise(self.spec)
        return total, terms

    def _task_loss(self, methods: Mapping[str, Method], steps: Mapping[str, Step]) -> Tensor:
        for name, method in methods.items():
            if (replacement := method.task_loss(steps[name])) is not None:
                return replacement
        step = next(iter(steps.values()))
        return F.cross_entropy(step.student.logits, step.labels)

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the methods' state after the optimiser's step."""
        for method in self:
            method.after_step()

    @property
    def predictors(self) -> list[Method]:
        """The methods that replace the student's logits at test time."""
        return [method for method in self if type(method).predict is not Method.predict]

    def predict(self, features: Features) -> Tensor:
        """Return the logits `[B, C]` that are evaluated at test time, from the student's features."""
        for method in self:
            if (logits := method.predict(features)) is not None:
                return logits
        return features.logits
