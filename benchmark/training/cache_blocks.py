"""The files of a teacher cache: rows of numbers in blocks, each with a checksum.

    NAME         the rows, one after another; a block that is not written yet is a hole
    NAME.index   a header in JSON, then one line for each block that is written: number, checksum

A block's line is written after its data have reached the disk. So what an interrupted process leaves is
complete up to its last commit, and the next one goes on from there. Lines that are torn or damaged do not
count. A block whose data do not have the checksum of its line (a flipped bit, zeros) is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
"""Version of the format; files of another one count as absent."""
INDEX = ".index"
"""Suffix of the index."""

_LINE = re.compile(r"(\d+) ([0-9a-f]{32})")


@dataclass(frozen=True)
class Layout:
    """What a file contains. It is the header of its index."""

    teacher: str
    """Identity of the teacher (`TeacherRef.identity`) for which the file was begun."""
    part: str
    """`logits` or `embedding`."""
    precision: str
    """Precision of the passes."""
    device: str
    """Kind of device of the passes: `cpu` or `cuda`."""
    dtype: str
    """Data type of the stored numbers: `float16` or `float32`."""
    rows: int
    width: int
    """Numbers in a row."""
    block_rows: int
    """Rows in a block; the last block may have fewer."""
    format: int = FORMAT

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.rows // self.block_rows)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return self.width * self.torch_dtype.itemsize

    def block_bytes(self, block: int) -> int:
        """Return the size of a block."""
        first = block * self.block_rows
        return (min(first + self.block_rows, self.rows) - first) * self.row_bytes


class BlockFile:
    """One part of a teacher cache on disk."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.checksums: dict[int, str] = {}
        self._pending: dict[int, str] = {}
        self._data = self._index = -1
        self.read_index()

    def read_index(self) -> None:
        """Read which blocks are written. An index of another layout counts as empty."""
        header, self.checksums = read_index(self.path)
        # two identities can have the same weights: a run, and the same file imported
        expected = {**asdict(self.layout), "teacher": (header or {}).get("teacher")}
        if header != expected or not self.path.is_file():
            self.checksums = {}

    def missing(self) -> set[int]:
        """Return the blocks that are not written."""
        return set(range(self.layout.blocks)) - self.checksums.keys()

    def is_damaged(self, block: int) -> bool:
        """Return whether the data of a written block do not have its checksum."""
        with open(self.path, "rb") as f:
            f.seek(block * self.layout.block_rows * self.layout.row_bytes)
            return _checksum(f.read(self.layout.block_bytes(block))) != self.checksums[block]

    def tensor(self) -> Tensor:
        """Return the rows as a memory-mapped tensor `[rows, width]`. All blocks must be written."""
        size = self.layout.rows * self.layout.width
        mapped = torch.from_file(str(self.path), shared=False, size=size, dtype=self.layout.torch_dtype)
        return mapped.view(self.layout.rows, self.layout.width)

    # --- writing, by the holder of the cache's claim --------------------------------------------------------

    def begin_writing(self) -> None:
        """Open the files for writing. Files that cannot be continued are replaced by new ones."""
        self.read_index()
        if not self.checksums:
            # removed and not truncated, because another process may have mapped the old file
            self.path.unlink(missing_ok=True)
            index_path(self.path).unlink(missing_ok=True)
        self._data = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._index = os.open(index_path(self.path), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        if not self.checksums:
            os.write(self._index, json.dumps(asdict(self.layout)).encode() + b"\n")
        elif not index_path(self.path).read_bytes().endswith(b"\n"):
            os.write(self._index, b"\n")  # after a line that was torn

    def write(self, block: int, data: bytes) -> None:
        """Write a block. It counts as written after `commit`."""
        assert len(data) == self.layout.block_bytes(block)
        start, view = block * self.layout.block_rows * self.layout.row_bytes, memoryview(data)
        with self._naming_file():
            while view:
                written = os.pwrite(self._data, view, start)
                start, view = start + written, view[written:]
        self._pending[block] = _checksum(data)

    def commit(self) -> None:
        """Bring the blocks that were written since the last commit to the disk, then list them."""
        if self._pending:
            lines = "".join(f"{block} {checksum}\n" for block, checksum in self._pending.items())
            with self._naming_file():
                os.fsync(self._data)
                os.write(self._index, lines.encode())
                os.fsync(self._index)
            self.checksums |= self._pending
            self._pending = {}

    @contextlib.contextmanager
    def _naming_file(self) -> Iterator[None]:
        """Name the file in an error of the system (a full disk), which does not."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def end_writing(self) -> None:
        """Close the files. What was not committed does not count."""
        for handle in (self._data, self._index):
            with contextlib.suppress(OSError):
                os.close(handle)
        self._data = self._index = -1
        self._pending = {}


def index_path(path: Path) -> Path:
    """Return the index of a file of rows."""
    return path.with_name(path.name + INDEX)


def read_index(path: Path) -> tuple[dict[str, Any] | None, dict[int, str]]:
    """Return the header of a file's index, None if there is none, and the checksum of each written block."""
    try:
        lines = index_path(path).read_text(encoding="ascii", errors="replace").split("\n")
        header = json.loads(lines[0])
    except (OSError, ValueError, RecursionError):
        return None, {}
    if not isinstance(header, dict):
        return None, {}
    # the text after the last line break is empty or a torn line
    matches = [m for line in lines[1:-1] if (m := _LINE.fullmatch(line))]
    return header, {int(m[1]): m[2] for m in matches}


def layout_of(path: Path) -> Layout | None:
    """Return the layout of a file as its index states it, None if the index is of another format."""
    header, _ = read_index(path)
    try:
        layout = Layout(**(header or {}))
        return layout if layout.format == FORMAT and layout.blocks >= 0 and layout.row_bytes > 0 else None
    except (TypeError, AttributeError, ZeroDivisionError):
        return None


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text, neighbours together: `1, 4 to 9`. Of many ranges only the first are named."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    texts = [str(a) if a == b else f"{a} to {b}" for a, b in parts]
    return ", ".join(texts[:5]) + (", ..." if len(texts) > 5 else "")


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
