"""The rule that decides which teachers get a teacher cache.

A teacher cache stores the teacher's outputs for every crop and flip of every training image. A crop with
padding 4 and a flip have 162 outcomes, so 162 passes over the training set give every logit or embedding that
training reads later. The decision is made when runs are planned. `--teacher-cache auto` builds a cache if all
of these hold:

- The precision is bf16. The fp32 reference always runs its teacher, because a pass in another batch may round
  differently in the last bit.
- It saves more passes over the training set than it costs.
  It costs 162, less what exists of it already. On a CPU it must save `MARGIN` times as many, because a build
  takes a little longer than the passes that it holds (docs/speed-log.md).
  It saves what this command would really compute: in each main-stage epoch that a pack has left (up to
  `--until`), one pass for each crop-and-flip view whose readers can all use the cache. (If one method of the
  pack reads feature maps, the pass is needed anyway and nothing is saved. Evaluations read other images, and
  save nothing either.) The savings are summed over all packs of the plan with this teacher: five seeds of 15
  epochs save 75 passes, which does not pay; one seed of 240 epochs saves 240, which does.
- Its file is not larger than `LARGEST_FILE`, and there is room for it.

`on` builds a cache wherever a run can use it, `off` nowhere. A run uses the cache if it contains all that the
run needs of the teacher, whatever else is in its pack. The field `teacher_cache` of its record tells whether
it did. Every command decides anew: a run that was stopped (`--until`) and goes on may read the cache in its
later epochs only, and its record says `mixed`.

The cached values are those of the live pass: stored in fp32, or in fp16 if the pass is in bf16. (bf16's 8
bits of mantissa fit into fp16; values below fp16's normal range, 6e-5, lose bits.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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

MARGIN = {"cpu": 1.25, "cuda": 1.0}
"""How many passes a cache must save for each one that it costs, by kind of device.

On a CPU a build takes 1.08 to 1.12 times as long as the passes that it holds."""


def check_mode(mode: str) -> None:
    """Raise `InputError` for an unknown mode."""
    if mode not in MODES:
        raise InputError(f"--teacher-cache {mode}; allowed: {', '.join(MODES)}")


def cacheable(needs: Needs) -> bool:
    """Whether a cache can hold all that is needed of the teacher."""
    return bool(needs.teacher) and needs.teacher <= PARTS and all(map(is_crop_flip, needs.passes))


def can_use_cache(run: Run) -> bool:
    """Whether a cache can hold all that the run's main stage needs of its teacher.

    The run must augment by crops and flips and nothing else, and not train on a drawn part of the images: a
    cache has all images of the training set, and a part would need one for each draw. Images must be held in
    memory.
    """
    recipe = run.recipe
    all_images = not recipe.drawn_from
    crops = recipe.augment == "crop-flip" and not data.info(run.dataset).streamed
    return run.teacher_ref is not None and all_images and crops and cacheable(run.spec.needs())


def cached_parts(runs: Sequence[Run]) -> frozenset[str]:
    """Return the parts that the runs' main stages would read from a cache."""
    return frozenset().union(*(r.spec.needs().teacher for r in runs if can_use_cache(r)))


def teacher_identity(runs: Sequence[Run]) -> str:
    """Return the identity of a pack's teacher, "" for a pack without one."""
    ref = runs[0].teacher_ref
    return "" if ref is None else ref.identity


def passes_saved(
    packs: Sequence[Sequence[Run]],
    until: int | None = None,
    epochs_done: Callable[[Run], int] = lambda run: 0,
) -> dict[str, int]:
    """Return how many passes over the training set a cache saves in these packs, by teacher identity.

    until: the main-stage epoch after which every run stops. epochs_done: the main-stage epochs that a run has
    finished. The runs of a pack that are behind catch up first; every epoch then has one pass for all runs
    that train it.
    """
    saved: dict[str, int] = {}
    for runs in packs:
        readers_by_view: dict[str, list[tuple[Run, range]]] = {}
        for run in runs:
            if run.teacher_ref is not None:
                last = run.recipe.epochs if until is None else min(until, run.recipe.epochs)
                epochs = range(epochs_done(run), last)
                for view in run.spec.needs().passes:
                    readers_by_view.setdefault(view.name, []).append((run, epochs))
        teacher = teacher_identity(runs)
        for readers in readers_by_view.values():
            for epoch in set[int]().union(*(epochs for _, epochs in readers)):
                if all(can_use_cache(run) for run, epochs in readers if epoch in epochs):
                    saved[teacher] = saved.get(teacher, 0) + runs[0].spec.sampler.rows_per_image
    return saved


def file_bytes(run: Run, part: str, precision: str) -> int:
    """Return the size of the cache's file for one part of a run's teacher."""
    info = data.info(run.dataset)
    assert run.teacher_ref is not None
    network = run.teacher_ref.network
    width = info.num_classes if part == "logits" else network_info(network, info.num_classes).embedding_dim
    return run.recipe.train_images * VARIANTS * width * stored_dtype(precision).itemsize


def passes_to_build(
    packs: Sequence[Sequence[Run]], built: Callable[[Run, frozenset[str]], float] = lambda run, parts: 0.0
) -> dict[str, float]:
    """Return how many passes over the training set it costs to build the caches, by teacher identity.

    Packs that read other parts each build theirs. built: how much of a run's cache of these parts exists,
    0 to 1.
    """
    needed: dict[tuple[str, frozenset[str]], Run] = {}
    for runs in packs:
        if parts := cached_parts(runs):
            needed.setdefault((teacher_identity(runs), parts), runs[0])
    costs: dict[str, float] = {}
    for (teacher, parts), run in needed.items():
        costs[teacher] = costs.get(teacher, 0.0) + VARIANTS * (1 - built(run, parts))
    return costs


def cached_teachers(
    mode: str,
    packs: Sequence[Sequence[Run]],
    precision: str,
    *,
    device: str = "cuda",
    until: int | None = None,
    epochs_done: Callable[[Run], int] = lambda run: 0,
    built: Callable[[Run, frozenset[str]], float] = lambda run, parts: 0.0,
    free_bytes: float = math.inf,
) -> frozenset[str]:
    """Return the identities of the teachers that get a cache in these packs.

    device: `cpu` or `cuda`. until, epochs_done: see `passes_saved`. built: see `passes_to_build`. free_bytes:
    the room for new caches. Raises `InputError` for an unknown mode.
    """
    check_mode(mode)
    if mode == "off":
        return frozenset()
    if mode == "on":
        return frozenset(teacher_identity(runs) for runs in packs if cached_parts(runs))
    if precision != "bf16":
        return frozenset()
    saved, costs = passes_saved(packs, until, epochs_done), passes_to_build(packs, built)
    sizes: dict[str, dict[str, int]] = {}
    for runs in packs:
        for part in cached_parts(runs):
            sizes.setdefault(teacher_identity(runs), {})[part] = file_bytes(runs[0], part, precision)
    chosen = set[str]()
    for teacher, cost in costs.items():
        fits = max(sizes[teacher].values()) <= LARGEST_FILE
        missing_bytes = sum(sizes[teacher].values()) if cost else 0
        if fits and missing_bytes <= free_bytes and saved.get(teacher, 0) > MARGIN[device] * cost:
            chosen.add(teacher)
            free_bytes -= missing_bytes
    return frozenset(chosen)


def stored_dtype(precision: str) -> torch.dtype:
    """Return the data type of cached values."""
    return torch.float16 if precision == "bf16" else torch.float32
