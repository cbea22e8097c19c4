"""Which pixels a network's feature keeps, and whether it keeps the same ones when the image is turned.

DLKD calls this knowledge quantification (Ding et al., Dual-Level Knowledge Distillation via Knowledge
Alignment and Correlation, TNNLS 2022), after Cheng et al., Explaining Knowledge Distillation by Quantifying
the Knowledge, CVPR 2020. A pixel that bears much noise before the pooled feature moves has a high entropy H:
the network has discarded its value. A pixel with less than the mean entropy of its image is a visual concept.
The formulas are in _largest_noise.py and _concepts.py.

What is DLKD's code (explain.py) and what is not:

- The loss and its optimisation are in a sub-module, `explainability`, that the released code does not have
  (its repository points to commit 2e0e495, and no .gitmodules says of what). The calls fit the class
  `Interpreter` of microsoft/nlp-recipes (Guan et al., ICML 2019), so its constants are used: rate 0.1 (its
  default), r ~ N(0, 1), one sample a step, the mean over the coordinates of the feature, the state with the
  smallest loss. That class keeps the state one step later than the one whose loss was the smallest; here
  both belong together.
- explain.py has: scale 1, Adam with lr 0.5, 5,000 iterations, the first 1,000 test images, the spread of the
  feature over all 10,000 test images of the same rotation, and 0 to 3 quarter turns chosen by hand.
- It ends with sigma. H, its mean, the concept sets and their IoU come from the paper's text. It is inferred
  that the two views are the image and the turned one, turned back: the code turns images and nothing else,
  and then all pixels are common to both. The number of quarter turns is this project's choice.
- A coordinate of the feature that is constant over all images would be a division by zero there. Here it is
  left out of the mean, and `constant_features` counts such coordinates.

sigma is in units of the normalised image and at most `scale`, so H is at most 1.419 with scale 1. Means can
be compared between networks that read images of the same normalisation. They have no good or bad side. By
chance, concept sets of share p have an IoU of p / (2 - p).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmark.data import normalise
from benchmark.measures._features import embedding_of
from benchmark.measures._largest_noise import NoiseSettings
from benchmark.measures._views_entropy import QUARTERS, ViewsEntropy, ViewsResult, ViewsSettings
from benchmark.measures.base import Measure, MeasureConfig, MeasureContext
from benchmark.methods import check_range, param
from results.files import atomic

MAPS = "entropy.npz"
"""The file of maps: `entropy` float32 `[2, N, H, W]`, `concepts` bool of the same shape, both turned back;
`iou` float64 `[N]`, `images` uint8 `[N, H, W, 3]`."""

BATCH = {"cpu": 16, "cuda": 250}
"""Images that are optimised together; a result depends on it only by the rounding of the kernels."""

STEPS = 10
"""Steps between two reports of progress, or stored states."""

SAVE_SECONDS = 30.0
"""Seconds between two stored states."""

EXPLAIN = "DLKD, explain.py"


@dataclass(frozen=True, kw_only=True)
class EntropyConfig(MeasureConfig):
    """Settings of the pixel entropy."""

    images: int = param(1000, "number of test images, the first ones", EXPLAIN)
    iterations: int = param(5000, "steps of Adam for each image", EXPLAIN)
    lr: float = param(0.5, "learning rate of Adam", EXPLAIN)
    scale: float = param(1.0, "upper limit of sigma, in units of the normalised image", EXPLAIN)
    rate: float = param(0.1, "weight of the entropy in the loss", "microsoft/nlp-recipes, Interpreter")
    reference: int = param(0, "test images that give the feature's spread, the first ones; 0 = all", EXPLAIN)
    quarters: int = param(1, "quarter turns of the second view: 1, 2 or 3", "ours")

    def __post_init__(self) -> None:
        for name in ("images", "iterations"):
            check_range(f"entropy.{name}", getattr(self, name), 1)
        for name in ("lr", "scale"):
            check_range(f"entropy.{name}", getattr(self, name), 0.0, above=True)
        for name in ("rate", "reference"):
            check_range(f"entropy.{name}", getattr(self, name), 0)
        check_range("entropy.quarters", self.quarters, QUARTERS[0], QUARTERS[-1])


class Entropy(Measure):
    """Pixel entropy and concept sets."""

    name = "entropy"
    title = "pixel entropy"
    paper = "Ding et al. (DLKD), TNNLS 2022"
    unit = "nats"
    units = {"iou": "%"}
    unranked = frozenset({"entropy", "entropy_turned", "concept_share"})
    takes_target: ClassVar[bool] = False  # sigma is in units of the training's normalisation
    Config = EntropyConfig
    profile_settings = {"quick": {"images": 8, "iterations": 40, "reference": 100}}

    @classmethod
    def headline(cls, config: EntropyConfig) -> str:
        return "entropy"

    @classmethod
    def remark(cls, numbers: Mapping[str, float]) -> str:
        constant, empty = (int(numbers.get(k, 0)) for k in ("constant_features", "images_without_concepts"))
        said = []
        if constant:
            said.append(
                f"{constant} of {int(numbers['features'])} coordinates of the feature are constant over the "
                "reference images and left out"
            )
        if empty:
            said.append(f"{empty} of {int(numbers['images'])} images have no concepts and no IoU")
        return "; ".join(said)

    @classmethod
    def passes(cls, config: EntropyConfig, train: int, test: int) -> float:
        """Two views, a pass forwards and one backwards a step, and the reference images."""
        steps = 3 * config.iterations * min(config.images, test)
        return 2.0 * (steps + min(config.reference or test, test))

    @classmethod
    def run(cls, config: EntropyConfig, context: MeasureContext) -> dict[str, float]:
        by_channel = [torch.tensor(values, device=context.device) for values in (context.mean, context.std)]
        state = context.saved or {"batch_size": BATCH[context.device.type]}
        images = context.load(context.target).test.images

        def prepared(raw: Tensor) -> Tensor:
            return normalise(raw.to(context.device), *by_channel)

        work = ViewsEntropy(
            feature=lambda x: embedding_of(context.net, x),
            images=images,
            normalise=prepared,
            settings=ViewsSettings(
                NoiseSettings(config.iterations, config.lr, config.scale, config.rate),
                images=config.images,
                reference=config.reference,
                quarters=config.quarters,
                batch=state["batch_size"],
            ),
            seed=context.seed,
            progress=context.progress,
        )
        if "work" in state:
            work.load_state(state["work"])
        stored = time.monotonic()
        while not work.done:
            work.run(STEPS)
            if time.monotonic() - stored >= SAVE_SECONDS:
                context.save({"batch_size": state["batch_size"], "work": work.state()})
                stored = time.monotonic()
        result = work.result()
        write_maps(context.folder / MAPS, result, images)
        context.artifacts.append(MAPS)
        return {name: float(value) for name, value in result.numbers().items() if value is not None}


def write_maps(path: Path, result: ViewsResult, images: Tensor) -> None:
    """Write the maps of a result. images: the split that begins with its images."""
    with atomic(path, "wb") as file:
        np.savez_compressed(
            file,
            entropy=result.entropy.numpy(),
            concepts=result.concepts.numpy(),
            iou=result.ious.numpy(),
            images=images[: result.entropy.shape[1]].numpy(),
        )
