"""The teacher cache: the teacher's outputs for every crop and flip of every training image, on disk.

A crop with padding 4 and a flip have 162 outcomes. So after 162 passes over the training set, the logits and
embeddings of every later batch can be read instead of computed. When a plan uses the cache is decided by
benchmark/spec/teacher_cache_rule.py.

The values are those of the live pass: stored in fp32, or in fp16 where the pass is in bf16 (whose 8 bits of
mantissa fit; values below the normal range of fp16, 6e-5, lose bits).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import models
from benchmark.data.datasets import Split
from benchmark.data.views import NORMAL, VARIANTS, RawBatch, every_variant, variant
from benchmark.methods import Needs
from benchmark.spec.teacher_cache_rule import cacheable, stored_dtype
from benchmark.training.evaluate import BATCH
from benchmark.training.execution import Execution
from models import Features, Network
from results.claims import Claim
from results.files import atomic

FOLDER = ".teacher-cache"
"""The caches' folder in the results folder."""
ROWS = 648
"""Images made at a time while a cache is built: all outcomes of four training images."""


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
        note: Callable[[str], None] = lambda text: None,
    ) -> TeacherCache:
        """Open the cache of these parts in `folder`, and build what is missing.

        Several workers can open the same cache: one builds it, and the others wait. normalise: mean and
        std, `[3]`. note: receives a line for the user before the cache is built.
        """
        folder.mkdir(parents=True, exist_ok=True)
        dtype = stored_dtype(execution.precision)
        paths = {
            p: folder / f"{_name(teacher, split, normalise, execution)}.{p}.{str(dtype).rpartition('.')[2]}"
            for p in sorted(parts)
        }
        while missing := {part: path for part, path in paths.items() if not path.is_file()}:
            claim = Claim.take(folder / f"{next(iter(missing.values())).name}.claim")
            if claim is None:
                time.sleep(2.0)
                continue
            try:
                missing = {part: path for part, path in missing.items() if not path.is_file()}
                if missing:  # else another worker has built them meanwhile
                    images = len(split.labels) * VARIANTS
                    note(f"building the cache of {teacher.name}'s {' and '.join(missing)}: {images:,} images")
                    _build(missing, teacher, split, normalise, execution, dtype, claim)
            finally:
                claim.release()
        rows = len(split.labels) * VARIANTS
        return TeacherCache(
            {part: _map(path, rows, dtype).to(execution.torch_device) for part, path in paths.items()}
        )


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


def _map(path: Path, rows: int, dtype: torch.dtype) -> Tensor:
    """Return a file's contents as a memory-mapped tensor `[rows, width]`."""
    size = path.stat().st_size // dtype.itemsize
    return torch.from_file(str(path), shared=False, size=size, dtype=dtype).view(rows, -1)


@torch.no_grad()
def _build(
    paths: dict[str, Path],
    teacher: Network,
    split: Split,
    normalise: tuple[Tensor, Tensor],
    execution: Execution,
    dtype: torch.dtype,
    claim: Claim,
) -> None:
    """Compute the outputs of all images, and write all parts. The claim is renewed every few seconds."""
    device = split.images.device
    draws = every_variant().to(device)
    images = max(1, ROWS // VARIANTS)
    renewed = -math.inf
    with contextlib.ExitStack() as stack:
        files = {part: stack.enter_context(atomic(path, "wb")) for part, path in paths.items()}
        for start in range(0, len(split.labels), images):
            chunk = split.images[start : start + images]
            raw = RawBatch(
                chunk.repeat_interleave(VARIANTS, 0), *(torch.empty(0, device=device),) * 2, *normalise
            )
            chunk_draws = draws.repeat(len(chunk), 1)
            with execution.autocast():
                x = NORMAL.make(raw, chunk_draws, chunk_draws)
                for piece in x.split(BATCH["cpu"] if device.type == "cpu" else len(x)):
                    out = (
                        Features(logits=teacher(piece))
                        if set(paths) == {"logits"}
                        else teacher.features(piece, preacts=False)
                    )
                    for part, file in files.items():
                        file.write(getattr(out, part).to(dtype).cpu().numpy().tobytes())
            if time.monotonic() - renewed > 5:
                claim.beat()
                renewed = time.monotonic()
