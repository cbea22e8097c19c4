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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models
from benchmark import data
from benchmark.data.datasets import Split
from benchmark.data.views import NORMAL, VARIANTS, RawBatch, every_variant, is_plain, variant
from benchmark.errors import InputError
from benchmark.methods import Needs
from benchmark.spec.runs import Run, network_info
from benchmark.training.evaluate import BATCH
from benchmark.training.execution import Execution
from models import Features, Network
from results.files import Claim, atomic

PARTS = frozenset({"logits", "embedding"})
MODES = ("auto", "on", "off")
LARGEST = 10e9
"""Bytes of one table's file at the most."""
FOLDER = ".teacher-tables"
"""Where tables lie in the results folder."""
ROWS = 648  # images made at a time while a table is built: all outcomes of four; on a CPU they are passed in smaller batches


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"--teacher-cache {mode}; allowed: {', '.join(MODES)}")


def readable(needs: Needs) -> bool:
    """Whether a table can hold all that is needed of the teacher."""
    return bool(needs.teacher) and needs.teacher <= PARTS and all(map(is_plain, needs.passes))


def reads_table(run: Run) -> bool:
    """Whether a table can hold all that the run's main stage needs of its teacher: crops and flips, and no other augmentation."""
    return run.teacher_ref is not None and run.recipe.augment == "crop-flip" and readable(run.spec.needs())


def parts_of(runs: Sequence[Run]) -> frozenset[str]:
    """The parts that the runs would read from a table in their main stage."""
    return frozenset().union(*(r.spec.needs().teacher for r in runs if reads_table(r)))


def identity(runs: Sequence[Run]) -> str:
    """The teacher of a pack, "" without one."""
    ref = runs[0].teacher_ref
    return "" if ref is None else ref.identity


def passes_saved(packs: Sequence[Sequence[Run]]) -> dict[str, int]:
    """Teacher passes an image that a table saves over these packs, by the teacher's identity."""
    saved: dict[str, int] = {}
    for runs in packs:
        readers: dict[str, list[Run]] = {}
        for run in runs:
            for view in run.spec.needs().passes if run.teacher_ref is not None else ():
                readers.setdefault(view.name, []).append(run)
        for found in readers.values():
            if all(map(reads_table, found)):
                saved[identity(runs)] = saved.get(identity(runs), 0) + max(r.recipe.epochs for r in found)
    return saved


def file_bytes(run: Run, part: str, precision: str) -> int:
    """Size of the table's file for one part of a run's teacher."""
    info = data.info(run.dataset)
    assert run.teacher_ref is not None
    network = run.teacher_ref.network
    width = info.num_classes if part == "logits" else network_info(network, info.num_classes).embedding_dim
    return run.recipe.train_images * VARIANTS * width * _dtype(precision).itemsize


def chosen(mode: str, packs: Sequence[Sequence[Run]], execution: Execution) -> frozenset[str]:
    """Identities of the teachers that are read from a table in these packs. `InputError` for an unknown mode."""
    check_mode(mode)
    if mode == "off":
        return frozenset()
    saved = passes_saved(packs)
    found: dict[str, bool] = {}
    for runs in packs:
        for part in parts_of(runs):
            fits = file_bytes(runs[0], part, execution.precision) <= LARGEST
            pays = execution.precision == "bf16" and saved.get(identity(runs), 0) > VARIANTS
            found[identity(runs)] = found.get(identity(runs), True) and (mode == "on" or (fits and pays))
    return frozenset(name for name, good in found.items() if good)


def _dtype(precision: str) -> torch.dtype:
    return torch.float16 if precision == "bf16" else torch.float32


class TeacherTable:
    """Outputs by part: `[images * VARIANTS, width]`, memory-mapped on the CPU, on the device otherwise."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts

    def serves(self, needs: Needs) -> bool:
        return readable(needs) and needs.teacher <= set(self.parts)

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
    ) -> TeacherTable:
        """Reads the tables of these parts, and builds those that are not there (once: other workers wait for it)."""
        folder.mkdir(parents=True, exist_ok=True)
        dtype = _dtype(execution.precision)
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
        return TeacherTable({part: t.to(execution.torch_device) for part, t in read.items()})


def _name(teacher: Network, split: Split, normalise: tuple[Tensor, Tensor], execution: Execution) -> str:
    """Readable, with a hash of all that the outputs depend on."""
    digest = hashlib.sha256()
    digest.update(models.weights_hash(teacher).encode())
    for t in (split.images, *normalise):
        digest.update(t.cpu().numpy().tobytes())
    digest.update(f"{execution.device.partition(':')[0]} {execution.precision} {execution.channels_last}".encode())
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
            raw = RawBatch(chunk.repeat_interleave(VARIANTS, 0), *(torch.empty(0, device=device),) * 2, *normalise)
            every = draws.repeat(len(chunk), 1)
            with execution.autocast():
                x = NORMAL.make(raw, every, every)
                for piece in x.split(BATCH["cpu"] if device.type == "cpu" else len(x)):
                    out = {"logits": teacher(piece)} if set(paths) == {"logits"} else teacher.features(piece, preacts=False)._asdict()
                    for part, file in files.items():
                        file.write(out[part].to(dtype).cpu().numpy().tobytes())
            if time.monotonic() - beaten > 5:
                claim.beat()
                beaten = time.monotonic()
