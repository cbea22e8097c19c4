"""The largest noise that each pixel of an image bears before a network's feature moves.

Every pixel i of an image x gets Gaussian noise of standard deviation sigma_i, the same for its channels:

    x~_i = x_i + sigma_i * eps_i,   eps ~ N(0, I),   sigma_i = scale * sigmoid(r_i)

The numbers r_i minimise, for the feature Phi (the vector that the classifier reads) and the standard
deviation reg_k of its coordinate k over reference images,

    L = mean_k (Phi(x~) - Phi(x))_k^2 / reg_k^2 - rate * mean_i log sigmoid(r_i)

with Adam from r ~ N(0, 1) and one fresh sample of eps a step. L is a sample, too; the r of the smallest L is
kept. (Guan et al., Towards a Deep and Unified Understanding of Deep Neural Models in NLP, ICML 2019, equation
7. DLKD uses it for images, see entropy.py.)

Images are optimised in batches. Each has its own stream of random numbers, given by its seed and the step
alone, drawn on the CPU; Adam acts on each number by itself, and a loss belongs to one image. So the result
for an image does not depend on the others of its batch, up to the rounding of the network's kernels, and an
optimisation that goes on from `state()` gives the same bits as one without a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import InputError
from benchmark.seeds import seed_of

Feature = Callable[[Tensor], Tensor]
"""Images `[B, C, H, W]` -> features `[B, K]`, each row from its image alone."""

CONSTANT = 1e-6
"""A coordinate whose standard deviation is at most this share of its largest magnitude counts as constant."""

STEPS_A_DRAW = 8
"""The noise of this many steps is drawn at once, because seeding a generator takes long."""


@dataclass(frozen=True)
class NoiseSettings:
    """The constants of the optimisation, as DLKD's explain.py calls it."""

    iterations: int = 5000
    """Steps of Adam."""
    lr: float = 0.5
    """Learning rate of Adam."""
    scale: float = 1.0
    """Upper limit of sigma, in units of the normalised image."""
    rate: float = 0.1
    """Weight of the entropy's term. A larger rate allows more noise."""


@dataclass(frozen=True)
class Spread:
    """How much each coordinate of a feature varies over reference images."""

    std: Tensor
    """reg: standard deviation (of the population) of the varying coordinates, `[V]`."""
    varying: Tensor
    """Positions of the coordinates that vary, int64 `[V]`."""
    constant: int
    """Number of the other coordinates. They tell no images apart, and their reg is 0."""


def spread_of(features: Tensor) -> Spread:
    """Return the spread of the features `[N, K]` of N reference images.

    Constant coordinates, such as a ReLU that no image reaches, are left out of the loss.

    Raises `InputError` if no coordinate varies or one is not finite.
    """
    values = features.double()
    if not bool(torch.isfinite(values).all()):
        raise InputError(
            "the network's feature is not finite on the reference images; measure another network"
        )
    std = values.std(dim=0, correction=0)
    varies = std > CONSTANT * values.abs().amax(dim=0)
    if not bool(varies.any()):
        raise InputError(
            f"the network's feature is the same for all of the {len(values)} reference images; "
            "measure a trained network, with more than one image"
        )
    varying = varies.nonzero()[:, 0]
    return Spread(std[varying].to(features.dtype), varying, int((~varies).sum()))


class LargestNoise:
    """The optimisation of sigma for a batch of images."""

    def __init__(
        self,
        feature: Feature,
        images: Tensor,
        spread: Spread,
        settings: NoiseSettings,
        seeds: Sequence[int],
    ) -> None:
        """Begin with r ~ N(0, 1).

        images: normalised, `[B, C, H, W]`. seeds: one for each image.
        """
        self.feature, self.images, self.spread, self.settings = feature, images, spread, settings
        self.seeds = list(seeds)
        with torch.no_grad():
            self.clean = self._varying(images)
        rows = (1, *images.shape[2:])
        start = torch.stack([torch.randn(rows, generator=_generator(seed, "start")) for seed in self.seeds])
        self.ratio = start.to(images).requires_grad_()
        """r, `[B, 1, H, W]`."""
        self.adam = torch.optim.Adam([self.ratio], lr=settings.lr)
        self.best = self.ratio.detach().clone()
        """r of the smallest loss so far."""
        self.best_loss = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.step = 0
        """Number of steps done."""
        self._draws = (-1, images)

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.settings.iterations

    def run(self, steps: int) -> None:
        """Do so many steps, at most those that are left."""
        for _ in range(min(steps, self.settings.iterations - self.step)):
            self.adam.zero_grad()
            losses = self.losses(self._noise())
            losses.sum().backward()
            with torch.no_grad():
                smaller = losses < self.best_loss
                self.best_loss = torch.where(smaller, losses, self.best_loss)
                self.best = torch.where(smaller[:, None, None, None], self.ratio, self.best)
            self.adam.step()
            self.step += 1

    def losses(self, noise: Tensor) -> Tensor:
        """Return the loss of each image, `[B]`, for a sample of eps `[B, C, H, W]`."""
        sigma = self.settings.scale * torch.sigmoid(self.ratio)
        moved = (self._varying(self.images + sigma * noise) - self.clean) / self.spread.std
        entropy = F.logsigmoid(self.ratio).mean(dim=(1, 2, 3))
        return moved.square().mean(dim=1) - self.settings.rate * entropy

    def sigma(self) -> Tensor:
        """Return sigma of the smallest loss, `[B, H, W]`."""
        return self.settings.scale * torch.sigmoid(self.best[:, 0])

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on from here: tensors and plain values."""
        return {
            "step": self.step,
            "ratio": self.ratio.detach().clone(),
            "best": self.best.clone(),
            "best_loss": self.best_loss.clone(),
            "adam": self.adam.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same images, settings and seeds."""
        self.step = state["step"]
        with torch.no_grad():
            self.ratio.copy_(state["ratio"])
        self.best, self.best_loss = state["best"].to(self.best), state["best_loss"].to(self.best_loss)
        self.adam.load_state_dict(state["adam"])

    def _varying(self, images: Tensor) -> Tensor:
        return self.feature(images)[:, self.spread.varying]

    def _noise(self) -> Tensor:
        """Return eps of this step, `[B, C, H, W]`."""
        draw, row = divmod(self.step, STEPS_A_DRAW)
        if self._draws[0] != draw:
            shape = (STEPS_A_DRAW, *self.images.shape[1:])
            samples = [torch.randn(shape, generator=_generator(s, "noise", draw)) for s in self.seeds]
            self._draws = draw, torch.stack(samples, dim=1).to(self.images)
        return self._draws[1][row]


def _generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return the generator of an image for one purpose."""
    return torch.Generator().manual_seed(seed_of(seed, *purpose))
