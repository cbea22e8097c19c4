"""The network of a finished run, as it predicts at test time.

With most methods it is the student alone. Some methods (SimKD) also predict with modules of their own; they
are built again from the record's settings, and their tensors are read from the run's file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from benchmark import data, methods
from benchmark.errors import InputError
from benchmark.spec.runs import NONE
from benchmark.training import kept_weights
from benchmark.training.checkpoint import Damaged
from benchmark.training.kept_weights import AT_TEST
from models import Features, Network
from results.store import Store

EPOCHS = ("last", "best")
"""The epochs whose weights a run keeps."""

WEIGHTS = tuple(f"{epoch}.pt" for epoch in EPOCHS)
"""The files of these weights in a run's folder."""


class Predictor(nn.Module):
    """A student with the modules of methods that predict at test time. It returns logits `[B, C]`."""

    def __init__(self, student: Network, predictors: Mapping[str, methods.Method]) -> None:
        super().__init__()
        self.student = student
        self.at_test = nn.ModuleDict(predictors)

    def tensors(self) -> dict[str, Tensor]:
        """Return the student's tensors, and those of methods with `at_test_NAME.` before their names."""
        tensors = dict(self.student.state_dict())
        for name, method in self.at_test.items():
            tensors |= {f"{AT_TEST}{name}.{k}": v for k, v in method.state_dict().items()}
        return tensors

    def predict(self, features: Features) -> Tensor:
        """Return the logits `[B, C]` from the student's features."""
        for method in self.at_test.values():
            assert isinstance(method, methods.Method)
            logits = method.predict(features)
            if logits is not None:
                return logits
        return features.logits

    def forward(self, x: Tensor) -> Tensor:
        """x: normalised images `[B, 3, H, W]`."""
        return self.predict(self.student.features(x)) if len(self.at_test) else self.student(x)


@dataclass(frozen=True)
class Finished:
    """A finished run with its weights, on the CPU and in eval mode."""

    key: str
    record: Mapping[str, Any]
    epoch: str
    """One of `EPOCHS`."""
    path: Path
    """The file of the weights."""
    net: Predictor

    @property
    def weights(self) -> str:
        """Hash of the weights, as the record states it (`benchmark.training.kept_weights`)."""
        return models.weights_hash(self.net.tensors())

    @property
    def normalise(self) -> Mapping[str, list[float]]:
        """Mean and standard deviation of the images that the run was trained with."""
        return self.record["settings"]["normalise"]

    @property
    def size(self) -> int:
        """Side in pixels of the images that the run was trained with."""
        return data.info(self.record["dataset"]).size

    @property
    def top1(self) -> float | None:
        """Percent of the test images, as the record states it."""
        return self.record.get(f"top1_{self.epoch}")


def load(store: Store, key: str, epoch: str) -> Finished:
    """Read a finished run's weights. Random generators stay as they are.

    Raises `InputError` for a run without them, and for a file that is damaged.
    """
    record = store.record(key)
    if record is None:
        state = store.unusable(key) or f"the run is {store.state(key)}"
        raise InputError(f"{key}: has no result ({state}); give a finished run")
    if record["student"] == NONE:
        raise InputError(
            f"{key}: trains no student but a teacher's head; give the run of a student or teacher"
        )
    path = store.path(key) / f"{epoch}.pt"
    if not path.is_file():
        raise InputError(f"{key}: {_why_missing(record, epoch)}")
    try:
        kept_weights.check_file(store, key, epoch)
        with torch.random.fork_rng(devices=[]):
            student = models.build(record["student"], data.info(record["dataset"]).num_classes)
            rest = models.load_weights(student, path)
            predictors = _predictors(record, student, path)
    except models.UnknownNetwork:
        raise InputError(
            f"{key}: is of the network {record['student']}, which is not known here; set KD_PLUGINS to the "
            "folder of the file that defines it"
        ) from None
    except (models.WeightsError, Damaged) as error:
        raise InputError(str(error)) from error
    stated = rest.get("key")
    if stated is not None and stated != key:
        raise InputError(f"{path}: the file is of the run {stated}; restore the right one")
    return Finished(key, record, epoch, path, Predictor(student, predictors).eval().requires_grad_(False))


def _why_missing(record: Mapping[str, Any], epoch: str) -> str:
    if "imported" in record:
        return "it only measured an imported checkpoint; give that file itself"
    if record["status"] == "diverged":
        return f"it diverged, so it has no weights of the {epoch} epoch; give a run that is done"
    return (
        f"its folder has no {epoch}.pt (KEEP=none, or removed); train it again with KEEP=all, or give "
        f"--epoch {'best' if epoch == 'last' else 'last'} if that is kept"
    )


def _predictors(record: Mapping[str, Any], student: Network, path: Path) -> dict[str, methods.Method]:
    """Return the methods that predict at test time, with their tensors from the run's file."""
    content = models.read_weights(path).content
    states = {str(k).removeprefix(AT_TEST): v for k, v in content.items() if str(k).startswith(AT_TEST)}
    return {name: _method(name, record, student, state, path) for name, state in states.items()}


def _method(
    name: str, record: Mapping[str, Any], student: Network, state: Mapping[str, Tensor], path: Path
) -> methods.Method:
    """Build a method as it was built for the run, and load its tensors."""
    kind = methods.get(name)
    info = data.info(record["dataset"])
    try:
        settings = record["settings"]["method"]["components"][name]
        fields = {f.name for f in dataclasses.fields(kind.Config)}
        config = kind.Config(**{field: value for field, value in settings.items() if field in fields})
        method = kind(config, _context(record, student, info))
        method.load_state_dict(dict(state))
    except Exception as error:  # the user's method can raise anything, and settings can be damaged
        raise InputError(
            f"{path}: method {name} predicts with modules of its own, which cannot be built again "
            f"({type(error).__name__}: {' '.join(str(error).split())[:100]}); put the method back to how it "
            "was when the run was trained"
        ) from error
    return method


def _context(record: Mapping[str, Any], student: Network, info: data.DatasetInfo) -> methods.MethodContext:
    """Return the context in which the methods of a run were built."""
    num_classes, size = info.num_classes, info.size
    teacher = (record["settings"].get("teacher") or {}).get("network")
    recipe = record["settings"]["recipe"]
    return methods.MethodContext(
        student=models.info(record["student"], num_classes, size),
        teacher=models.info(teacher, num_classes, size) if teacher else None,
        student_net=student,
        teacher_net=models.build(teacher, num_classes).eval() if teacher else None,
        train_labels=torch.arange(recipe["train_images"]) % num_classes,
        num_classes=num_classes,
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        device=torch.device("cpu"),
    )
