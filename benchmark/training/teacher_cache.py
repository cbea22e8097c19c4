"""The exact teacher cache: a table of the teacher's outputs for every crop and flip of every training image.

A crop of pad 4 and a flip have 162 outcomes, so 162 passes over the training set answer every later question for logits or embeddings.
Whether a table is used is decided when the plan is made, by this rule (`--teacher-cache auto`):

- precision bf16 alone: the fp32 reference is never touched, since a pass in another batch may round differently in the last bit;
- the passes it saves, an image, exceed 162. A pack saves one a main-stage epoch for each crop-and-flip view that all of its
  readers can take from the table (a pack with one method that reads maps makes the pass anyway and saves nothing). Summed over the plan's
  packs on this teacher: five seeds of 15 epochs save 75 and do not pay, one seed of 240 epochs saves 240 and does;
- its file is not larger than `LARGEST`.

A run reads the table if all that it needs of the teacher is in it, whatever it was packed with. `on` asks for the table wherever a run
can read it; the record says `teacher_cache`.

Values are those of the live pass: stored in fp32, or in fp16 where the pass is in bf16 (whose 8 bits of mantissa fit; values below fp16's
normal range, 6e-5, lose bits).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from results.files import Claim, atomic

FOLDER = ".teacher-tables"
"""Where tables lie in the results folder."""
ROWS = 648  # images made at a time while a table is built: all outcomes of four; on a CPU they are passed in smaller batches


class TeacherCache:
    """Outputs by part: `[images * VARIANTS, width]`, memory-mapped on the CPU, on the device otherwise."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts

    def serves(self, needs: Needs) -> bool:
        return cacheable(needs) and needs.teacher <= set(self.parts)

    def features(self, indices: Tensor, draws: Tensor) -> Features:
        """What the live pass of a crop-and-flip view would give for these images `[B]` and draws `[B, 3]`, in fp32."""
        rows = indices * VARIANTS + variant(draws)
        read = {name: part[rows].float() for name, part in self.parts.items()}
        empty: Any = None
        return Features(empty, (), (), read.get("embedding", empty), read.get("logits", empty))

    @staticmethod
    def open(
        folder: Path,
        teacher: Network,
        split: Split,
        normalise: tuple[Tensor, Tensor],
        execution: Execution,
        parts: frozenset[str],
        told: Callable[[str], None] = lambda text: None,
    ) -> TeacherCache:
        """Reads the tables of these parts, and builds those that are not there (once: other workers wait for it)."""
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
                told(
                    f"building the table of {teacher.name}'s {' and '.join(missing)}: {len(split.labels) * VARIANTS:,} images"
                )
                _build(missing, teacher, split, normalise, execution, dtype, claim)
            finally:
                claim.release()
        n = len(split.labels) * VARIANTS
        read = {part: _map(path, n, dtype) for part, path in paths.items()}
        return TeacherCache({part: t.to(execution.torch_device) for part, t in read.items()})


def _name(teacher: Network, split: Split, normalise: tuple[Tensor, Tensor], execution: Execution) -> str:
    """Readable, with a hash of all that the outputs depend on."""
    digest = hashlib.sha256()
    digest.update(models.weights_hash(teacher).encode())
    for t in (split.images, *normalise):
        digest.update(t.cpu().numpy().tobytes())
    digest.update(
        f"{execution.device.partition(':')[0]} {execution.precision} {execution.channels_last}".encode()
    )
    return f"{teacher.name}-{execution.precision}-{digest.hexdigest()[:16]}"


def _map(path: Path, rows: int, dtype: torch.dtype) -> Tensor:
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
    """Writes all parts in one go over the images."""
    device = split.images.device
    draws = every_variant().to(device)
    images = max(1, ROWS // VARIANTS)
    beaten = -math.inf
    with contextlib.ExitStack() as stack:
        files = {part: stack.enter_context(atomic(path, "wb")) for part, path in paths.items()}
        for start in range(0, len(split.labels), images):
            chunk = split.images[start : start + images]
            raw = RawBatch(
                chunk.repeat_interleave(VARIANTS, 0), *(torch.empty(0, device=device),) * 2, *normalise
            )
            every = draws.repeat(len(chunk), 1)
            with execution.autocast():
                x = NORMAL.make(raw, every, every)
                for piece in x.split(BATCH["cpu"] if device.type == "cpu" else len(x)):
                    out = (
                        {"logits": teacher(piece)}
                        if set(paths) == {"logits"}
                        else teacher.features(piece, preacts=False)._asdict()
                    )
                    for part, file in files.items():
                        file.write(out[part].to(dtype).cpu().numpy().tobytes())
            if time.monotonic() - beaten > 5:
                claim.beat()
                beaten = time.monotonic()
