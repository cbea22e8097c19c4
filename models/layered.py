"""The base of networks that are a convolution, layers of blocks, and a linear layer on the pooled map."""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import NormReLU
from models.network import PostActivationNetwork, global_pool, run_blocks


class LayeredNetwork(PostActivationNetwork):
    """The stem is `conv1` and `bn1`, the stages are `layer1`, `layer2`, ... with `PreactBlock`s.

    Subclasses make these modules, and the classifier that `linear_head` returns.
    """

    conv1: nn.Conv2d
    bn1: NormReLU

    def run_stem(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x))
        return out

    def run_stage(self, index: int, x: Tensor, keep_preact: bool = False) -> tuple[Tensor, Tensor | None]:
        return run_blocks(self._layer(index), x, keep_preact)

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        embedding = global_pool(x_last_map)
        return embedding, self.linear_head()(embedding)

    def feature_modules(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, *map(self._layer, range(self.num_stages))]

    def _layer(self, index: int) -> nn.Module:
        layer: nn.Module = getattr(self, f"layer{index + 1}")
        return layer
