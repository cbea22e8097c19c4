"""What a method is. Read this file to write one; `kd.py` is the shortest complete example.

A method is one file with a subclass of `Method`: its hyper-parameters with the paper's values, the features
that it reads, its trainable modules, and its loss. To add one, put a file beside this one, or into a folder
that the environment variable KD_PLUGINS names (docs/add-your-own.md has a worked example). Nothing has to be
registered.

A run minimises

    total = ce * cross-entropy + sum of weight * term

over the terms that the `loss` of each method returns. Most methods define only `Config`, `needs`, `loss`
and perhaps `__init__`. The functions of a method are called in this order:

    When runs are planned, on the class (nothing is built yet):
        combined_defaults (a mapping)           defaults for a combination
        pair_constants (a tuple)                the authors' constants for each pair of networks
        pair_defaults, partner_defaults         rules for such constants that a table cannot express
        skip, requires                          can this pair be trained? which runs must come first?
        needs, init_needs                       which features of which views the loss reads
        weights, schedule, buffer_elements      weights of the terms, changes to the protocol, buffer sizes

    When a run starts:
        __init__(config, context)               builds the modules, under a seed of the run

    In the initialisation stage, if `init_epochs` is not 0:
        init_modules, init_lr                   what is trained, at which learning rate
        init_loss(step)                         in each step
        after_init()                            at the end of the stage

    In the main stage:
        start_epoch(epoch)                      before each epoch
        transform(step)                         in each step, wrappers only: changes what other methods read
        loss(step), task_loss(step)             in each step, before the backward pass
        weight_factor()                         in each step: the factor of all weights in this epoch
        after_step()                            in each step, after the optimiser

    In an evaluation:
        predict(features)                       replaces the student's logits

    When weights are stored:
        saved_projector()                       stored with them, for runs that the student teaches

Rules for the code of a method (tests check them for every method):

- A method is an `nn.Module`. Everything that it remembers from step to step (projections, memory banks,
  logits of the last batch) is a parameter or a buffer, because a checkpoint holds its `state_dict()` and
  nothing else.
- On a GPU a step is replayed from a CUDA graph. So the loss must not wait for the device (`.item()`,
  boolean masks as indices, `if` on a tensor), buffers are changed in place (`copy_`), and a number that
  changes with the epoch is an attribute that `start_epoch` sets.
- Random draws use `step.generator`, with which a step can be replayed. The global generators of PyTorch,
  Python and NumPy, from which `nn.Dropout` draws, are seeded before each step and each function for this run:
  such draws are repeatable too, but a step with them is not replayed on a GPU.
- What a method reads belongs to all runs of a pack: the step's labels, images and teacher features, the
  teacher, `context.train_labels`. It is not changed in place. Settings of PyTorch (grad mode, autocast,
  threads, precision of matrix products ...) are as before when a function returns.
- The loss is computed in float32. Networks over maps, such as a convolutional regressor, are run by
  `self.run_network(network, x)`, which uses the precision of student and teacher.
- `loss` does not compute a term whose weight is 0: it asks `self.is_active(term)` first.

In the shapes below, B is the number of images in the batch and N the number of training images.
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
from torch.utils.weak import WeakIdKeyDictionary

from benchmark.data.samplers import SHUFFLE, Sampler
from benchmark.data.views import NORMAL, View
from benchmark.errors import InputError
from benchmark.methods._pairs import PairConstants
from models import PARTS

if TYPE_CHECKING:
    from models import Features, NetInfo, Network

IN_TRAIN = "normal, teacher in train mode"
"""The name, beside those of the views, of the teacher's pass in train mode (`Needs.teacher_in_train`)."""

Terms = dict[str, Tensor]
"""Unweighted terms of a loss by name: float32 scalars."""


# --- hyper-parameters ------------------------------------------------------------------------------------


def param(
    default: Any, help: str, source: str, *, allowed: tuple[Any, ...] | None = None, keep_keys: bool = False
) -> Any:
    """Define a hyper-parameter: a field of a `MethodConfig`.

    default: the value that produced the published table.
    help: what it means, in a few words.
    source: where the default comes from: file and option of the original code, or equation of the paper.
    allowed: the only values that it may take; None for any value of the field's type.
    keep_keys: for a field that is added to a method of which records exist, with a default that changes
        nothing: the key of a run contains it only if it has another value.
    """
    metadata = {"help": help, "source": source, "allowed": allowed, "keep_keys": keep_keys}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The hyper-parameters of a method. Subclasses add fields with `param`; values are JSON scalars.

    A field called `weight` is the weight of the loss, see `Method.weights`.
    """

    ce: float = param(
        1.0, "weight of the cross-entropy with the labels", "RepDistiller train_student.py, gamma = 1"
    )


def hyper_parameters(config_class: type[MethodConfig]) -> list[dict[str, Any]]:
    """Return name, type, default, help, source and allowed values of every field of a config."""
    return [
        {
            "name": f.name,
            "type": f.type if isinstance(f.type, str) else f.type.__name__,
            "default": f.default,
            "help": f.metadata.get("help", ""),
            "source": f.metadata.get("source", ""),
            "allowed": f.metadata.get("allowed"),
        }
        for f in dataclasses.fields(config_class)
    ]


# --- what a method reads ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """The features that a stage of a method reads. Features that no method of a run needs are not kept."""

    student: frozenset[str] = frozenset({"logits"})
    """Parts of the student's features: a subset of stem, stages, preacts, embedding, logits (see
    `models.Features`)."""

    teacher: frozenset[str] = frozenset()
    """Parts of the teacher's features. If it is empty, this method causes no teacher pass."""

    views: tuple[View, ...] = (NORMAL,)
    """Augmentations of the batch that the student is run on, in train mode. `NORMAL` comes first."""

    teacher_views: tuple[View, ...] | None = None
    """Views that the teacher is run on, one pass each, shared by all runs of a pack; None for the same as
    `views`."""

    images: tuple[View, ...] = ()
    """Further views whose images alone are read (`Step.images`), without a pass of the student or teacher."""

    separate_passes: bool = False
    """Whether the student is run on each view by itself, in the order of `views`: its batch norms then use
    the statistics of one view, and update their running statistics once for each. False: all views are one
    batch."""

    teacher_in_train: frozenset[str] = frozenset()
    """Parts of the teacher's features that are read from a pass in train mode: over the normal view,
    normalised by the statistics of the batch. The teacher's running statistics, and the passes that other
    methods read, stay as they are."""

    parts_apart: bool = False
    """Whether the student is run on the two parts of a batch one after the other, for samplers whose batches
    have two: its batch norms then use the statistics of one part, and update the running ones twice. This
    needs a run with a single view; with several, the parts stay together."""

    def __post_init__(self) -> None:
        unknown = (self.student | self.teacher | self.teacher_in_train) - set(PARTS)
        if unknown:
            raise ValueError(f"unknown parts {sorted(unknown)}; allowed: {', '.join(PARTS)}")
        views = (*self.views, *(self.teacher_views or ()), *self.images)
        if wrong := [v for v in views if not isinstance(v, View)]:
            raise ValueError(f"views must be `View`s of benchmark/data/views.py, not {wrong}")

    @staticmethod
    def of(student: str = "logits", teacher: str = "", views: tuple[View, ...] = (NORMAL,)) -> Needs:
        """Return needs whose parts are given as words: `Needs.of("stages logits", "stages")`."""
        return Needs(student=frozenset(student.split()), teacher=frozenset(teacher.split()), views=views)

    @property
    def reads_teacher(self) -> bool:
        """Whether the method reads the teacher, in eval or in train mode."""
        return bool(self.teacher or self.teacher_in_train)

    @property
    def passes(self) -> tuple[View, ...]:
        """The views that the teacher is run on in eval mode; none if the method reads no such pass."""
        if not self.teacher:
            return ()
        return self.views if self.teacher_views is None else self.teacher_views


@dataclass(frozen=True)
class MethodContext:
    """All that a method may know about the run when its modules are built."""

    student: NetInfo | None
    """Sizes and shapes of the student; None if the run trains no student."""

    teacher: NetInfo | None
    """Sizes and shapes of the teacher; None if the run has no teacher."""

    student_net: Network | None
    """The student itself."""

    teacher_net: Network | None
    """The teacher itself, frozen and in eval mode. As an attribute of a method (`self.teacher = ...`) it
    stays outside the method: it is neither trained nor saved with it."""

    train_labels: Tensor
    """Labels of the training set: int64 `[N]`, on `device`."""

    num_classes: int
    """Number of classes of the data set."""

    epochs: int
    """Length of the main stage."""

    batch_size: int
    """Images of a batch, as the protocol has it. The last batch of an epoch may be smaller; some samplers
    make batches of twice this size."""

    device: torch.device
    """Device that the run is trained on."""

    artifacts: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """State dicts that the runs of the required methods saved, by method name (see `Method.requires`)."""

    def __post_init__(self) -> None:
        if self.teacher_net is not None:
            for part in (
                *self.teacher_net.modules(),
                *self.teacher_net.parameters(),
                *self.teacher_net.buffers(),
            ):
                _teachers[part] = True

    @property
    def num_train(self) -> int:
        """Number N of training images."""
        return int(self.train_labels.shape[0])


_teachers: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""The modules, parameters and buffers of all teachers, as methods see them."""


def teachers_part(method: nn.Module) -> str | None:
    """Return the name of a teacher's module or tensor that is part of the method; None if there is none."""
    named = (*method.named_modules(), *method.named_parameters(), *method.named_buffers())
    return next((name for name, part in named if part in _teachers), None)


@dataclass
class Step:
    """One training step, as a method sees it.

    It does not contain the epoch, because a captured CUDA graph would keep that value (see the rules in the
    module's docstring).
    """

    labels: Tensor
    """Labels of the images: int64 `[B]`."""

    indices: Tensor
    """Positions of the images in the training set: int64 `[B]`."""

    images: Mapping[str, Tensor]
    """Images of each view by its name: float32 `[copies * B, 3, H, W]`."""

    students: Mapping[str, Features]
    """The student's features of each view by its name: float32, only the parts that `needs` names."""

    teachers: Mapping[str, Features]
    """The teacher's features of each view by its name: float32, without gradient. Those of the pass in train
    mode are under `IN_TRAIN`."""

    generator: torch.Generator
    """Random source on the run's device, seeded for this run, method and epoch. Use it for every draw."""

    first: int | None = None
    """Number of rows in the first part of the batch, for samplers whose batches have two; None if unknown."""

    mix: Tensor | None = None
    """If the recipe mixes images (benchmark/data/mixup.py): the share, a scalar, that each image has of the
    one whose label is in `labels`; the rest is the next one's. None otherwise."""

    before_wrappers: Step | None = None
    """The step as it was before wrappers changed it; None if none did. See `unwrapped`."""

    @property
    def unwrapped(self) -> Step:
        """The step without the changes of wrappers, for the terms of a method that they leave alone."""
        return self if self.before_wrappers is None else self.before_wrappers

    @property
    def student(self) -> Features:
        """The student's features of the normal view."""
        return self.students["normal"]

    @property
    def teacher(self) -> Features:
        """The teacher's features of the normal view."""
        return self.teachers["normal"]

    @property
    def teacher_in_train(self) -> Features:
        """The teacher's features of the normal view, from the pass in train mode."""
        return self.teachers[IN_TRAIN]


# --- the base class --------------------------------------------------------------------------------------


class Method(nn.Module):
    """Base class of all methods. The module's docstring says when each function is called."""

    name: ClassVar[str] = ""
    """Name in tables and on the command line: lower-case letters, digits and _. The file of a built-in method
    has the same name."""

    title: ClassVar[str] = ""
    """Name as papers write it."""

    formula: ClassVar[str] = ""
    """The loss in one line of plain text."""

    paper: ClassVar[str] = ""
    """Authors, title, venue and year in one line."""

    bibtex: ClassVar[str] = ""
    """One BibTeX entry."""

    revision: ClassVar[int] = 1
    """Version of the loss. Raise it when the loss is corrected, so that older records no longer count."""

    source: ClassVar[str] = ""
    """Hash of the method's file; set by the registry."""

    at_test: ClassVar[str] = ""
    """What is needed at test time besides the student itself; "" for most methods."""

    combined_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of config fields that differ if the method is combined with others (`x+kd`)."""

    pair_constants: ClassVar[tuple[PairConstants, ...]] = ()
    """Tables of the constants that the authors chose for each pair of networks, each with its source."""

    init_epochs: ClassVar[int] = 0
    """Epochs of the initialisation stage in the paper's schedule; scaled with the schedule. 0 for no such
    stage."""

    trains_student: ClassVar[bool] = True
    """False if a run trains only the method's own modules (the head of SSKD's teacher)."""

    pretrains: ClassVar[bool] = False
    """Whether networks that this method has trained, without a teacher, teach others
    (`Protocol.teacher_method`)."""

    sampler: ClassVar[Sampler] = SHUFFLE
    """How an epoch is cut into batches. All runs of a pack use the same sampler."""

    self_teacher: ClassVar[bool] = False
    """Whether the teacher is a plainly trained network of the student's own architecture. The pair is then
    written `none:student`."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """The class of the hyper-parameters."""

    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    """Returns the precision context of `run_network`; set by the trainer."""

    def __init__(self, config: Any, context: MethodContext) -> None:
        """Build the method's modules.

        It is called under a seed of the run, so modules such as `nn.Linear(...)` are initialised
        reproducibly.

        config: an instance of `Config`.
        """
        super().__init__()
        self.config = config

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. A module of the teacher does not become a sub-module."""
        if isinstance(value, nn.Module) and value in _teachers:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # --- class methods: called before anything is built ----------------------------------------------------

    @classmethod
    def skip(cls, config: Any, student: NetInfo | None, teacher: NetInfo | None) -> str | None:
        """Return why this pair cannot be trained, in one line, or None.

        The table shows N/A with the reason.
        """
        return None

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Return what the main stage reads."""
        return Needs()

    @classmethod
    def init_needs(cls, config: Any) -> Needs:
        """Return what the initialisation stage reads.

        With an empty `student`, no student pass is made in it.
        """
        return Needs()

    @classmethod
    def requires(cls, config: Any) -> tuple[str, ...]:
        """Return the names of methods whose run on the same teacher must be done first.

        Those methods have `trains_student = False`. `MethodContext.artifacts` holds the state dicts that
        their runs save.
        """
        return ()

    @classmethod
    def pair_defaults(cls, teacher: str, student: str) -> Mapping[str, Any]:
        """Return defaults of config fields for this pair of networks.

        For a rule; single values belong into `pair_constants`, which `methods NAME` prints.
        """
        return {}

    @classmethod
    def partner_defaults(cls, other: str, teacher: str, student: str) -> Mapping[str, Any]:
        """Return defaults of config fields of the method `other`, for a combination of it with this method.

        teacher, student: names of the networks; "" if the pair is not known.
        """
        return {}

    @classmethod
    def weights(cls, config: Any) -> dict[str, float]:
        """Return the weight of each term that `loss` can return.

        By default there is one term, which has the method's name and the weight `config.weight`. Names of
        other terms begin with the method's name and an underscore. `loss` must not compute a term of weight
        0 (see `is_active`).
        """
        return {cls.name: config.weight} if hasattr(config, "weight") else {}

    @classmethod
    def schedule(cls) -> dict[str, Any]:
        """Return protocol fields that a run of this method alone replaces.

        Epochs are those of the paper's schedule, for example `{"epochs": 60, "milestones": (30, 45)}`. Fields
        that depend on the pair are `protocol.FIELD` in `pair_constants`.
        """
        return {}

    @classmethod
    def buffer_elements(cls, config: Any, num_train: int, num_classes: int, teacher: NetInfo | None) -> int:
        """Return the size of the method's large buffers (memory banks, queues) in elements of 4 bytes.

        `plan` estimates the disk space of checkpoints with it.
        """
        return 0

    @classmethod
    def is_wrapper(cls) -> bool:
        """Return whether the method is a wrapper: a method that overrides `transform`.

        A wrapper must be combined with a method that reads what it changes.
        """
        return cls.transform is not Method.transform

    # --- the main stage ------------------------------------------------------------------------------------

    def start_epoch(self, epoch: int) -> None:
        """Prepare an epoch of the main stage, for example the value of a schedule. Epochs count from 1.

        The outcome must depend on `epoch` alone, because a run may resume at any epoch.
        """

    def loss(self, step: Step) -> Terms:
        """Return the unweighted terms of the loss: float32 scalars, named as in `weights`."""
        return {}

    def task_loss(self, step: Step) -> Tensor | None:
        """Return a scalar that replaces the cross-entropy with the labels, or None to keep it."""
        return None

    def transform(self, step: Step) -> Step:
        """Return the step that the other methods of a combination read.

        The cross-entropy still reads `step` itself. A method that overrides this function is a wrapper.
        """
        return step

    def after_step(self) -> None:
        """Update the method's state after the optimiser's step, without gradients.

        For changes that must come after the backward pass, such as those of a memory bank.
        """

    def predict(self, features: Features) -> Tensor | None:
        """Return logits `[B, num_classes]` that replace the student's at test time, or None to keep them.

        features: the student's features in eval mode, in float32; read only the parts that `needs` names.
        """
        return None

    def saved_projector(self) -> nn.Module | None:
        """Return a projector that is stored with the student's weights, or None.

        Runs whose teacher the student becomes find it as `context.teacher_net.projector` (see
        models/projector.py for the forms that it may have).
        """
        return None

    # --- for use in `loss` ---------------------------------------------------------------------------------

    def weight_factor(self) -> float:
        """Return the factor of all weights in this epoch, for a warm-up; `start_epoch` sets it."""
        return 1.0

    def weight_of(self, term: str) -> float:
        """Return the weight of a term in this epoch.

        Raises `InputError` for a term that `weights` does not name.
        """
        weights = self.weights(self.config)
        if term not in weights:
            raise InputError(
                f"method '{self.name}': weights() has no weight for the term '{term}' of its loss; "
                f"allowed: {', '.join(weights) or 'none'} "
                "(by default there is one term, with the method's name and the weight `config.weight`)"
            )
        return self.weight_factor() * weights[term]

    def is_active(self, term: str) -> bool:
        """Return whether the weight of a term is not 0 in this epoch."""
        return self.weight_of(term) != 0

    def run_network(self, network: nn.Module, x: Tensor) -> Tensor:
        """Return `network(x)` in float32, computed in the precision of student and teacher.

        Use it for convolutions over maps, such as a regressor. The rest of a loss is computed in float32.
        """
        with self.autocast():
            out: Tensor = network(x)
        return out.float() if out.dtype is torch.bfloat16 else out

    # --- the initialisation stage (only with init_epochs > 0) ----------------------------------------------

    def init_modules(self, student: Network | None) -> Iterable[nn.Module]:
        """Return the modules that the initialisation stage trains. All others are frozen and in eval mode."""
        return ()

    def init_lr(self, student_name: str, lr: float) -> float:
        """Return the constant learning rate of the initialisation stage.

        lr: the initial learning rate of the main stage.
        """
        return lr

    def init_loss(self, step: Step) -> Terms:
        """Return the terms of the initialisation stage; their unweighted sum is minimised."""
        raise NotImplementedError

    def after_init(self) -> None:
        """Finish the initialisation stage: freeze what must not be trained any more."""
