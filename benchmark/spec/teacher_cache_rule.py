"""The exact teacher cache: a table of the teacher's outputs for every crop and flip of every training image.

A crop of pad 4 and a flip have 162 outcomes, so 162 passes over the training set answer every later question
for logits or embeddings. Whether a table is used is decided when the plan is made, by this rule
(`--teacher-cache auto`):

- precision bf16 alone: the fp32 reference is never touched, since a pass in another batch may round
  differently in the last bit;
- the passes it saves, an image, exceed 162. A pack saves one a main-stage epoch for each crop-and-flip view
  that all of its readers can take from the table (a pack with one method that reads maps makes the pass
  anyway and saves nothing). Summed over the plan's
  packs on this teacher: five seeds of 15 epochs save 75 and do not pay, one seed of 240 epochs saves 240 and
  does;
- its file is not larger than `LARGEST`.

A run reads the table if all that it needs of the teacher is in it, whatever it was packed with. `on` asks for
the table wherever a run can read it; the record says `teacher_cache`.

Values are those of the live pass: stored in fp32, or in fp16 where the pass is in bf16 (whose 8 bits of
mantissa fit; values below fp16's normal range, 6e-5, lose bits).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmark import data
from benchmark.data.views import VARIANTS, is_plain
from benchmark.errors import InputError
from benchmark.methods import Needs
from benchmark.spec.runs import Run, network_info

PARTS = frozenset({"logits", "embedding"})
MODES = ("auto", "on", "off")
LARGEST = 10e9
"""Bytes of one table's file at the most."""


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"--teacher-cache {mode}; allowed: {', '.join(MODES)}")


def readable(needs: Needs) -> bool:
    """Whether a table can hold all that is needed of the teacher."""
    return bool(needs.teacher) and needs.teacher <= PARTS and all(map(is_plain, needs.passes))


def reads_table(run: Run) -> bool:
    """Whether a table can hold all that the run's main stage needs of its teacher: crops and flips, and no
    other augmentation."""
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
    return run.recipe.train_images * VARIANTS * width * stored_dtype(precision).itemsize


def chosen(mode: str, packs: Sequence[Sequence[Run]], precision: str) -> frozenset[str]:
    """Identities of the teachers that are read from a table in these packs. `InputError` for an unknown
    mode."""
    check_mode(mode)
    if mode == "off":
        return frozenset()
    saved = passes_saved(packs)
    found: dict[str, bool] = {}
    for runs in packs:
        for part in parts_of(runs):
            fits = file_bytes(runs[0], part, precision) <= LARGEST
            pays = precision == "bf16" and saved.get(identity(runs), 0) > VARIANTS
            found[identity(runs)] = found.get(identity(runs), True) and (mode == "on" or (fits and pays))
    return frozenset(name for name, good in found.items() if good)


def stored_dtype(precision: str) -> torch.dtype:
    return torch.float16 if precision == "bf16" else torch.float32
