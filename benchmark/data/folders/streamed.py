"""Training images that are read from their files in every epoch, because they do not fit in memory.

Threads read and decode the images of the next batches while one is trained on. The crops of an image depend
on the run's seed, the epoch and its position in the epoch alone (they are drawn as those of images in
memory), so every pack has the same ones, a resumed run goes on with them, and the number of threads changes
nothing. Each image is decoded once a step for all views of a pack: on the GPU where torchvision can, else by
Pillow.

The views of the augmentation `imagenet` are cropped from the whole image. All other views are made from the
test form, a square in the middle, like those of images in memory.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from benchmark.data import crops
from benchmark.data.datasets import Split
from benchmark.data.folders import gpu_decoding
from benchmark.data.folders.held import read_content, read_image
from benchmark.data.folders.index import Entry, workers
from benchmark.data.folders.reading import square
from benchmark.data.stream import Batch, BatchDraw, Stream
from benchmark.data.views import MIXED, NORMAL, RawBatch, View, mixed_with_next, view_for

Array = np.ndarray[Any, Any]

AHEAD = 3
"""Batches that are read while one is trained on."""
SQUARE = "square"
"""Name of the test form among the images of a batch."""
TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
"""Counter-clockwise, as numpy.rot90."""


def before_crop(size: int) -> int:
    """Return the shorter side to which an image is resized for the test form: 256 for 224 pixels."""
    return round(size * 256 / 224)


@dataclass(frozen=True)
class FileSplit(Split):
    """Training images in files. `images` is empty and has their size and the device."""

    base: Path
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Side of the views in pixels."""
        return self.images.shape[1]

    @property
    def source(self) -> str:
        """How the images are read, for the record."""
        if gpu_decoding.can_decode(self.images.device):
            return "read from files in every epoch, decoded by torchvision on the GPU"
        return f"read from files in every epoch, decoded by Pillow {PIL.__version__} on the CPU"

    @property
    def is_held(self) -> bool:
        return False

    def at(self, size: int) -> Self:
        """Return the same images, with views of `size` by `size` pixels."""
        return replace(self, images=self.images.new_empty((0, size, size, 3)))

    def between(self, start: int, end: int) -> Self:
        return replace(self, labels=self.labels[start:end], entries=self.entries[start:end])

    def pick(self, rows: Tensor) -> Self:
        entries = tuple(self.entries[i] for i in rows.tolist())
        return replace(self, labels=self.labels[rows], entries=entries)

    def batches(self, n: int) -> Iterator[Tensor]:
        """Yield the images in order in their test form. The next ones are read while some are used."""

        def one(entry: Entry) -> Array:
            return square(read_image(self.base, entry), self.size, before_crop(self.size))

        def joined(futures: list[Future[Array]]) -> Tensor:
            return torch.from_numpy(np.stack([f.result() for f in futures])).to(self.images.device)

        waiting: list[Future[Array]] = []
        pool = ThreadPoolExecutor(workers())
        try:
            for start in range(0, len(self.entries), n):
                futures = [pool.submit(one, entry) for entry in self.entries[start : start + n]]
                if waiting:
                    yield joined(waiting)
                waiting = futures
            if waiting:
                yield joined(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class HostSplit(Split):
    """Test images that stay in the host's memory; batches of them are moved to the device of the labels."""

    @property
    def is_held(self) -> bool:
        return False

    def pick(self, rows: Tensor) -> Self:
        return replace(self, images=self.images[rows.cpu()], labels=self.labels[rows])

    def to(self, device: torch.device) -> Self:
        return replace(self, labels=self.labels.to(device))

    def batches(self, n: int) -> Iterator[Tensor]:
        for images in self.images.split(n):
            yield images.to(self.labels.device, non_blocking=True)


def resized_crop(image: Image.Image, box: Sequence[int], size: int) -> Image.Image:
    """Return a crop (top, left, height, width), resized to `size` by `size` pixels as by torchvision."""
    top, left, height, width = map(int, box)
    crop = image.crop((left, top, left + width, top + height))
    return crop.resize((size, size), Image.Resampling.BILINEAR)


def _mirrored(image: Image.Image, flip: Any) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


class _Assembly:
    """A batch whose images are being read by threads."""

    def __init__(self, draw: BatchDraw, names: Iterable[str], rotated: frozenset[str], stream: FileStream):
        self.draw, self.stream, self.rotated = draw, stream, rotated
        rows, size = len(draw.indices), stream.size
        self.images = {
            name: self._empty((rows * (crops.COPIES if name in rotated else 1), size, size, 3))
            for name in names
        }
        height, width = stream.sides[:, draw.indices]
        self.boxes: dict[str, Array] = {}
        self.flips: dict[str, Array] = {}
        for name in self.images:
            draws = draw.draws.get(name)
            if name in rotated:
                assert draws is not None
                copies = [crops.copy_draws(draws, k) for k in range(crops.COPIES)]
                turned = [(width, height), (height, width), (width, height)]
                self.boxes[name] = np.stack(
                    [crops.boxes(d, *sides).numpy() for d, sides in zip(copies, turned, strict=True)], axis=1
                )
                self.flips[name] = np.stack([draws[:, 0], *(d[:, -1] for d in copies)], axis=1)
            elif name != SQUARE:
                assert draws is not None
                self.boxes[name] = crops.boxes(draws, height, width).numpy()
                self.flips[name] = draws[:, -1].numpy()
        self.futures: list[Future[None]] = []

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        """Return memory for images, from which they can be moved to the device without waiting."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.stream.images.device.type == "cuda")

    def start(self, pool: ThreadPoolExecutor) -> None:
        self.futures = [
            pool.submit(self._fill, row, position) for row, position in enumerate(self.draw.indices.tolist())
        ]

    def _fill(self, row: int, position: int) -> None:
        """Read an image, and make its views."""
        size, rows = self.stream.size, len(self.draw.indices)
        image = read_image(self.stream.split.base, self.stream.split.entries[position])
        for name, images in self.images.items():
            array = images.numpy()
            if name == SQUARE:
                array[row] = square(image, size, before_crop(size))
            elif name in self.rotated:
                boxes, flips = self.boxes[name][row], self.flips[name][row]
                mirrored = _mirrored(image, flips[0])
                for k, turn in enumerate(TURNS):
                    copy = resized_crop(mirrored.transpose(turn), boxes[k], size)
                    array[k * rows + row] = np.asarray(_mirrored(copy, flips[k + 1]))
            else:
                view = resized_crop(image, self.boxes[name][row], size)
                array[row] = np.asarray(_mirrored(view, self.flips[name][row]))

    def finished(self) -> BatchDraw:
        """Wait for the images, and return the draw with them on the device."""
        for future in self.futures:
            future.result()
        device = self.stream.images.device

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}

        draw = self.draw
        return BatchDraw(
            draw.indices.to(device, non_blocking=True), moved(draw.draws), draw.first, moved(self.images)
        )

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


class _GpuAssembly(_Assembly):
    """A batch whose files are being read by threads; the device then decodes and crops them."""

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=torch.uint8, device=self.stream.images.device)

    def start(self, pool: ThreadPoolExecutor) -> None:
        self.contents: list[bytes] = [b""] * len(self.draw.indices)
        super().start(pool)

    def _fill(self, row: int, position: int) -> None:
        self.contents[row] = read_content(self.stream.split.base, self.stream.split.entries[position])

    def finished(self) -> BatchDraw:
        for future in self.futures:
            future.result()
        size, rows = self.stream.size, len(self.draw.indices)
        for row, image in enumerate(gpu_decoding.decode(self.contents, self.stream.images.device)):
            for name, images in self.images.items():
                if name == SQUARE:
                    images[row] = gpu_decoding.square(image, size, before_crop(size))
                elif name in self.rotated:
                    boxes, flips = self.boxes[name][row], self.flips[name][row]
                    mirrored = image.flip(2) if flips[0] else image
                    for k in range(crops.COPIES):
                        turned = torch.rot90(mirrored, k + 1, (1, 2))
                        copy = gpu_decoding.resized_crop(turned, boxes[k], size, flips[k + 1])
                        images[k * rows + row] = copy
                else:
                    box, flip = self.boxes[name][row], self.flips[name][row]
                    images[row] = gpu_decoding.resized_crop(image, box, size, flip)
        self.contents.clear()
        return super().finished()


class FileStream(Stream):
    """The batches of a training split in files."""

    def __init__(self, split: FileSplit, **options: Any) -> None:
        super().__init__(split, **options)
        self.split = split
        self.sides = torch.tensor([[e.height for e in split.entries], [e.width for e in split.entries]])
        """Height and width of each image, int64 `[2, N]`."""
        on_gpu = gpu_decoding.can_decode(split.images.device)
        self.assembly: type[_Assembly] = _GpuAssembly if on_gpu else _Assembly

    def _is_cropped(self, view: View) -> bool:
        """Return whether a view is cropped from the whole image."""
        made = view_for(self.augment, view, self.size)
        return made.draw in (crops.draw_crop, crops.draw_rotated_crops)

    def _is_mixed(self, view: View) -> bool:
        """Return whether a view mixes crops from whole images."""
        return view.name == MIXED.name and self._is_cropped(NORMAL)

    def draws(
        self, stage: str, epoch: int, views: Iterable[View], drawn: Iterable[View] = ()
    ) -> Iterator[BatchDraw]:
        """Yield the draw of each batch of an epoch together with the images of its views."""
        views = list(views)
        names: dict[str, None] = {}
        for view in views:
            source = NORMAL if self._is_mixed(view) else view
            names[source.name if self._is_cropped(source) else SQUARE] = None
        rotated = frozenset(
            v.name for v in views if view_for(self.augment, v, self.size).draw is crops.draw_rotated_crops
        )
        yield from self.read(self._draws(stage, epoch, views, drawn, torch.device("cpu")), names, rotated)

    def read(
        self, draws: Iterable[BatchDraw], names: Iterable[str], rotated: frozenset[str] = frozenset()
    ) -> Iterator[BatchDraw]:
        """Yield draws (made on the CPU) together with the images of their views, on the device.

        names: of the views that are cropped as their draws say; `SQUARE` for the test form. rotated: those of
        them that consist of rotated copies.
        """
        names = list(names)
        waiting: collections.deque[_Assembly] = collections.deque()
        pool = ThreadPoolExecutor(workers())
        try:
            for draw in draws:
                assembly = self.assembly(draw, names, rotated, self)
                assembly.start(pool)
                waiting.append(assembly)
                if len(waiting) > AHEAD:
                    yield waiting.popleft().finished()
            while waiting:
                yield waiting.popleft().finished()
        finally:
            for assembly in waiting:
                assembly.cancel()
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, draw: BatchDraw, views: Iterable[View]) -> Batch:
        """Return the batch of a draw, on the device."""
        labels = self.labels[draw.indices]
        raw = RawBatch(
            images=draw.images.get(SQUARE, self.images),
            labels=labels,
            indices=draw.indices,
            mean=self.mean,
            std=self.std,
        )
        made = {}
        for view in views:
            if self._is_cropped(view):
                made[view.name] = raw.normalise(draw.images[view.name])
            elif self._is_mixed(view):
                made[view.name] = mixed_with_next(raw.normalise(draw.images[NORMAL.name]))
            else:
                make = view_for(self.augment, view, self.size).make
                made[view.name] = make(raw, draw.draws[view.name], draw.draws[NORMAL.name])
        return self.batch_of(draw, made, labels)


def open_stream(split: Split, **options: Any) -> Stream:
    """Return the stream of a training split; see `Stream` for the options."""
    return FileStream(split, **options) if isinstance(split, FileSplit) else Stream(split, **options)
