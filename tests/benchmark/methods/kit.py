"""Helpers for the tests of methods: small contexts, features and steps, and guards that detect forbidden
operations.

    info = tiny_info(stages=((3, 4, 4), (5, 2, 2)), embedding=6)   # sizes of a network that does not exist
    context = make_context(info, tiny_info(...), n=16)   # or by name: make_context("resnet8", "resnet14")
    method = build("at", context, weight=1000.0)         # in fp64, initialised under a fixed seed
    student = fake_features(context.student, batch=6, requires_grad=True)
    step = make_step(context, student, fake_features(context.teacher, batch=6, seed=1))
    method.loss(step)["at"]
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import models
from benchmark import methods
from benchmark.data.samplers import join
from benchmark.data.views import NORMAL, RawBatch
from benchmark.methods import IN_TRAIN, Method, MethodContext, Needs, Step
from models import PARTS, Features, NetInfo

Shape = tuple[int, int, int]
Views = Features | Mapping[str, Features] | None


def tiny_info(
    stages: tuple[Shape, ...] = ((3, 4, 4), (4, 2, 2)),
    embedding: int = 5,
    stem: Shape = (2, 4, 4),
    name: str = "tiny",
) -> NetInfo:
    """Return sizes of a network that does not exist, small enough for plain loops."""
    return NetInfo(
        name=name,
        params=0,
        macs=0,
        convolutions=0,
        map_elements=0,
        stem_shape=stem,
        stage_shapes=stages,
        embedding_dim=embedding,
    )


def make_context(
    student: str | NetInfo | None = "resnet8",
    teacher: str | NetInfo | None = "resnet14",
    *,
    num_classes: int = 10,
    n: int = 64,
    epochs: int = 4,
    batch_size: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    artifacts: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> MethodContext:
    """Return a context with `n` training labels in random order; all classes are about equally frequent.

    student, teacher: the name of a network, which is built (the teacher frozen and in eval mode), or a
    `NetInfo`, for which no network is built.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % num_classes)[torch.randperm(n, generator=generator)]
    nets: list[Any] = []
    for which in (student, teacher):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + len(nets))
            nets.append(
                models.build(which, num_classes).to(device, dtype) if isinstance(which, str) else None
            )
    if nets[1] is not None:
        nets[1].eval().requires_grad_(False)
    infos = [
        models.info(which, num_classes) if isinstance(which, str) else which for which in (student, teacher)
    ]
    return MethodContext(
        student=infos[0],
        teacher=infos[1],
        student_net=nets[0],
        teacher_net=nets[1],
        train_labels=labels.to(device),
        num_classes=num_classes,
        epochs=epochs,
        batch_size=batch_size,
        device=torch.device(device),
        artifacts=dict(artifacts or {}),
    )


def build(
    name: str, context: MethodContext, *, dtype: torch.dtype = torch.float64, seed: int = 0, **settings: Any
) -> Method:
    """Build the method `name`, its modules initialised under `seed`. `settings` are fields of its config."""
    method_class = methods.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method_class(method_class.Config(**settings), context).to(context.device, dtype)


def fake_features(
    info: NetInfo | None,
    batch: int = 6,
    *,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
    seed: int = 0,
    num_classes: int = 10,
    device: str = "cpu",
) -> Features:
    """Return random features of a network's shapes. A stage's map is relu(pre-activation + 0.2).

    requires_grad: whether every tensor is a leaf that requires a gradient.
    """
    assert info is not None
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(device, dtype)

    preacts = tuple(draw(*shape) for shape in info.stage_shapes)
    stages = tuple((p + 0.2).relu() for p in preacts)
    features = Features(
        stem=draw(*info.stem_shape).relu(),
        stages=stages,
        preacts=preacts,
        embedding=draw(info.embedding_dim),
        logits=draw(num_classes),
    )
    return features.map(lambda t: t.detach().clone().requires_grad_(requires_grad))


def make_step(
    context: MethodContext,
    student: Views = None,
    teacher: Views = None,
    *,
    labels: Tensor | None = None,
    indices: Tensor | None = None,
    images: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Step:
    """Return a step.

    student, teacher: features of the normal view, or of each view by name. indices: by default 0 to B - 1.
    labels: by default those of the training set at the indices.
    """
    students = {"normal": student} if isinstance(student, Features) else dict(student or {})
    teachers = {"normal": teacher} if isinstance(teacher, Features) else dict(teacher or {})
    if indices is None:
        some = (students or teachers).values()
        indices = torch.arange(
            len(next(iter(some)).logits) if labels is None else len(labels), device=context.device
        )
    return Step(
        labels=context.train_labels[indices] if labels is None else labels,
        indices=indices,
        images=images or {},
        students=students,
        teachers=teachers,
        generator=torch.Generator().manual_seed(seed),
    )


def gradients(total: Tensor, features: Features) -> dict[str, bool]:
    """Return which parts of `features` (leaves) have a non-zero gradient of `total`. All must be finite."""
    reached = {}
    for part in PARTS:
        value = getattr(features, part)
        tensors = value if isinstance(value, tuple) else (value,)
        found: tuple[Tensor | None, ...] = (None,)
        if total.requires_grad:
            found = torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
        assert all(bool(g.isfinite().all()) for g in found if g is not None), (
            f"the gradient of {part} is not finite"
        )
        reached[part] = any(g is not None and bool(g.any()) for g in found)
    return reached


def pooled(plane: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Adaptive average pooling of an H x W plane in plain loops.

    Bin i covers floor(i H / h) to ceil((i + 1) H / h).
    """

    def bins(size: int, out: int) -> list[range]:
        return [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]

    def mean(rows: range, cols: range) -> float:
        return sum(plane[r][c] for r in rows for c in cols) / (len(rows) * len(cols))

    return [[mean(r, c) for c in bins(len(plane[0]), width)] for r in bins(len(plane), height)]


def stage_pairs(student: Features, teacher: Features) -> list[tuple[Any, Any]]:
    """Return paired stage maps as nested lists `[B][C][H][W]`; the larger of a pair is pooled to the
    smaller."""
    pairs = []
    for s, t in zip(student.stages, teacher.stages, strict=False):
        height, width = min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])
        pairs.append(
            tuple([[pooled(p, height, width) for p in image] for image in m.tolist()] for m in (s, t))
        )
    return pairs


# --- guards -------------------------------------------------------------------------------------------------


class Unreadable:
    """Stands in for a tensor that must not be read: any use of it is an AssertionError."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a tensor was read that must not be")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"a tensor that must not be read was given to {getattr(func, '__name__', func)}")

    __getattr__ = __iter__ = __getitem__ = __len__ = __bool__ = _fail


class _NoSync(TorchDispatchMode):
    """Fails on every operator for whose result's shape or value the host must wait."""

    FORBIDDEN = (
        "_local_scalar_dense",
        "item",
        "nonzero",
        "is_nonzero",
        "equal",
        "masked_select",
        "unique_dim",
        "_unique",
        "_unique2",
        "unique_consecutive",
        "repeat_interleave.Tensor",
        "bincount",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.FORBIDDEN or f"{name}.{func._overloadname}" in self.FORBIDDEN:
            raise AssertionError(f"host synchronisation: aten::{name}")
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in masks):
            raise AssertionError(f"host synchronisation: aten::{name} with a mask")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_sync() -> Iterator[None]:
    """Return a context in which any operation fails that makes the host wait for the device.

    Such are `.item()`, `if tensor` and masks as indices. `Tensor.tolist`, `.numpy`, `.cpu` and
    `torch.allclose` are not detected on the CPU; a step on the meta device detects them.
    """
    with _NoSync():
        yield


# --- real networks and views --------------------------------------------------------------------------------


def raw_batch(context: MethodContext, indices: Tensor, seed: int = 0) -> RawBatch:
    """Return random images of 32x32, one for each index; the same index and seed give the same image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (context.num_train, 32, 32, 3), generator=generator, dtype=torch.uint8)
    half = torch.full((3,), 0.5)
    return RawBatch(images[indices], context.train_labels[indices], indices, half, half)


def batches(method_class: type[Method], context: MethodContext, epoch_seed: int = 0) -> list[Tensor]:
    """Return an epoch of the method's sampler: positions in the training set, with the last smaller batch."""
    generator = torch.Generator().manual_seed(epoch_seed)
    sampler = method_class.sampler
    epoch = sampler.epoch(context.train_labels, context.batch_size, False, generator)
    return [batch for batch, _ in join(epoch, None)] if sampler.joined else epoch


def view_images(context: MethodContext, needs: Needs, indices: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Return every view in `needs` of random images, as the trainer makes it: `[copies * B, 3, 32, 32]`."""
    raw = raw_batch(context, indices, seed)
    views = dict.fromkeys((NORMAL, *needs.views, *needs.passes, *needs.images))
    draws = {
        v.name: v.draw(len(indices), torch.Generator().manual_seed(seed + 1 + k)) for k, v in enumerate(views)
    }
    return {v.name: v.make(raw, draws[v.name], draws["normal"]) for v in views}


def real_step(
    context: MethodContext,
    needs: Needs,
    indices: Tensor,
    *,
    seed: int = 0,
    all_parts: bool = False,
    wrap: Callable[[Features], Features] | None = None,
) -> Step:
    """Return a step as the trainer makes it, with the context's networks. The student runs all views in one
    batch, or each by itself if `needs` says so.

    all_parts: keep the parts that `needs` does not name; reading one of them raises `MissingPart` otherwise.
    wrap: applied to the features of each pass of the student.
    """
    images = view_images(context, needs, indices, seed)
    students: dict[str, Features] = {}
    if needs.student and context.student_net is not None:
        dtype = next(context.student_net.parameters()).dtype
        inputs = [images[v.name].to(dtype) for v in needs.views]
        if needs.separate_passes:
            outputs = [context.student_net.features(x) for x in inputs]
        else:
            features, ends = context.student_net.features(torch.cat(inputs)), [0]
            for x in inputs:
                ends.append(ends[-1] + len(x))
            outputs = [features.rows(slice(a, b)) for a, b in itertools.pairwise(ends)]
        for view, rows in zip(needs.views, outputs, strict=True):
            rows = rows if wrap is None else wrap(rows)
            students[view.name] = rows if all_parts else rows.select(needs.student)
    teachers: dict[str, Features] = {}
    if context.teacher_net is not None:
        for view in needs.passes:
            with torch.no_grad():
                found = context.teacher_net.features(
                    images[view.name].to(next(context.teacher_net.parameters()).dtype)
                )
            teachers[view.name] = found if all_parts else found.select(needs.teacher)
        if needs.teacher_in_train:
            dtype = next(context.teacher_net.parameters()).dtype
            with torch.no_grad(), models.batch_statistics(context.teacher_net):
                found = context.teacher_net.features(images["normal"].to(dtype))
            teachers[IN_TRAIN] = found if all_parts else found.select(needs.teacher_in_train)
    named = {v.name for v in (*needs.views, *needs.passes, *needs.images)}
    return Step(
        labels=context.train_labels[indices],
        indices=indices,
        images={k: v for k, v in images.items() if k in named},
        students=students,
        teachers=teachers,
        generator=torch.Generator().manual_seed(seed + 100),
    )


def on_meta(step: Step, needs: Needs) -> Step:
    """Return the step on the meta device: reading a value, or mixing in a CPU tensor, raises an error."""

    def move(features: Features, parts: frozenset[str], grad: bool) -> Features:
        return features.select(parts).map(lambda t: t.detach().to("meta").requires_grad_(grad))

    return dataclasses.replace(
        step,
        labels=step.labels.to("meta"),
        indices=step.indices.to("meta"),
        images={k: v.to("meta") for k, v in step.images.items()},
        students={k: move(v, needs.student, True) for k, v in step.students.items()},
        teachers={
            k: move(v, needs.teacher_in_train if k == IN_TRAIN else needs.teacher, False)
            for k, v in step.teachers.items()
        },
    )


def context_for(method_class: type[Method], **overrides: Any) -> MethodContext:
    """Return a context in which this method can be built, with what the methods that it requires leave."""
    student = "resnet8" if method_class.trains_student else None
    context = make_context(**{"student": student, **overrides})
    left = {}
    for name in method_class.requires(method_class.Config()):
        before = methods.get(name)
        left[name] = build(
            name, context_for(before, **{**overrides, "student": None}), dtype=torch.float32
        ).state_dict()
    return dataclasses.replace(context, artifacts=left)


def weights(method: Method) -> dict[str, float]:
    """Return the weights of a method's terms in this epoch."""
    return {term: method.weight_of(term) for term in method.weights(method.config)}
