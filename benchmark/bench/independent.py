"""`bench independent`: the trainer against a loop that shares nothing with it but networks and formulas.

The loop is written as the papers' code is: PIL transforms in a DataLoader, one student, its own teacher pass,
PyTorch's plain SGD, fp32. It shares with the trainer the networks (`models`), the formula of each method
(`loss` and the other functions of `Method`) and the settings of the run (its recipe and its methods' values).
It has its own order of images, crops, flips, initial weights and random draws, its own sum of the loss's
terms, learning rates, initialisation stages and evaluation. So both train the same thing from different
random numbers, and their accuracies and losses must agree up to the spread over seeds.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from benchmark import data
from benchmark.data.datasets import Dataset, Split
from benchmark.data.samplers import SHUFFLE
from benchmark.data.views import NORMAL, ROTATED, SECOND
from benchmark.errors import InputError
from benchmark.methods import Method, MethodContext, Needs, Step
from benchmark.spec.runs import Run
from benchmark.training.stages import MAIN
from models import Features, Network
from models.wrn import WideResNet
from results.files import write_json
from results.store import Store
from tables.plots import figure_class
from tables.statistics import t_quantile, two_sided, welch

VIEWS = (NORMAL, ROTATED, SECOND)
"""The views that this loop can make."""

EVALUATION_BATCH = 250


@dataclass
class Curve:
    """The main stage of one training, one entry an epoch. Accuracies in percent."""

    train_acc: list[float] = field(default_factory=list)
    """Of the images of the normal view, while the student is trained on them."""
    test_acc: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    """Mean of the total loss."""


def why_not(run: Run) -> str:
    """Return why this loop cannot train a run, "" if it can."""
    if run.spec.sampler.name != SHUFFLE.name:
        return f"its batches are made by the sampler {run.spec.sampler.name}"
    if run.spec.requires:
        return f"it needs the runs of {', '.join(run.spec.requires)} first"
    if run.recipe.augment != "crop-flip":
        return f"its augmentation is {run.recipe.augment}"
    recipe, needs = run.recipe, run.spec.needs()
    if recipe.schedule != "step" or recipe.warm_up or recipe.mixup or recipe.label_smoothing:
        return "its recipe has a cosine schedule, a warm-up, mixup or label smoothing"
    if needs.teacher_in_train or needs.separate_passes:
        return "it needs a pass of the teacher in train mode, or a pass of the student for each view"
    if other := [v.name for v in needs.views if v.name not in {known.name for known in VIEWS}]:
        return f"it reads the view {', '.join(other)}"
    return ""


# --- data -------------------------------------------------------------------------------------------------


class PilViews(torch.utils.data.Dataset[tuple[dict[str, Tensor], int, int]]):
    """Images as torchvision's transforms give them: `(views, label, index)`.

    A view is `[copies, 3, H, W]`. The rotated copies have the flip of the normal view (SSKD's code).
    """

    def __init__(
        self, split: Split, views: Sequence[str], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        models.import_torchvision()
        from torchvision import transforms as t  # only after `import_torchvision` has prepared the import

        self.images, self.labels, self.views = split.images.numpy(), split.labels.tolist(), views
        self.flip = t.RandomHorizontalFlip()
        self.crop = t.RandomCrop(split.images.shape[1], padding=4)
        self.finish = t.Compose([t.ToTensor(), t.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[dict[str, Tensor], int, int]:
        from PIL import Image

        image = Image.fromarray(self.images[i])
        flipped = self.flip(image)
        made = {NORMAL.name: [flipped]}
        if ROTATED.name in self.views:
            made[ROTATED.name] = [flipped.rotate(90 * k) for k in (1, 2, 3)]
        if SECOND.name in self.views:
            made[SECOND.name] = [self.flip(image)]
        views = {
            name: torch.stack([self.finish(self.crop(copy)) for copy in copies])
            for name, copies in made.items()
        }
        return views, self.labels[i], i


def _batches(
    loader: torch.utils.data.DataLoader[Any], device: torch.device
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Yield `(views, labels, indices)`. A view has its copies one after another, as `Step.images` says."""
    for views, labels, indices in loader:
        if len(labels) > 1:  # batch norm cannot be trained on one image
            stacked = {name: v.transpose(0, 1).flatten(0, 1).to(device) for name, v in views.items()}
            yield stacked, labels.to(device), indices.to(device)


# --- training ---------------------------------------------------------------------------------------------


class Independent:
    """One run in the independent loop."""

    def __init__(
        self, run: Run, dataset: Dataset, teacher: Network | None, *, seed: int, device: torch.device
    ) -> None:
        """Build the student and the methods. teacher: on the device, in eval mode; None if there is none.

        Raises `InputError` if this loop cannot train the run.
        """
        if reason := why_not(run):
            raise InputError(f"method {run.method}: this loop cannot train it, because {reason}")
        self.run, self.teacher, self.device = run, teacher, device
        classes, size = data.info(run.dataset).num_classes, data.info(run.dataset).size
        self.train_split = run.recipe.selection.apply(dataset.train, seed=seed, num_classes=classes)
        self.test_split = dataset.test.take(run.recipe.test_images)
        self.mean, self.std = (tuple(run.settings["normalise"][k]) for k in ("mean", "std"))
        torch.manual_seed(1_000_003 * seed + 99_991)
        self.generator = torch.Generator(device).manual_seed(1_000_033 * seed + 99_989)
        self.student = models.build(run.student, classes).to(device)
        if run.recipe.norm_updates > 1:
            assert isinstance(self.student, WideResNet)
            self.student.set_norm_updates(run.recipe.norm_updates)
        context = MethodContext(
            student=models.info(run.student, classes, size),
            teacher=None if teacher is None else models.info(teacher.name, classes, size),
            student_net=self.student,
            teacher_net=teacher,
            train_labels=self.train_split.labels.to(device),
            num_classes=classes,
            epochs=run.recipe.epochs,
            batch_size=run.recipe.batch_size,
            device=device,
        )
        self.methods: list[Method] = [c.method(c.config, context).to(device) for c in run.spec.components]
        self.needs = run.spec.needs()
        self.loader = torch.utils.data.DataLoader(
            PilViews(self.train_split, [v.name for v in self.needs.views], self.mean, self.std),
            run.recipe.batch_size,
            shuffle=True,
            drop_last=run.recipe.drop_last,
        )

    def train(self, on_epoch: Callable[[int, Curve], None] = lambda epoch, curve: None) -> Curve:
        """Train the run to its end and return its curve. on_epoch: called after each epoch."""
        stages = zip(self.run.spec.init_stages, self.run.init_epochs, strict=True)
        for component, (name, epochs) in stages:
            method = next(m for m in self.methods if m.name == name)
            self._init_stage(method, component.method.init_needs(component.config), epochs)
        for p in self.student.parameters():
            p.requires_grad_(True)
        parameters = [p for m in (self.student, *self.methods) for p in m.parameters() if p.requires_grad]
        recipe, curve = self.run.recipe, Curve()
        optimizer = self._sgd(parameters, recipe.lr)
        for epoch in range(1, recipe.epochs + 1):
            passed = sum(milestone < epoch for milestone in recipe.milestones)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * recipe.decay**passed
            self._epoch(epoch, optimizer, curve)
            curve.test_acc.append(self.test())
            on_epoch(epoch, curve)
        return curve

    def _sgd(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        r = self.run.recipe
        unique = list(dict.fromkeys(parameters))
        return torch.optim.SGD(
            unique, lr=lr, momentum=r.momentum, weight_decay=r.weight_decay, nesterov=r.nesterov
        )

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer, curve: Curve) -> None:
        self.student.train()
        for method in self.methods:
            method.train()
            method.start_epoch(epoch)
        losses, correct, seen = 0.0, 0, 0
        for views, labels, indices in _batches(self.loader, self.device):
            step = self._step(views, labels, indices, self.needs)
            loss = self._total(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for method in self.methods:
                    method.after_step()
            losses += loss.item() * len(labels)
            correct += int((step.student.logits.argmax(1) == labels).sum())
            seen += len(labels)
        curve.train_acc.append(100 * correct / seen)
        curve.loss.append(losses / seen)

    def _total(self, step: Step) -> Tensor:
        """Return the run's loss: ce times the cross-entropy, and each method's terms times their weights."""
        task = F.cross_entropy(step.student.logits, step.labels)
        total = torch.zeros((), device=self.device)
        for method in self.methods:
            read = step
            for wrapper in self.methods:
                if wrapper.is_wrapper() and wrapper is not method:
                    read = wrapper.transform(read)
            if read is not step:
                read = dataclasses.replace(read, before_wrappers=step)
            replaced = method.task_loss(step)
            task = task if replaced is None else replaced
            for term, value in method.loss(read).items():
                total = total + method.weight_factor() * method.weights(method.config)[term] * value
        return self.run.spec.ce * task + total

    def _init_stage(self, method: Method, needs: Needs, epochs: int) -> None:
        """Train the modules that the method names, at a constant rate, on the sum of its terms."""
        self.student.eval()
        for other in self.methods:
            other.eval()
        modules = list(method.init_modules(self.student))
        for module in modules:
            module.train()
        lr_scale = self.run.lr_scale
        lr = method.init_lr(self.run.student, self.run.recipe.lr / lr_scale) * lr_scale
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        optimizer = self._sgd(parameters, lr)
        for _ in range(epochs):
            for views, labels, indices in _batches(self.loader, self.device):
                terms = method.init_loss(self._step(views, labels, indices, needs))
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                optimizer.step()
        method.after_init()

    def _step(self, views: Mapping[str, Tensor], labels: Tensor, indices: Tensor, needs: Needs) -> Step:
        teachers: dict[str, Features] = {}
        if self.teacher is not None:
            with torch.no_grad():
                teachers = {v.name: self.teacher.features(views[v.name]) for v in needs.passes}
        students: dict[str, Features] = {}
        if needs.student:
            names = [v.name for v in needs.views]
            together = self.student.features(torch.cat([views[name] for name in names]))
            start = 0
            for name in names:
                students[name] = together.rows(slice(start, start + len(views[name])))
                start += len(views[name])
        return Step(
            labels=labels,
            indices=indices,
            images=views,
            students=students,
            teachers=teachers,
            generator=self.generator,
        )

    @torch.no_grad()
    def test(self) -> float:
        """Return the student's top-1 on the test images, in percent."""
        for module in (self.student, *self.methods):
            module.eval()
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.mean, self.std))
        correct = 0
        for images, labels in zip(
            self.test_split.images.split(EVALUATION_BATCH),
            self.test_split.labels.split(EVALUATION_BATCH),
            strict=True,
        ):
            x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
            features = self.student.features(x.to(self.device))
            z = features.logits
            for method in self.methods:
                replaced = method.predict(features)
                z = z if replaced is None else replaced
            correct += int((z.argmax(1).cpu() == labels).sum())
        return 100 * correct / len(self.test_split.labels)


def train(
    run: Run,
    dataset: Dataset,
    teacher: Network | None,
    *,
    device: torch.device,
    folder: Path,
    on_epoch: Callable[[int, Curve], None] = lambda epoch, curve: None,
) -> Curve:
    """Train a run in the independent loop, or return its curve from `folder` if it was trained before.

    The global random generators are as before afterwards.
    """
    path = folder / f"{run.key.replace('/', '_')}.json"
    if path.is_file():
        return Curve(**json.loads(path.read_text(encoding="utf-8")))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        curve = Independent(run, dataset, teacher, seed=run.seed, device=device).train(on_epoch)
    write_json(path, dataclasses.asdict(curve))
    return curve


# --- comparison -------------------------------------------------------------------------------------------

MEASURES = {"train accuracy": "train_acc", "test accuracy": "test_acc", "train loss": "loss"}
"""What is compared, and its field in a `Curve`. The loss varies least between seeds, so it shows the
smallest faults."""


@dataclass(frozen=True)
class Comparison:
    """One measure of a method after the last epoch: the trainer against the independent loop, over seeds."""

    method: str
    measure: str
    """A key of `MEASURES`."""
    trainer: tuple[float, ...]
    """One value a seed."""
    independent: tuple[float, ...]

    @property
    def delta(self) -> float:
        """Mean of the trainer minus mean of the independent loop."""
        return statistics.fmean(self.trainer) - statistics.fmean(self.independent)

    def welch(self) -> tuple[float, float, float]:
        """Return the 95% interval of `delta` and the p of Welch's t test. Needs two seeds of each.

        Not paired: the loops share no random number.
        """
        shares = [statistics.variance(v) / len(v) for v in (self.trainer, self.independent)]
        if not any(shares):  # no spread
            return self.delta, self.delta, float(self.delta == 0)
        trainer, loop = len(self.trainer) - 1, len(self.independent) - 1
        error, freedom = welch(shares[0], trainer, shares[1], loop, tau=0.0)
        half = t_quantile(0.95, freedom) * error
        p = float(two_sided(self.delta / error, freedom))
        return self.delta - half, self.delta + half, p


def compare(method: str, trainer: Sequence[Curve], independent: Sequence[Curve]) -> list[Comparison]:
    """Return the comparisons of the last epoch's measures. Curves: one a seed."""
    return [
        Comparison(
            method=method,
            measure=measure,
            trainer=tuple(getattr(c, name)[-1] for c in trainer),
            independent=tuple(getattr(c, name)[-1] for c in independent),
        )
        for measure, name in MEASURES.items()
        if all(getattr(c, name) for c in (*trainer, *independent))
    ]


def recorded_curve(store: Store, run: Run) -> Curve:
    """Return the main stage's curve of a finished run. The training accuracies may be missing.

    Raises `InputError` if the run has no curve.
    """
    frame = store.curve(run.key)
    if frame is None or "test_acc" not in frame:
        raise InputError(f"{run.key} has no curve.csv; remove the run's folder, and it is trained again")
    main = frame[frame["stage"] == MAIN].sort_values("epoch")
    train_acc = [] if main["train_acc"].isna().any() else main["train_acc"].tolist()
    return Curve(train_acc=train_acc, test_acc=main["test_acc"].tolist(), loss=main["train_loss"].tolist())


def plot(curves: Mapping[str, tuple[Sequence[Curve], Sequence[Curve]]], path: Path) -> None:
    """Plot the accuracies of both loops, epoch by epoch, one column a method; thin lines are single seeds."""
    figure = figure_class()(figsize=(2.8 * len(curves) + 0.8, 5), layout="tight")
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col", sharey="row")
    for column, (method, loops) in enumerate(curves.items()):
        for row, measure in enumerate(("train_acc", "test_acc")):
            axis = axes[row][column]
            for loop, colour, name in zip(loops, ("C0", "C1"), ("trainer", "independent loop"), strict=True):
                lines = [getattr(c, measure) for c in loop if getattr(c, measure)]
                for line in lines:
                    axis.plot(range(1, len(line) + 1), line, color=colour, linewidth=0.5, alpha=0.6)
                if lines:
                    mean = [statistics.fmean(values) for values in zip(*lines, strict=True)]
                    axis.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=1.6, label=name)
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0][column].set_title(method, fontsize=10)
        axes[1][column].set_xlabel("epoch")
    axes[0][0].set_ylabel("training accuracy, %")
    axes[1][0].set_ylabel("test accuracy, %")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
