"""The images of a pack, as all its runs read them: data set, choice of images, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark import data
from benchmark.data.datasets import Split
from benchmark.spec.runs import Run
from benchmark.training.evaluate import Score, evaluate
from benchmark.training.execution import Execution
from models import Features, Network


@dataclass(frozen=True)
class PackData:
    """What the runs of a pack train on and are tested on, on the device."""

    train: Split

    held_out: Split | None
    """Training images that are held out to choose the epoch."""

    test: Split

    classes: tuple[str, ...]
    """Names of the classes by label; empty if they have no names."""

    mean: Tensor
    """Of the normalisation, `[3]`."""

    std: Tensor
    """Of the normalisation, `[3]`."""

    execution: Execution

    @classmethod
    def load(cls, run: Run, folder: Path, execution: Execution) -> PackData:
        """Load what all runs of a pack have in common with this one from a data folder."""
        device = execution.torch_device
        dataset = data.load(run.dataset, folder)
        classes = data.info(run.dataset).num_classes
        selection, normalise = run.recipe.selection, run.settings["normalise"]
        held_out = selection.held_out_of(dataset.train, seed=run.seed) if run.recipe.held_out else None
        return cls(
            train=selection.apply(dataset.train, seed=run.seed, num_classes=classes).to(device),
            held_out=None if held_out is None else held_out.to(device),
            test=dataset.test.take(run.recipe.test_images).to(device),
            classes=dataset.classes,
            mean=torch.tensor(tuple(normalise["mean"]), device=device),
            std=torch.tensor(tuple(normalise["std"]), device=device),
            execution=execution,
        )

    def score(self, net: Network, split: Split, predict: Callable[[Features], Tensor] | None = None) -> Score:
        """Return the accuracy of a network on one of the splits. predict: see `evaluate`."""
        return evaluate(net, split, mean=self.mean, std=self.std, execution=self.execution, predict=predict)
