"""The augmented training images of a probe whose images are read from their files in every epoch.

Order and draws are those of images in memory, so a square image has the same crop in both cases, and an
epoch can be read again. The number of reading threads changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from torch import Tensor

from benchmark.data import NORMAL, SHUFFLE
from benchmark.data.folders.streamed import SQUARE, FileSplit, FileStream
from benchmark.data.stream import BatchDraw
from benchmark.measures._resizing import resized


def augmented(
    split: FileSplit, batches: Sequence[Tensor], draws: Tensor, *, size: int, cropped: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the positions, draws and images of batches of positions, on the split's device.

    draws: `[N, k]`, in the order of the batches. Images are uint8 `[B, size, size, 3]`: cropped and mirrored
    by their draws (`_resizing.draw_crops_of_files`) if `cropped`, else resized from their test form.
    """
    stream = FileStream(
        split.at(size) if cropped else split,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        sampler=SHUFFLE,
        batch_size=len(batches[0]),
        drop_last=False,
        seed=0,
    )
    name = NORMAL.name if cropped else SQUARE
    ends = accumulate(len(batch) for batch in batches)
    chosen = (
        BatchDraw(batch, {NORMAL.name: draws[end - len(batch) : end]})
        for batch, end in zip(batches, ends, strict=True)
    )
    for draw in stream.read(chosen, [name]):
        yield draw.indices, draw.draws[NORMAL.name], resized(draw.images[name], size)
