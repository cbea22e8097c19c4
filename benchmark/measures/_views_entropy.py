"""The pixel entropies of a network's feature on two views of images: as they are, and turned.

The work is done in batches of fixed images, one view after the other. It can stop after any step and go on
from its state with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import InputError
from benchmark.measures import _concepts as concepts
from benchmark.measures._largest_noise import Feature, LargestNoise, NoiseSettings, Spread, spread_of
from benchmark.seeds import seed_of

QUARTERS = (1, 2, 3)
"""Quarter turns that the second view may have."""


@dataclass(frozen=True)
class ViewsSettings:
    """What is measured."""

    noise: NoiseSettings
    images: int = 1000
    """The first images of the split are measured."""
    reference: int = 0
    """The first images of the split that give the spread of the feature in each view; 0 for all."""
    quarters: int = 1
    """Quarter turns (counter-clockwise) of the second view."""
    batch: int = 50
    """Images that are optimised together."""

    def check(self) -> None:
        """Raise `InputError` for a setting that means nothing."""
        if self.quarters not in QUARTERS:
            raise InputError(f"quarters is {self.quarters}; allowed: 1, 2, 3 (quarter turns)")
        for name, value in (("images", self.images), ("iterations", self.noise.iterations)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class ViewsResult:
    """Maps and numbers of N images."""

    entropy: Tensor
    """H of both views, turned back, float32 `[2, N, H, W]` on the CPU."""
    features: int
    """Number of the feature's coordinates."""
    constant: tuple[int, int]
    """How many of them are constant over the reference images of each view."""

    @property
    def concepts(self) -> Tensor:
        """The concept sets, bool `[2, N, H, W]`."""
        return torch.stack([concepts.concept_set(entropy) for entropy in self.entropy])

    @property
    def means(self) -> Tensor:
        """The mean entropy of each image in both views, float64 `[2, N]`."""
        return torch.stack([concepts.mean_entropy(entropy) for entropy in self.entropy])

    @property
    def ious(self) -> Tensor:
        """The IoU of each image's concept sets, float64 `[N]`, NaN where both are empty."""
        one, other = self.concepts
        return concepts.iou(one, other)

    def numbers(self) -> dict[str, float | int | None]:
        """Return the means over the images, as JSON values; `iou` in %, None if no image has one."""
        means, ious = self.means.mean(dim=1), self.ious
        both_empty = int(ious.isnan().sum())
        return {
            "entropy": float(means[0]),
            "entropy_turned": float(means[1]),
            "iou": None if both_empty == len(ious) else 100 * float(ious.nanmean()),
            "concept_share": float(self.concepts[0].double().mean()),
            "images": len(ious),
            "images_without_concepts": both_empty,
            "features": self.features,
            "constant_features": max(self.constant),
        }


class ViewsEntropy:
    """The measurement of one network."""

    def __init__(
        self,
        feature: Feature,
        images: Tensor,
        normalise: Callable[[Tensor], Tensor],
        settings: ViewsSettings,
        seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Begin.

        feature: of a network in eval mode whose parameters need no gradients. images: a split, uint8
        `[N, H, W, C]`. normalise: turns these into what the network reads, `[N, C, H, W]`. progress: is told
        the passes of images through the network, those done and all.
        """
        settings.check()
        self.feature, self.images, self.normalise = feature, images, normalise
        self.settings, self.seed, self._progress = settings, seed, progress
        self.measured = min(settings.images, len(images))
        self.sigmas: list[Tensor] = []
        """sigma of the finished batches, first those of view 0; on the CPU, not turned back."""
        self._spreads: dict[int, Spread] = {}
        self._features = 0
        self._referenced = 0
        """Passes of reference images."""
        self._noise: LargestNoise | None = None

    @property
    def batches(self) -> int:
        """Number of batches of both views."""
        return 2 * -(-self.measured // self.settings.batch)

    @property
    def total(self) -> int:
        """Number of steps of all batches."""
        return self.batches * self.settings.noise.iterations

    @property
    def steps(self) -> int:
        """Number of steps done."""
        begun = 0 if self._noise is None else self._noise.step
        return len(self.sigmas) * self.settings.noise.iterations + begun

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return len(self.sigmas) == self.batches

    def run(self, steps: int) -> None:
        """Do at most so many steps, and no more than those left of the present batch."""
        if self.done:
            return
        noise = self._noise = self._noise or self._begin()
        noise.run(steps)
        if noise.done:
            self.sigmas.append(noise.sigma().float().cpu())
            self._noise = None
        self._tell()

    def _tell(self) -> None:
        """Tell the progress. A step has two passes forwards for each image, and one backwards."""
        each = 3 * self.settings.batch
        done = each * self.steps + self._referenced
        self._progress(done, each * self.total + 2 * len(self._reference))

    @property
    def _reference(self) -> Tensor:
        return self.images[: self.settings.reference or len(self.images)]

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on from here: tensors and plain values."""
        spreads = {view: (s.std, s.varying, s.constant) for view, s in self._spreads.items()}
        return {
            "sigmas": list(self.sigmas),
            "batch": None if self._noise is None else self._noise.state(),
            "spreads": spreads,
            "features": self._features,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same network, images, settings and seed."""
        self.sigmas = [sigma.cpu() for sigma in state["sigmas"]]
        self._spreads = {view: Spread(*parts) for view, parts in state["spreads"].items()}
        self._features = state["features"]
        self._referenced = len(self._spreads) * len(self._reference)
        self._noise = None
        if state["batch"] is not None:
            self._noise = self._begin()
            self._noise.load_state(state["batch"])

    def result(self) -> ViewsResult:
        """Return the result of a measurement that is done."""
        assert self.done
        half = len(self.sigmas) // 2
        views = [torch.cat(self.sigmas[:half]), torch.cat(self.sigmas[half:])]
        views[1] = concepts.turned_back(views[1], self.settings.quarters)
        constant = self._spread(0).constant, self._spread(1).constant
        return ViewsResult(concepts.entropy_map(torch.stack(views)), self._features, constant)

    def _view(self, images: Tensor, view: int) -> Tensor:
        """Return a view of raw images as the network reads it."""
        return self.normalise(torch.rot90(images, self.settings.quarters * view, (1, 2)))

    @torch.no_grad()
    def _spread(self, view: int) -> Spread:
        """Return the spread of the feature over the reference images of a view."""
        if view not in self._spreads:
            parts = []
            for batch in self._reference.split(self.settings.batch):
                parts.append(self.feature(self._view(batch, view)))
                self._referenced += len(batch)
                self._tell()
            features = torch.cat(parts)
            self._features = features.shape[1]
            self._spreads[view] = spread_of(features)
        return self._spreads[view]

    def _begin(self) -> LargestNoise:
        """Begin the next batch."""
        view, position = divmod(len(self.sigmas), self.batches // 2)
        first = position * self.settings.batch
        last = min(first + self.settings.batch, self.measured)
        return LargestNoise(
            self.feature,
            self._view(self.images[first:last], view),
            self._spread(view),
            self.settings.noise,
            seeds=[seed_of(self.seed, "entropy", view, image) for image in range(first, last)],
        )
