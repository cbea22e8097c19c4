"""Base classes of all networks.

A network is a stem, a sequence of stages and a head. Distillation methods read the maps between them
(`Features`). So a family of networks defines how its stem, stages and head are run, and the base classes
run them in order and keep the parts that are needed.

No pass waits for the device, depends on the data, or writes in place into a tensor that it returns. So a
network can be compiled, captured in a CUDA graph, and run in channels_last and under autocast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from models.features import Features
from models.layers import BatchNorm2d


class Network(nn.Module, ABC):
    """Base class of all networks. Input is `[B, 3, H, W]`.

    The networks are designed for 32x32, those for ImageNet for 224x224.

    Do not rename submodules: their names are those in the checkpoints that the papers' authors published.
    """

    name: str = ""
    """The name under which `models.build` makes it."""

    @abstractmethod
    def features(self, x: Tensor, preacts: bool = True) -> Features:
        """Run the network and keep all parts; `features(x).logits` equals `forward(x)`.

        preacts: whether to keep the pre-activations. Without them a norm and its ReLU can be one operation.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[B, num_classes]`. Maps are freed as soon as the next one is computed."""

    @abstractmethod
    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return (embedding, logits) from the last stage's map, including batch norms after the stages."""

    @abstractmethod
    def linear_head(self) -> nn.Linear:
        """Return the classifier, the last linear layer."""

    @abstractmethod
    def feature_modules(self) -> list[nn.Module]:
        """Return stem and stages, which the initialisation stages of AB and FSP train."""

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """Return this network's name of a tensor that a checkpoint may name differently."""
        return key


class PostActivationNetwork(Network):
    """A network whose stages contain their last activation: all but WRN and DenseNet."""

    num_stages: ClassVar[int] = 3
    """Number of stages."""

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """Return the stem's map of images `[B, 3, H, W]`."""

    @abstractmethod
    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return (map, pre-activation) of stage `index` from the map before it.

        The pre-activation is None unless `keep_preact`.
        """

    def features(self, x: Tensor, preacts: bool = True) -> Features:
        stem = x = self.run_stem(x)
        stages: list[Tensor] = []
        kept: list[Tensor] = []
        for index in range(self.num_stages):
            x, preact = self.run_stage(index, x, preacts)
            stages.append(x)
            if preact is not None:
                kept.append(preact)
        embedding, logits = self.head_from_last_stage(x)
        return Features(
            stem=stem, stages=stages, preacts=kept if preacts else None, embedding=embedding, logits=logits
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.run_stem(x)
        for index in range(self.num_stages):
            x = self.run_stage(index, x)[0]
        return self.head_from_last_stage(x)[1]


class PreStage(nn.Module, ABC):
    """A stage that begins with a batch norm.

    The output of that norm is the pre-activation of the stage before.
    """

    @abstractmethod
    def first_norm(self) -> BatchNorm2d:
        """Return that batch norm."""

    @abstractmethod
    def forward(self, x: Tensor, normed_x: Tensor | None = None) -> Tensor:
        """Return the stage's map, before any norm.

        normed_x: `first_norm()(x)`, if the caller has it. Running the norm again would update its
            statistics twice.
        """


class PreActivationNetwork(Network):
    """A network in which norm and ReLU precede the convolutions: WRN and DenseNet.

    Its stages' maps are sums or concatenations without an activation.
    """

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """Return the stem's map of images `[B, 3, H, W]`."""

    @abstractmethod
    def stages(self) -> Sequence[PreStage]:
        """Return the stages in order."""

    @abstractmethod
    def final_norm(self) -> BatchNorm2d:
        """Return the batch norm after the last stage."""

    def features(self, x: Tensor, preacts: bool = True) -> Features:
        stem = x = self.run_stem(x)
        stages = self.stages()
        following = [*(stage.first_norm() for stage in stages[1:]), self.final_norm()]
        maps: list[Tensor] = []
        kept: list[Tensor] = []
        for stage, norm in zip(stages, following, strict=True):
            x = stage(x, kept[-1] if kept else None)
            maps.append(x)
            if preacts:
                kept.append(norm(x))
        embedding, logits = self._classify(F.relu(kept[-1])) if kept else self.head_from_last_stage(x)
        return Features(
            stem=stem, stages=maps, preacts=kept if preacts else None, embedding=embedding, logits=logits
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.run_stem(x)
        for stage in self.stages():
            x = stage(x)
        return self.head_from_last_stage(x)[1]

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        return self._classify(self.final_norm()(x_last_map, relu=True))

    def _classify(self, active: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(active)
        return embedding, self.linear_head()(embedding)


class PreactBlock(nn.Module, ABC):
    """A block that ends in a ReLU and can also return its output before that ReLU."""

    @abstractmethod
    def run(self, x: Tensor, relu: bool) -> Tensor:
        """Return the block's output, with its last ReLU if `relu`."""

    def activate(self, preact: Tensor) -> Tensor:
        """Return the block's output from its output before the last ReLU."""
        return F.relu(preact)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, True)


def run_blocks(blocks: nn.Module, x: Tensor, keep_preact: bool) -> tuple[Tensor, Tensor | None]:
    """Run a sequence of `PreactBlock`s.

    Return (output, pre-activation); the latter is None unless `keep_preact`.
    """
    *before, last = blocks.children()
    assert isinstance(last, PreactBlock)
    for block in before:
        x = block(x)
    if not keep_preact:
        return last(x), None
    preact = last.run(x, False)
    return last.activate(preact), preact


def global_pool(x: Tensor) -> Tensor:
    """Average over positions: `[B, C, H, W]` to `[B, C]`.

    For images of 32x32 it equals the pooling of each paper (8x8, 4x4 or 2x2).
    """
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
