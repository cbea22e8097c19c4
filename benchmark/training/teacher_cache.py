"""The teacher cache: the teacher's outputs for every crop and flip of every training image, on disk.

A crop with padding 4 and a flip have 162 outcomes. So after 162 passes over the training set, the logits and
embeddings of every later batch can be read instead of computed. When a plan uses the cache is decided by
benchmark/spec/teacher_cache_rule.py.

The values are those of the live pass: stored in fp32, or in fp16 where the pass is in bf16 (whose 8 bits of
mantissa fit; values below the normal range of fp16, 6e-5, lose bits).

The cache is built in blocks of a few images, always the same ones, so that an output does not depend on when
and by whom it was computed. A build that was interrupted goes on after its last commit. Every block is
checked before the cache is read, and computed again if it is damaged (benchmark/training/cache_blocks.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

import models
from benchmark import longwork
from benchmark.data.datasets import Split
from benchmark.data.views import NORMAL, VARIANTS, RawBatch, every_variant, variant
from benchmark.errors import InputError
from benchmark.methods import Needs
from benchmark.spec.teacher_cache_rule import cacheable, stored_dtype
from benchmark.text import duration, plural, size
from benchmark.training.cache_blocks import INDEX, BlockFile, Layout, ranges, read_index
from benchmark.training.evaluate import BATCH
from benchmark.training.execution import Execution
from models import Features, Network
from results.claims import Claim, heartbeat

FOLDER = ".teacher-cache"
"""The caches' folder in the results folder."""
BLOCK_IMAGES = 4
"""Training images in a block. With another number the passes have other batches, and round differently."""
COMMIT_SECONDS = 10.0
"""Most time between two commits while a cache is built; a kill loses what came after the last one."""
WAIT_SECONDS = 2.0
"""Time between two looks at a cache that another process builds."""


class TeacherCache:
    """The cached outputs of one teacher."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        """parts: `logits`, `embedding` or both, `[images * VARIANTS, width]`."""
        self.parts = parts

    def serves(self, needs: Needs) -> bool:
        """Return whether the cache has everything that is needed of the teacher."""
        return cacheable(needs) and needs.teacher <= set(self.parts)

    def features(self, indices: Tensor, draws: Tensor) -> Features:
        """Return the teacher's outputs in fp32 for images `[B]` with crops and flips `[B, 3]`."""
        rows = indices * VARIANTS + variant(draws)
        read = {name: part[rows].float() for name, part in self.parts.items()}
        return Features(embedding=read.get("embedding"), logits=read.get("logits"))

    @staticmethod
    def open(
        folder: Path,
        teacher: Network,
        split: Split,
        normalise: tuple[Tensor, Tensor],
        execution: Execution,
        parts: frozenset[str],
        identity: str = "",
        seconds_of: Callable[[int], float | None] = lambda images: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> TeacherCache:
        """Open the cache of these parts in `folder`, and build what is missing or damaged.

        Several workers can open the same cache: one builds it, and the others wait. normalise: mean and
        std, `[3]`. identity: the teacher's, by which `built_share` finds the cache. seconds_of: estimates how
        long passes of this many images take. note: receives lines for the user, before the cache is built
        and for damaged blocks. Raises `InputError` if the disk does not keep what is written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = _name(teacher, split, normalise, execution)
        builder = _Builder(teacher, split, normalise, execution)
        files = {
            part: BlockFile(folder / f"{name}.{part}.{layout.dtype}", layout)
            for part, layout in builder.layouts(identity, parts).items()
        }
        built: dict[str, set[int]] = {part: set() for part in files}
        while True:
            wanted = {part: file.missing() for part, file in files.items()}
            if not any(wanted.values()):
                wanted = _damaged(files)
                for part, blocks in wanted.items():
                    if again := blocks & built[part]:
                        raise InputError(
                            f"{files[part].path}: block {ranges(again)} is damaged again right after it was "
                            "written; use another disk (RESULTS=), or --teacher-cache off"
                        )
                if not any(wanted.values()):
                    break
            claim = Claim.take(folder / f"{name}.claim", note="teacher cache")
            if claim is None:
                _wait(folder / f"{name}.claim", teacher.name, files, note)
                continue
            try:
                for part, file in files.items():
                    file.read_index()  # another worker may have built more meanwhile
                    damaged = {b for b in wanted[part] & file.checksums.keys() if file.is_damaged(b)}
                    wanted[part] = file.missing() | damaged
                    if damaged:
                        note(
                            f"teacher cache {file.path.name}: block {ranges(damaged)} of "
                            f"{file.layout.blocks} is damaged, and computed again"
                        )
                if any(wanted.values()):
                    note(_announcement(teacher.name, files, wanted, seconds_of))
                    if builder.build(files, wanted, claim):
                        built = {part: built[part] | blocks for part, blocks in wanted.items()}
            finally:
                claim.release()
            for file in files.values():
                file.read_index()
        return TeacherCache({part: file.tensor().to(execution.torch_device) for part, file in files.items()})


def built_share(
    folder: Path, *, identity: str, device: str, precision: str, parts: frozenset[str], train_images: int
) -> float:
    """Return how much of a teacher's cache exists in `folder`: 0 to 1, of the part that is least complete.

    device: `cpu` or `cuda`.
    """
    expected = {
        "teacher": identity,
        "device": device,
        "precision": precision,
        "rows": train_images * VARIANTS,
    }
    shares = dict.fromkeys(parts, 0.0)
    for path in folder.glob(f"*{INDEX}") if folder.is_dir() else ():
        header, checksums = read_index(path.with_name(path.name.removesuffix(INDEX)))
        header = header or {}
        part, block_rows = header.get("part"), header.get("block_rows")
        if {**header, **expected} == header and part in shares and isinstance(block_rows, int):
            share = len(checksums) * block_rows / (train_images * VARIANTS)
            shares[part] = max(shares[part], min(1.0, share))
    return min(shares.values(), default=0.0)


def _name(teacher: Network, split: Split, normalise: tuple[Tensor, Tensor], execution: Execution) -> str:
    """Return the name of a cache: readable, with a hash of all that the outputs depend on."""
    digest = hashlib.sha256()
    digest.update(models.weights_hash(teacher).encode())
    for t in (split.images, *normalise):
        digest.update(t.cpu().numpy().tobytes())
    digest.update(
        f"{execution.device.partition(':')[0]} {execution.precision} {execution.channels_last}".encode()
    )
    return f"{teacher.name}-{execution.precision}-{digest.hexdigest()[:16]}"


def _damaged(files: Mapping[str, BlockFile]) -> dict[str, set[int]]:
    """Return the damaged blocks of complete files, by part. Reads all data."""
    damaged: dict[str, set[int]] = {part: set() for part in files}
    total = sum(file.layout.blocks for file in files.values())
    with longwork.task("checking the teacher cache", total=total, unit="blocks") as task:
        for part, file in files.items():
            for block in range(file.layout.blocks):
                if file.is_damaged(block):
                    damaged[part].add(block)
                task.advance()
    return damaged


def _announcement(
    teacher: str,
    files: Mapping[str, BlockFile],
    wanted: Mapping[str, set[int]],
    seconds_of: Callable[[int], float | None],
) -> str:
    """Return a line that says what will be built: images, size on disk, and estimated time."""
    parts = [part for part, blocks in wanted.items() if blocks]
    blocks = set[int]().union(*wanted.values())
    layout = files[parts[0]].layout
    images = sum(layout.block_bytes(b) for b in blocks) // layout.row_bytes
    disk = sum(files[p].layout.block_bytes(b) for p in parts for b in wanted[p])
    done = "" if len(blocks) == layout.blocks else f" ({layout.rows - images:,} of {layout.rows:,} are there)"
    seconds = seconds_of(images)
    time_needed = "" if seconds is None else f", about {duration(seconds)}"
    return (
        f"building the teacher cache of {teacher}'s {' and '.join(parts)}: {plural(images, 'image')}{done}, "
        f"{size(disk)} on disk{time_needed}"
    )


def _wait(path: Path, teacher: str, files: Mapping[str, BlockFile], note: Callable[[str], None]) -> None:
    """Wait until the claim has no holder any more, which builds the cache in another process."""
    holder = Claim.holder(path)
    if holder is None:  # it has just ended
        return
    note(
        f"waiting for process {holder.get('pid')} on {holder.get('host')}, which builds the teacher cache of "
        f"{teacher}"
    )
    missing = sum(len(file.missing()) for file in files.values())
    with longwork.task(f"waiting for the teacher cache of {teacher}", missing, "blocks") as task:
        while Claim.holder(path) is not None:
            time.sleep(WAIT_SECONDS)
            for file in files.values():
                file.read_index()
            task.reach(missing - sum(len(file.missing()) for file in files.values()))


class _Builder:
    """Computes the blocks of a teacher's cache."""

    def __init__(
        self, teacher: Network, split: Split, normalise: tuple[Tensor, Tensor], execution: Execution
    ) -> None:
        self.teacher, self.split, self.normalise = teacher, split, normalise
        self.execution = execution
        self.draws = every_variant().to(split.images.device)

    def layouts(self, identity: str, parts: frozenset[str]) -> dict[str, Layout]:
        """Return the layout of each part's file."""
        with torch.no_grad(), self.execution.autocast():
            x = self._images(0)[:1]
            features = self.teacher.features(x, preacts=False)
        return {
            part: Layout(
                teacher=identity,
                part=part,
                precision=self.execution.precision,
                device=self.execution.torch_device.type,
                dtype=str(stored_dtype(self.execution.precision)).rpartition(".")[2],
                rows=len(self.split.labels) * VARIANTS,
                width=getattr(features, part).shape[1],
                block_rows=BLOCK_IMAGES * VARIANTS,
            )
            for part in sorted(parts)
        }

    def build(self, files: Mapping[str, BlockFile], wanted: Mapping[str, set[int]], claim: Claim) -> bool:
        """Compute the wanted blocks of each part and write them. Returns False if the claim was lost."""
        blocks = sorted(set[int]().union(*wanted.values()))
        first = next(iter(files.values())).layout
        rows = {b: first.block_bytes(b) // first.row_bytes for b in blocks}
        what = f"building the teacher cache of {self.teacher.name}"
        with contextlib.ExitStack() as stack:
            task = stack.enter_context(longwork.task(what, sum(rows.values()), "images"))
            stack.enter_context(heartbeat([claim]))
            for part in files:
                if wanted[part]:
                    files[part].begin_writing()
                    stack.callback(files[part].end_writing)
                    stack.callback(files[part].commit)  # also after an interrupt: nothing computed is lost
            committed = time.monotonic()
            for block in blocks:
                parts = [part for part in files if block in wanted[part]]
                for part, data in self._outputs(block, parts).items():
                    files[part].write(block, data)
                task.advance(rows[block])
                if time.monotonic() - committed >= COMMIT_SECONDS:
                    if not claim.mine():
                        return False  # halted for so long that another process has taken over
                    for file in files.values():
                        file.commit()
                    committed = time.monotonic()
        return True

    def _images(self, block: int) -> Tensor:
        """Return all outcomes of a block's images, float32 `[rows, 3, H, W]`."""
        chunk = self.split.images[block * BLOCK_IMAGES : (block + 1) * BLOCK_IMAGES]
        empty = torch.empty(0, device=chunk.device)
        raw = RawBatch(chunk.repeat_interleave(VARIANTS, 0), empty, empty, *self.normalise)
        draws = self.draws.repeat(len(chunk), 1)
        return NORMAL.make(raw, draws, draws)

    @torch.no_grad()
    def _outputs(self, block: int, parts: list[str]) -> dict[str, bytes]:
        """Return the parts of a block as they are stored."""
        x = self._images(block)
        dtype = stored_dtype(self.execution.precision)
        outputs: dict[str, list[Tensor]] = {part: [] for part in parts}
        with self.execution.autocast():
            for piece in x.split(BATCH["cpu"] if x.device.type == "cpu" else len(x)):
                if parts == ["logits"]:
                    features = Features(logits=self.teacher(piece))
                else:
                    features = self.teacher.features(piece, preacts=False)
                for part in parts:
                    outputs[part].append(getattr(features, part).to(dtype))
        return {part: torch.cat(pieces).cpu().numpy().tobytes() for part, pieces in outputs.items()}
