"""The images of a folder at their training size, in memory as uint8 like CIFAR.

They are decoded once, into two files beside the index, which every process maps into its memory. Their
checksums are compared before they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import longwork
from benchmark.data.datasets import Split, stratified_order
from benchmark.data.folders.index import Entry, FolderIndex, storage, workers, write_file
from benchmark.data.folders.reading import BadImage, read_rgb, square
from benchmark.errors import InputError
from benchmark.text import size as text_of_size

Array = np.ndarray[Any, Any]
BLOCK = 1 << 24


def ordered(entries: tuple[Entry, ...]) -> list[Entry]:
    """Return the images in the order of the data set: every beginning of it has the classes evenly."""
    order = stratified_order(np.array([e.file.label for e in entries]), seed=0)
    return [entries[i] for i in order]


def load_split(index: FolderIndex, part: str, size: int, before: int = 0) -> Split:
    """Return the training (`train`) or test (`test`) images at `size` by `size` pixels, with their labels.

    The shorter side is resized to `before` (default `size`), and the middle is used.
    """
    entries = ordered((index.train if part == "train" else index.test).usable)
    labels = torch.tensor([e.file.label for e in entries], dtype=torch.int64)
    return Split(torch.from_numpy(_pixels(index, part, entries, size, before or size)), labels)


def _pixels(index: FolderIndex, part: str, entries: list[Entry], size: int, before: int) -> Array:
    """Return the images uint8 `[n, size, size, 3]`, from their file if it is intact."""
    file = storage(index.base) / f"{part}-{size}.npy"
    note = file.with_suffix(".json")
    shape = (len(entries), size, size, 3)
    of = {"identity": index.identity, "shape": list(shape), "before": before}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # else it is made again
        stored = json.loads(note.read_text())
        if {k: stored[k] for k in of} == of:
            pixels = np.load(file, mmap_mode="c")
            if pixels.shape == shape and pixels.dtype == np.uint8 and _sha256(pixels) == stored["sha256"]:
                return pixels
    needed = int(np.prod(shape))
    pixels = _decoded(index.base, entries, shape, before)
    with contextlib.suppress(OSError):  # a full or read-only disk: the next process decodes them again
        file.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(file.parent).free > 1.1 * needed:
            note.unlink(missing_ok=True)
            write_file(file, _npy(pixels))
            write_file(note, [json.dumps({**of, "sha256": _sha256(pixels)}).encode()])
    return pixels


def _sha256(pixels: Array) -> str:
    digest = hashlib.sha256()
    flat = pixels.reshape(-1)
    for start in range(0, len(flat), BLOCK):
        digest.update(flat[start : start + BLOCK].data)
    return digest.hexdigest()


def _npy(pixels: Array) -> Any:
    """Yield the bytes of a `.npy` file."""
    import io

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(pixels))
    yield head.getvalue()
    flat = pixels.reshape(-1)
    for start in range(0, len(flat), BLOCK):
        yield flat[start : start + BLOCK].tobytes()


def _decoded(base: Path, entries: list[Entry], shape: tuple[int, ...], before: int) -> Array:
    try:
        pixels = np.empty(shape, dtype=np.uint8)
    except MemoryError as error:
        raise InputError(
            f"{base}: its images need {text_of_size(float(np.prod(shape)))} at {shape[1]} pixels, more than "
            "this machine's memory; choose a smaller size"
        ) from error
    make = partial(_one, base, shape[1], before)
    with (
        ThreadPoolExecutor(workers()) as pool,
        longwork.task(f"decoding {base} at {shape[1]} pixels, once", len(entries), "images") as task,
    ):
        for i, image in enumerate(in_order(pool, make, entries)):
            pixels[i] = image
            task.advance()
    return pixels


def in_order(pool: ThreadPoolExecutor, call: Callable[[Entry], Array], entries: list[Entry]) -> Any:
    """Yield the results of calls in order, without holding more than a few at once."""
    ahead = 256
    for start in range(0, len(entries), ahead):
        yield from pool.map(call, entries[start : start + ahead])


def _one(base: Path, size: int, before: int, entry: Entry) -> Array:
    return square(read_image(base, entry), size, before)


TRIES = 3
"""How often a file is tried to be read: file systems of clusters have moments without an answer."""


def _content(path: Path) -> bytes:
    """Return what a file has. Raises `OSError` if it cannot be read several times."""
    for wait in range(1, TRIES):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(wait)
    return path.read_bytes()


def read_content(base: Path, entry: Entry) -> bytes:
    """Return the content of an index's entry. Raises `InputError` if the file has changed since."""
    path = base / entry.file.path
    try:
        content = _content(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read any more ({error}); run the command again") from error
    if len(content) != entry.file.size:
        raise InputError(f"{path} has changed since its folder was indexed; run the command again")
    return content


def read_image(base: Path, entry: Entry) -> Any:
    """Return the image of an index's entry as RGB. Raises `InputError` if the file has changed since."""
    path = base / entry.file.path
    try:
        image, _ = read_rgb(read_content(base, entry))
    except BadImage as error:
        raise InputError(f"{path} cannot be read any more ({error}); run the command again") from error
    if image.size != (entry.width, entry.height):
        raise InputError(f"{path} has changed since its folder was indexed; run the command again")
    return image
