"""The guard of a run: what its methods may not change, because the other runs of the pack use it too.

A number depends on its run alone. A method could break that without an error: by writing to the teacher's
logits in place, by changing the teacher, or by leaving autocast or another number of threads behind. So:

- Every run has tensors of its own over the memory that the runs share. They count writes separately
  (`Tensor._version`), so a write is noticed, and its run is known, even if students are stepped side by side.
- Settings of PyTorch are compared before and after every function of a method, and put back.
- What goes past the counters (`.data`, `.numpy()`) is found by comparing values: the teacher's and the labels
  after each epoch, a sample of the batch's in each step.

Nothing here waits for the device within an epoch.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.data.stream import Batch
from benchmark.methods import Leak
from benchmark.torch_settings import ALL, OF_THREAD, put_back, read_settings
from models import PARTS, Features, Network

# --- the guard of one run -----------------------------------------------------------------------------------


def alias(tensor: Tensor) -> Tensor:
    """Return a tensor over the same memory that counts its writes separately."""
    return tensor.data


def private_network(net: Network) -> Network:
    """Return a network over the memory of `net`: its modules and the counters of writes are separate."""
    tensors = [*net.parameters(), *net.buffers()]
    memo: dict[int, Any] = {
        id(t): nn.Parameter(alias(t), requires_grad=False) if isinstance(t, nn.Parameter) else alias(t)
        for t in tensors
    }
    return copy.deepcopy(net, memo)


class RunGuard:
    """Watches the methods of one run. It is the `Watch` of the run's `Objective`."""

    def __init__(self, teacher: Network | None, train_labels: Tensor) -> None:
        self.teacher = None if teacher is None else private_network(teacher)
        """The teacher as this run's methods see it."""
        self.train_labels = alias(train_labels)
        """The labels of the training set as this run's methods see them."""
        self.side_by_side = False
        """Whether another run is stepped at this time, which may change the settings of the process."""
        self._modules = [] if self.teacher is None else list(self.teacher.modules())
        self._teacher = {} if self.teacher is None else dict(named_tensors(self.teacher))
        self._kept = [*self._teacher.values(), self.train_labels]
        self._versions = self._count()
        self._step: tuple[Tensor, ...] = ()
        self._batch: Batch | None = None
        self._features: Mapping[str, Features] = {}

    def _count(self) -> int:
        return sum([t._version for t in self._kept])

    def share(self, batch: Batch, teachers: Mapping[str, Features]) -> tuple[Batch, Mapping[str, Features]]:
        """Return what a step's methods read, as tensors of this run."""
        self._batch = Batch(
            views={name: alias(x) for name, x in batch.views.items()},
            labels=alias(batch.labels),
            indices=alias(batch.indices),
            mix=None if batch.mix is None else alias(batch.mix),
        )
        self._features = {name: features.map(alias) for name, features in teachers.items()}
        self._step = tuple(tensors_of(self._batch, self._features))
        return self._batch, self._features

    @contextlib.contextmanager
    def step(self, method: str) -> Iterator[None]:
        """Check what a step leaves behind outside of the functions of its methods.

        Those are hooks that a method registered, for example on the student, and its backward pass.
        """
        before = self.before()
        try:
            try:
                yield
            except Leak:
                raise
            except Exception:
                self.after(method, "its step", before)
                raise
            self.after(method, "its step", before)
        finally:
            self._step, self._batch, self._features = (), None, {}

    def before(self) -> list[Any]:
        return read_settings(OF_THREAD if self.side_by_side else ALL)

    def after(self, method: str, hook: str, before: list[Any]) -> None:
        """Raise `Leak` if a setting or a shared tensor was changed. Settings are put back."""
        settings = OF_THREAD if len(before) == len(OF_THREAD) else ALL
        if read_settings(settings) != before:
            what = "; ".join(put_back(settings, before))
            raise Leak(
                method,
                hook,
                f"it leaves {what} changed; use a `with` block, or put it back at the end",
                restored=read_settings(settings) == before,
            )
        for tensor in self._step:
            if tensor._version:
                name = self._name(tensor)
                raise Leak(
                    method,
                    hook,
                    f"it writes to {name} in place, which all runs of the pack read; write to {name}.clone()",
                )
        if self._count() != self._versions:
            self._versions = self._count()
            raise Leak(method, hook, self._kept_problem())
        if any(m.training for m in self._modules):
            assert self.teacher is not None
            self.teacher.eval()
            raise Leak(
                method,
                hook,
                "it puts the teacher into train mode; train a copy: copy.deepcopy(context.teacher_net)",
            )

    def _kept_problem(self) -> str:
        if self.train_labels._version:
            return (
                "it writes to context.train_labels in place, which all runs of the pack read; "
                "write to context.train_labels.clone()"
            )
        written = next((name for name, t in self._teacher.items() if t._version), "its weights")
        return (
            f"it changes the teacher ({written}), which all runs of the pack read; "
            "change a copy: copy.deepcopy(context.teacher_net)"
        )

    def _name(self, tensor: Tensor) -> str:
        """Return how a method writes this tensor of a step."""
        assert self._batch is not None
        for name in ("labels", "indices", "mix"):
            if getattr(self._batch, name) is tensor:
                return f"step.{name}"
        for view, x in self._batch.views.items():
            if x is tensor:
                return f"step.images[{view!r}]"
        for view, features in self._features.items():
            teacher = "step.teacher" if view == "normal" else f"step.teachers[{view!r}]"
            for part in filter(features.has, PARTS):
                value = getattr(features, part)
                if value is tensor:
                    return f"{teacher}.{part}"
                if isinstance(value, tuple) and any(v is tensor for v in value):
                    return f"{teacher}.{part}[{next(i for i, v in enumerate(value) if v is tensor)}]"
        return "a tensor of the step"


def named_tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a network with their names."""
    yield from net.named_parameters()
    yield from net.named_buffers()


def tensors_of(batch: Batch, features: Mapping[str, Features]) -> list[Tensor]:
    """Return the tensors of a batch and of the teacher's features that methods read."""
    return [
        batch.labels,
        batch.indices,
        *batch.views.values(),
        *(() if batch.mix is None else (batch.mix,)),
        *(t for f in features.values() for t in f.tensors()),
    ]


# --- values that went past the counters ---------------------------------------------------------------------


def past_the_counters(names: Iterable[str]) -> str:
    """Return what is wrong with a method that changed these tensors without PyTorch's knowledge."""
    return (
        f"it changes {', '.join(list(names)[:3])} (by .data or .numpy()), which all runs of the pack read; "
        "change a copy (.clone(), copy.deepcopy)"
    )


class Originals:
    """Copies of tensors, to find out whether their values have changed, and to put them back."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self._copies = {name: t.detach().clone() for name, t in self.tensors.items()}

    def changed(self) -> list[str]:
        """Return the names of tensors whose values differ from the copies. The host waits for the device."""
        return [name for name, t in self.tensors.items() if not _same(t, self._copies[name])]

    @torch.no_grad()
    def put_back(self) -> None:
        """Copy the values back into the same memory."""
        for name in self.changed():
            self.tensors[name].copy_(self._copies[name])


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


SAMPLE = 64
"""Elements of each tensor of a batch that `Sample` compares."""


class Sample:
    """Some elements of the tensors of a batch, to find out on the device whether they have changed."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._views = [_spread(t) for t in tensors]
        self._copies = [v.clone() for v in self._views]

    def changed(self) -> Tensor:
        """Return whether an element has changed, as a bool tensor on the device."""
        return torch.stack([(v != c).any() for v, c in zip(self._views, self._copies, strict=True)]).any()


def _spread(t: Tensor) -> Tensor:
    """Return up to `SAMPLE` elements of a tensor, evenly spread over its memory, as integers."""
    count = max(1, min(SAMPLE, t.numel()))
    stride = max(1, t.numel() // count)
    end = (t.storage_offset() + (count - 1) * stride + 1) * t.element_size()
    if t.numel() == 0 or end > t.untyped_storage().nbytes():  # an expanded tensor has fewer elements
        return t.detach().reshape(-1)[:0].view(torch.uint8)
    elements = t.detach().as_strided((count,), (stride,))
    return elements.view(torch.int32) if elements.dtype is torch.float32 else elements
