"""What every network of the suite can do: logits, features of each stage, and the parts that methods take hold of.

A network is a stem, a row of stages and a head. Distillation methods read the maps between them (`Features`), so each
family says here once how its stages are cut; all else (the loop, what is kept, what is thrown away) is common.

Nothing here waits for the device, depends on the data, or writes in place into a tensor that is handed out, so a network
can be compiled, captured in a CUDA graph, run in channels_last and under autocast.
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
    """Base of all networks; input is `[B, 3, H, W]`, made for 32x32.

    Submodule names are those of the common checkpoint format, so they are part of the contract.
    """

    name: str = ""
    """The name that `models.build` knows it by."""

    @abstractmethod
    def features(self, x: Tensor, preacts: bool = True) -> Features:
        """One pass with everything kept; `features(x).logits` equals `forward(x)`. Without `preacts`, that field is `()`: a norm and its ReLU
        need not be two operations then."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, num_classes]`; no map outlives its use."""

    @abstractmethod
    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        """(embedding, logits) from the last stage's map: all that comes after the stages, batch norms included."""

    @abstractmethod
    def linear_head(self) -> nn.Linear:
        """The classifier."""

    @abstractmethod
    def feature_modules(self) -> list[nn.Module]:
        """Stem and stages: what the initialisation stage of AB and FSP trains."""

    @classmethod
    def canonical_key(cls, key: str) -> str:
        """The name that this family gives to a checkpoint's key, where files spell it in another way."""
        return key


class PostActivationNetwork(Network):
    """A network whose stages end in an activation of their own: all but WRN and DenseNet."""

    num_stages: ClassVar[int] = 3

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """The stem's map from images."""

    @abstractmethod
    def run_stage(self, index: int, x: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        """(map, pre-activation) of stage `index` from the map before it; the latter is None unless `keep`."""

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
    """A stage that opens with a batch norm, whose value is the pre-activation of the stage before it."""

    @abstractmethod
    def opening(self) -> BatchNorm2d:
        """That batch norm."""

    @abstractmethod
    def forward(self, x: Tensor, opened: Tensor | None = None) -> Tensor:
        """The stage's raw map. opened: `opening()(x)` where the caller has it; running it again would update it twice."""


class PreActivationNetwork(Network):
    """A network whose stages are raw sums or concatenations and where norm and ReLU come first: WRN and DenseNet."""

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """The stem's map from images."""

    @abstractmethod
    def stages(self) -> Sequence[PreStage]:
        """The stages in order."""

    @abstractmethod
    def final_norm(self) -> BatchNorm2d:
        """The batch norm after the last stage."""

    def features(self, x: Tensor, preacts: bool = True) -> Features:
        stem = x = self.run_stem(x)
        stages = self.stages()
        following = [*(stage.opening() for stage in stages[1:]), self.final_norm()]
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
    """A block that ends in a ReLU and can hand out the value before it."""

    @abstractmethod
    def run(self, x: Tensor, relu: bool) -> Tensor:
        """The block's output before its last ReLU, or with it."""

    def activate(self, preact: Tensor) -> Tensor:
        """The block's output from the value before its last ReLU."""
        return F.relu(preact)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, True)


def run_blocks(blocks: nn.Module, x: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
    """(output, pre-activation if `keep`) of a sequence of `PreactBlock`s; the last block is not run twice for it."""
    *before, last = blocks.children()
    assert isinstance(last, PreactBlock)
    for block in before:
        x = block(x)
    if not keep:
        return last(x), None
    preact = last.run(x, False)
    return last.activate(preact), preact


def global_pool(x: Tensor) -> Tensor:
    """`[B, C, H, W]` to `[B, C]`. At 32x32 it is each paper's own pooling (8x8, 4x4 or 2x2)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
