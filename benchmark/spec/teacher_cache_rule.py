"""The rule that decides which teachers get a teacher cache.

A teacher cache stores the teacher's outputs for every crop and flip of every training image. A crop with
padding 4 and a flip have 162 outcomes, so 162 passes over the training set give every logit or embedding that
training reads later. The decision is made when runs are planned. `--teacher-cache auto` builds a cache if all
of these hold:

- The precision is bf16. The fp32 reference always runs its teacher, because a pass in another batch may round
  differently in the last bit.
- The cache saves more than 162 passes over the training set. In a pack it saves one pass in each main-stage
  epoch for each crop-and-flip view whose readers can all use the cache. (If one method of the pack reads
  feature maps, the pass is needed anyway and nothing is saved.) The savings are summed over all packs of the
  plan with this teacher: five seeds of 15 epochs save 75 passes, which does not pay; one seed of 240 epochs
  saves 240, which does.
- Its file is not larger than `LARGEST_FILE`.

`on` builds a cache wherever a run can use it, `off` nowhere. A run uses the cache if it contains all that the
run needs of the teacher, whatever else is in its pack. The field `teacher_cache` of its record tells whether
it did.

The cached values are those of the live pass: stored in fp32, or in fp16 if the pass is in bf16. (bf16's 8
bits of mantissa fit into fp16; values below fp16's normal range, 6e-5, lose bits.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmark import data
from benchmark.data.views import VARIANTS, is_crop_flip
from benchmark.errors import InputError
from benchmark.methods import Needs
from benchmark.spec.runs import Run, network_info

PARTS = frozenset({"logits", "embedding"})
"""The outputs of a teacher that a cache can hold."""

MODES = ("auto", "on", "off")

LARGEST_FILE = 10e9
"""Upper limit on a cache's file for one part, in bytes."""


def check_mode(mode: str) -> None:
    """Raise `InputError` for an unknown mode."""
    if mode not in MODES:
        raise InputError(f"--teacher-cache {mode}; allowed: {', '.join(MODES)}")


def cacheable(needs: Needs) -> bool:
    """Whether a cache can hold all that is needed of the teacher."""
    return bool(needs.teacher) and needs.teacher <= PARTS and all(map(is_crop_flip, needs.passes))


def can_use_cache(run: Run) -> bool:
    """Whether a cache can hold all that the run's main stage needs of its teacher.

    The run must augment by crops and flips and nothing else.
    """
    return run.teacher_ref is not None and run.recipe.augment == "crop-flip" and cacheable(run.spec.needs())


def cached_parts(runs: Sequence[Run]) -> frozenset[str]:
    """Return the parts that the runs' main stages would read from a cache."""
    return frozenset().union(*(r.spec.needs().teacher for r in runs if can_use_cache(r)))


def teacher_identity(runs: Sequence[Run]) -> str:
    """Return the identity of a pack's teacher, "" for a pack without one."""
    ref = runs[0].teacher_ref
    return "" if ref is None else ref.identity


def passes_saved(packs: Sequence[Sequence[Run]]) -> dict[str, int]:
    """Return how many passes over the training set a cache saves in these packs, by teacher identity."""
    saved: dict[str, int] = {}
    for runs in packs:
        readers_by_view: dict[str, list[Run]] = {}
        for run in runs:
            if run.teacher_ref is not None:
                for view in run.spec.needs().passes:
                    readers_by_view.setdefault(view.name, []).append(run)
        teacher = teacher_identity(runs)
        for readers in readers_by_view.values():
            if all(map(can_use_cache, readers)):
                saved[teacher] = saved.get(teacher, 0) + max(r.recipe.epochs for r in readers)
    return saved


def file_bytes(run: Run, part: str, precision: str) -> int:
    """Return the size of the cache's file for one part of a run's teacher."""
    info = data.info(run.dataset)
    assert run.teacher_ref is not None
    network = run.teacher_ref.network
    width = info.num_classes if part == "logits" else network_info(network, info.num_classes).embedding_dim
    return run.recipe.train_images * VARIANTS * width * stored_dtype(precision).itemsize


def cached_teachers(mode: str, packs: Sequence[Sequence[Run]], precision: str) -> frozenset[str]:
    """Return the identities of the teachers that get a cache in these packs.

    Raises `InputError` for an unknown mode.
    """
    check_mode(mode)
    if mode == "off":
        return frozenset()
    saved = passes_saved(packs)
    use_cache: dict[str, bool] = {}
    for runs in packs:
        teacher = teacher_identity(runs)
        for part in cached_parts(runs):
            fits = file_bytes(runs[0], part, precision) <= LARGEST_FILE
            pays = precision == "bf16" and saved.get(teacher, 0) > VARIANTS
            use_cache[teacher] = use_cache.get(teacher, True) and (mode == "on" or (fits and pays))
    return frozenset(teacher for teacher, use in use_cache.items() if use)


def stored_dtype(precision: str) -> torch.dtype:
    """Return the data type of cached values."""
    return torch.float16 if precision == "bf16" else torch.float32
