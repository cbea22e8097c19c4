"""`Features`: the result of one pass of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

PARTS = ("stem", "stages", "preacts", "embedding", "logits")
"""The names of the parts of `Features`, in the order of the network."""


def joined(passes: Sequence[Features]) -> Features:
    """Return the features of several passes as those of one, whose rows follow each other."""
    first = passes[0]

    def parts(name: str) -> Any:
        values = [getattr(p, name) for p in passes]
        if not first.has(name.lstrip("_")):
            return None
        if isinstance(values[0], tuple):
            return [torch.cat(maps) for maps in zip(*values, strict=True)]
        return torch.cat(values)

    return Features(**{name: parts(f"_{name}") for name in PARTS})


class MissingPart(LookupError):
    """A part of `Features` was read that the pass did not keep."""


class Features:
    """The parts of one pass over B images: maps, embedding and logits. Immutable.

    A pass keeps the parts that it was asked for; reading any other part raises `MissingPart`.
    """

    __slots__ = ("_embedding", "_logits", "_preacts", "_stages", "_stem")

    def __init__(
        self,
        *,
        stem: Tensor | None = None,
        stages: Sequence[Tensor] | None = None,
        preacts: Sequence[Tensor] | None = None,
        embedding: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> None:
        """Keep the given parts; None leaves a part out."""
        self._stem = stem
        self._stages = None if stages is None else tuple(stages)
        self._preacts = None if preacts is None else tuple(preacts)
        self._embedding = embedding
        self._logits = logits

    # --- the parts ------------------------------------------------------------------------------------

    @property
    def stem(self) -> Tensor:
        """`[B, C, H, W]`, the map after the stem and its ReLU.

        In a WRN: the output of the first convolution.
        """
        if self._stem is None:
            raise self._missing("stem")
        return self._stem

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """One map `[B, C, H, W]` for each stage, after the stage's last ReLU.

        Networks whose stages do not end in a ReLU: the sum of the last block in a WRN, the linear output of
        the last block in MobileNetV2, the concatenation in a DenseNet, the GRU's output `[B, C, frames, 1]`
        in the last stage of a CRNN.
        """
        if self._stages is None:
            raise self._missing("stages")
        return self._stages

    @property
    def preacts(self) -> tuple[Tensor, ...]:
        """One pre-activation `[B, C, H, W]` for each stage: its map before its last ReLU.

        Networks whose stages do not end in a ReLU: in a WRN or DenseNet, the stage's map after the batch
        norm that follows it; in MobileNetV2 and the last stage of a CRNN, the stage's map itself. In
        ShuffleV2: the concatenation before ReLU and channel shuffle.
        """
        if self._preacts is None:
            raise self._missing("preacts")
        return self._preacts

    @property
    def embedding(self) -> Tensor:
        """`[B, D]`, the pooled vector that the classifier reads."""
        if self._embedding is None:
            raise self._missing("embedding")
        return self._embedding

    @property
    def logits(self) -> Tensor:
        """`[B, num_classes]`."""
        if self._logits is None:
            raise self._missing("logits")
        return self._logits

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """The maps of stem and stages, in order."""
        return (self.stem, *self.stages)

    def has(self, part: str) -> bool:
        """Return whether the part of this name was kept."""
        return getattr(self, f"_{part}") is not None

    def tensors(self) -> list[Tensor]:
        """Return all tensors of all parts that were kept."""
        kept = [*(self._stages or ()), *(self._preacts or ())]
        return kept + [t for t in (self._stem, self._embedding, self._logits) if t is not None]

    def _missing(self, part: str) -> MissingPart:
        kept = ", ".join(name for name in PARTS if self.has(name)) or "nothing"
        return MissingPart(
            f"these features hold {kept}, but not '{part}'; a method must name each part it reads in needs()"
        )

    def __repr__(self) -> str:
        return f"Features({', '.join(name for name in PARTS if self.has(name))})"

    # --- changed copies -------------------------------------------------------------------------------

    def select(self, parts: frozenset[str]) -> Features:
        """Return only these parts. The others are dropped, so that their memory can be freed."""
        return Features(
            stem=self.stem if "stem" in parts else None,
            stages=self.stages if "stages" in parts else None,
            preacts=self.preacts if "preacts" in parts else None,
            embedding=self.embedding if "embedding" in parts else None,
            logits=self.logits if "logits" in parts else None,
        )

    def replace(
        self,
        *,
        stages: Sequence[Tensor] | None = None,
        preacts: Sequence[Tensor] | None = None,
        embedding: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> Features:
        """Return a copy with the given parts in place of the old ones."""
        return Features(
            stem=self._stem,
            stages=self._stages if stages is None else stages,
            preacts=self._preacts if preacts is None else preacts,
            embedding=self._embedding if embedding is None else embedding,
            logits=self._logits if logits is None else logits,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """Return a copy in which `change` is applied to every tensor."""
        return Features(
            stem=None if self._stem is None else change(self._stem),
            stages=None if self._stages is None else [change(stage) for stage in self._stages],
            preacts=None if self._preacts is None else [change(preact) for preact in self._preacts],
            embedding=None if self._embedding is None else change(self._embedding),
            logits=None if self._logits is None else change(self._logits),
        )

    def rows(self, index: slice) -> Features:
        """Return the features of some images of the batch, as views of the tensors."""
        return self.map(lambda tensor: tensor[index])

    def float32(self) -> Features:
        """Return every tensor in float32; a tensor that is in float32 already is not copied."""
        return self.map(lambda tensor: tensor.float())

    def detach(self) -> Features:
        """Return every tensor detached from the graph."""
        return self.map(lambda tensor: tensor.detach())
