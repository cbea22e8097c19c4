"""What a method is: one file with a formula, its hyper-parameters, the features and views it needs, its modules and its loss.

A method is an `nn.Module` that is built once for a run. Everything that it remembers (projections, memory banks, the previous
batch's logits) is a parameter or a buffer, so its `state_dict()` is all that a checkpoint needs. The trainer knows nothing
of any method; it asks these questions:

    skip(config, student, teacher)   a reason why this pair cannot be done, or None
    needs(config)                    which features of which views, of which network, the main stage reads
    init_needs(config), init_...     the same for the stage before epoch 1, where there is one
    weights(config)                  the full weight of each term of the loss
    loss(step)                       the terms, unweighted; the total is  ce * CE + sum of weight * term
    start_epoch(epoch), after_step() places for schedules (warm-up, curricula) and for updates of memory
    pair_defaults(...), partner_defaults(...)    defaults that the paper chose for a pair, or for another method of the combination
    transform(step)                  what the other methods of a combination see instead (only a wrapper, such as `ls`, has it)

To add a method, put one file beside this one (CONTRIBUTING.md has a worked example). Nothing has to be registered.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from benchmark.data.samplers import SHUFFLE, Sampler
from benchmark.data.views import NORMAL, View
from benchmark.errors import InputError
from models import PARTS

if TYPE_CHECKING:
    from models import Features, NetInfo, Network

Terms = dict[str, Tensor]


def param(default: Any, help: str, source: str, *, allowed: tuple[Any, ...] | None = None) -> Any:
    """A documented hyper-parameter: its default (the value that produced the printed table), meaning, and where it comes from."""
    return field(default=default, metadata={"help": help, "source": source, "allowed": allowed})


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Hyper-parameters of a method; subclasses add fields with `param`. All values must be JSON scalars."""

    ce: float = param(
        1.0, "weight of the cross-entropy with the labels", "RepDistiller train_student.py, gamma = 1"
    )


@dataclass(frozen=True)
class Needs:
    """What one stage of a method reads.

    student, teacher: subsets of `PARTS`; an empty `teacher` means that no teacher pass is made for this method.
    views: student's views; the student runs all of them in one train-mode batch. `NORMAL` comes first when it is there.
    teacher_views: the teacher's views (the same unless given); each view is a teacher pass shared by the pack.
    """

    student: frozenset[str] = frozenset({"logits"})
    teacher: frozenset[str] = frozenset()
    views: tuple[View, ...] = (NORMAL,)
    teacher_views: tuple[View, ...] | None = None

    def __post_init__(self) -> None:
        wrong = (self.student | self.teacher) - set(PARTS)
        if wrong:
            raise ValueError(f"unknown parts {sorted(wrong)}; allowed: {', '.join(PARTS)}")
        if strange := [v for v in (*self.views, *(self.teacher_views or ())) if not isinstance(v, View)]:
            raise ValueError(f"{strange} are no views; allowed: those of benchmark/data/views.py")

    @staticmethod
    def of(student: str = "logits", teacher: str = "", views: tuple[View, ...] = (NORMAL,)) -> Needs:
        """`Needs.of("stages logits", "stages")`: parts as words."""
        return Needs(frozenset(student.split()), frozenset(teacher.split()), views)

    @property
    def passes(self) -> tuple[View, ...]:
        """The views that the teacher is run on."""
        if not self.teacher:
            return ()
        return self.views if self.teacher_views is None else self.teacher_views


@dataclass(frozen=True)
class MethodContext:
    """Where a method is put to work: all that it may know when its modules are built.

    student, teacher: shapes and sizes (`models.NetInfo`), None where the run has no such network.
    student_net, teacher_net: the networks themselves; the teacher is frozen and in eval mode.
    train_labels: int64 `[N]`, on the run's device; num_classes: classes of the data set.
    epochs: length of the main stage; batch_size: the recipe's: nominal rows of a raw batch (the last
    of an epoch may be smaller; some samplers make twice as many of it).
    artifacts: for each prerequisite (see `Method.requires`) the state dict that its run left.
    """

    student: NetInfo | None
    teacher: NetInfo | None
    student_net: Network | None
    teacher_net: Network | None
    train_labels: Tensor
    num_classes: int
    epochs: int
    batch_size: int
    device: torch.device
    artifacts: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def num_train(self) -> int:
        return int(self.train_labels.shape[0])


@dataclass
class Step:
    """One training step as a method sees it. B = rows of the raw batch.

    labels, indices: int64 `[B]` (indices: positions in the training set).
    images, students, teachers: by view name; the parts that `needs` names are float32, teachers carry no gradient.
    generator: the run's own random source on the device, for this method and epoch; use it for every draw.

    The epoch is not here: a number that a loss reads must be an attribute, set in `start_epoch`, so that a captured step sees it change.
    """

    labels: Tensor
    indices: Tensor
    images: Mapping[str, Tensor]
    students: Mapping[str, Features]
    teachers: Mapping[str, Features]
    generator: torch.Generator

    @property
    def student(self) -> Features:
        """The student's features of the normal view."""
        return self.students["normal"]

    @property
    def teacher(self) -> Features:
        """The teacher's features of the normal view."""
        return self.teachers["normal"]


class Method(nn.Module):
    """Base class of all methods. See the module's docstring; `kd.py` is the shortest complete example.

    Class attributes that a method states about itself:

    name: lower-case letters, digits and _, as written in tables and on the command line.
    title: the name as papers print it; formula: plain text; paper: authors, venue and year; bibtex: one entry.
    revision: raise it when the loss is mended, so that records of the old loss no longer count.
    source: a hash of the method's file as it was loaded; set when it is found.
    at_test: what the student keeps at test time beyond itself; "" for most, which leave a bare student.
    combined: defaults that differ when the method is one of several (`x+kd`), by field name of its config.
    init_epochs: length of the initialisation stage in the paper's schedule (scaled with it), 0 for none.
    trains_student: False for a run that leaves only the method's own modules (SSKD's teacher head).
    sampler: how an epoch is cut into batches; runs of a pack share it.
    self_teacher: True if the teacher is the plain training of the student's own architecture; the pair is `none:student` then.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    bibtex: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    source: ClassVar[str] = ""
    at_test: ClassVar[str] = ""
    combined_defaults: ClassVar[Mapping[str, Any]] = {}
    init_epochs: ClassVar[int] = 0
    trains_student: ClassVar[bool] = True
    sampler: ClassVar[Sampler] = SHUFFLE
    self_teacher: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    """The context for `run_network`; the execution's, where a run is opened."""

    def __init__(self, config: Any, context: MethodContext) -> None:
        """Builds the method's modules. Called under a seed of its own, so plain `nn.Linear(...)` is reproducible."""
        super().__init__()
        self.config = config

    # --- asked of the class, before anything is built -------------------------------------------------------------------

    @classmethod
    def skip(cls, config: Any, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        """Why this method cannot be done on this pair (printed in the table as N/A), or None."""
        return None

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """What the main stage reads."""
        return Needs()

    @classmethod
    def init_needs(cls, config: Any) -> Needs:
        """What the initialisation stage reads; its `student` part may be empty (no student pass is made then)."""
        return Needs()

    @classmethod
    def requires(cls, config: Any) -> tuple[str, ...]:
        """Names of methods (with `trains_student = False`) whose run on the same teacher must be done first."""
        return ()

    @classmethod
    def pair_defaults(cls, teacher: str, student: str) -> Mapping[str, Any]:
        """Defaults that differ on this pair of networks, by field name of the config, where the paper tuned them by pair."""
        return {}

    @classmethod
    def partner_defaults(cls, other: str, teacher: str, student: str) -> Mapping[str, Any]:
        """Defaults that this method gives to the method `other` of the same combination on this pair (names may be empty: any pair)."""
        return {}

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        """The full weight of each term that `loss` can return: the config's `weight` for a term named as the method, unless this is
        overridden. A term of weight 0 must not be computed (see `is_active`)."""
        return {cls.name: config.weight} if hasattr(config, "weight") else {}

    @classmethod
    def buffer_elements(cls, config: Any, num_train: int, num_classes: int, teacher: NetInfo | None) -> int:
        """Numbers (of 4 bytes) that its buffers hold where they are many: memory banks, queues, what is kept of every image. For plans."""
        return 0

    @classmethod
    def is_wrapper(cls) -> bool:
        """Whether it changes what the other methods of a combination see (it has `transform`). A wrapper cannot stand alone."""
        return cls.transform is not Method.transform

    @classmethod
    def schedule(cls) -> dict[str, Any]:
        """Protocol fields that this method's own run replaces, in the paper's length (e.g. epochs=60, milestones=(30, 45))."""
        return {}

    # --- asked of the built method --------------------------------------------------------------------------------------

    def weight_factor(self) -> float:
        """What every weight is multiplied by in this epoch: for a warm-up, a number that `start_epoch` sets."""
        return 1.0

    def weight_of(self, term: str) -> float:
        """The weight of a term of `loss` in this epoch; `InputError` for one that `weights` does not name."""
        weights = self.weights(self.config)
        if term not in weights:
            raise InputError(
                f"method '{self.name}': weights() has no weight for the term '{term}' of its loss; "
                f"allowed: {', '.join(weights) or 'none'} "
                "(a term is called as its method, and weighs the config's `weight`, unless weights() is overridden)"
            )
        return self.weight_factor() * weights[term]

    def is_active(self, term: str) -> bool:
        """Whether a term's weight is not zero."""
        return self.weight_of(term) != 0

    def run_network(self, network: nn.Module, x: Tensor) -> Tensor:
        """A pass of one of the method's own networks (convolutions over maps: a regressor, a translator) in the networks' precision; the
        value in float32. The rest of a loss is float32 throughout."""
        with self.autocast():
            out: Tensor = network(x)
        return out.float() if out.dtype is torch.bfloat16 else out

    def loss(self, step: Step) -> Terms:
        """The terms of the loss, unweighted scalars (float32), named as in `weights()`; {} if there is none in the main stage."""
        return {}

    def transform(self, step: Step) -> Step:
        """The step as the other methods of the combination see it; the cross-entropy with the labels keeps the step as it is."""
        return step

    def task_loss(self, step: Step) -> Tensor | None:
        """Replaces the cross-entropy with the labels on the normal view; None leaves it as it is."""
        return None

    def predict(self, features: Features) -> Tensor | None:
        """Replaces the student's logits at test time (needs the parts named by `needs`); None leaves them as they are."""
        return None

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch of the main stage (counted from 1); the place for schedules. Must depend on `epoch` alone."""

    def after_step(self) -> None:
        """Called after each optimiser step of the main stage, without gradients; the place for what must not change before the backward
        pass has read it (memory banks)."""

    # --- the initialisation stage (only with init_epochs > 0) --------------------------------------------------------------

    def init_modules(self, student: Network | None) -> Iterable[nn.Module]:
        """Modules that train in the initialisation stage, in train mode; all others are frozen and in eval mode."""
        return ()

    def init_lr(self, student_name: str, lr: float) -> float:
        """Constant learning rate of the initialisation stage; `lr` is the main stage's initial one."""
        return lr

    def init_loss(self, step: Step) -> Terms:
        """Terms of the initialisation stage; their plain sum is minimised."""
        raise NotImplementedError

    def after_init(self) -> None:
        """Called once when the initialisation stage has ended (to freeze what must not train any more)."""


def hyper_parameters(config_class: type[MethodConfig]) -> list[dict[str, Any]]:
    """Every field of a config: name, type, default, help, source, allowed values. For `methods NAME` and the docs."""
    rows = []
    for f in dataclasses.fields(config_class):
        rows.append(
            {
                "name": f.name,
                "type": f.type if isinstance(f.type, str) else f.type.__name__,
                "default": f.default,
                "help": f.metadata.get("help", ""),
                "source": f.metadata.get("source", ""),
                "allowed": f.metadata.get("allowed"),
            }
        )
    return rows
