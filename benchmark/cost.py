"""The cost model: what a plan will take, in GPU-hours (or hours of this machine), and on the disk.

It counts multiply-accumulates: a forward pass is 1, a training step 3 (forward, gradients of inputs, gradients of weights); a pack runs its
teacher once for each view that some run of it needs. The speed comes from earlier records of the same kind of device where there are any
(`measured`), else from the assumption below; both are stated with the estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark import data
from benchmark.runs import NONE, Run, network_info

ASSUMED = {"cuda": 12e12, "cpu": 1.0e11}
"""Multiply-accumulates a second when nothing was measured. cuda: a few per cent of an H100's or H200's bf16 peak, as small networks at batch 64
leave it; cpu: two cores with AVX-512. Assumptions, not measurements."""

STEP_SECONDS = {"cuda": 1.0e-3, "cpu": 4.0e-3}
"""Least time of one student's step (kernel launches, Python): it bounds small networks at batch 64. An assumption."""

WEIGHTS_BYTES = 4


@dataclass(frozen=True)
class Estimate:
    """hours: of one device, packs one after another. macs: multiply-accumulates. disk_bytes: what the runs leave (weights, records);
    peak_bytes: besides, checkpoints of the runs in training."""

    hours: float
    macs: float
    disk_bytes: int
    peak_bytes: int


def steps(run: Run) -> int:
    """Optimisation steps of a run, initialisation stages included."""
    per_epoch = -(-run.recipe.train_images // run.recipe.batch_size)
    return per_epoch * (run.recipe.epochs + sum(e for _, e in run.init_epochs))


def student_macs(run: Run) -> float:
    """Multiply-accumulates of one run without its teacher's passes."""
    if run.student == NONE:
        return 0.0
    classes = data.info(run.dataset).num_classes
    one = network_info(run.student, classes).macs
    copies = sum(v.copies for v in run.spec.needs().views) * run.spec.sampler.rows
    training = 3.0 * one * run.recipe.train_images * copies * run.recipe.epochs
    for component, (_, epochs) in zip(run.spec.init_stages, run.init_epochs, strict=True):
        if component.method.init_needs(component.config).student:
            training += 3.0 * one * run.recipe.train_images * epochs
    return training + float(one) * run.recipe.test_images * run.recipe.epochs


def teacher_macs(runs: Sequence[Run]) -> float:
    """Multiply-accumulates of a pack's teacher passes: each view once an epoch, however many students read it."""
    first = runs[0]
    if first.teacher_ref is None:
        return 0.0
    one = network_info(first.teacher_ref.network, data.info(first.dataset).num_classes).macs
    images = 0
    main: dict[tuple[str, int], int] = {}
    for run in runs:
        for view in run.spec.needs().passes:
            slot = (view.name, view.copies)
            main[slot] = max(main.get(slot, 0), run.recipe.epochs)
    images += sum(copies * epochs for (_, copies), epochs in main.items())
    init = 0
    for run in runs:
        stages = zip(run.spec.init_stages, run.init_epochs, strict=True)
        init = max(init, sum(e for c, (_, e) in stages if c.method.init_needs(c.config).teacher))
    return float(one) * first.recipe.train_images * first.spec.sampler.rows * (images + init)


def pack_seconds(runs: Sequence[Run], device: str, macs_per_second: float | None = None) -> float:
    """Seconds of one pack on one device of that kind (`cuda` or `cpu`)."""
    speed = macs_per_second or ASSUMED[device]
    arithmetic = (sum(map(student_macs, runs)) + teacher_macs(runs)) / speed
    launches = sum(map(steps, runs)) * STEP_SECONDS[device]
    return max(arithmetic, launches) if device == "cuda" else arithmetic + launches


def _memory(run: Run) -> int:
    """Numbers that the buffers of a run's methods hold, beside its weights."""
    classes = data.info(run.dataset).num_classes
    teacher = None if run.teacher_ref is None else network_info(run.teacher_ref.network, classes)
    return sum(c.method.memory(c.config, run.recipe.train_images, classes, teacher) for c in run.spec.components)


def disk(runs: Sequence[Run], keep: str) -> tuple[int, int]:
    """Bytes that finished runs leave, and bytes of one checkpoint of each while they train."""
    left = peak = 0
    for run in runs:
        params = 0 if run.student == NONE else network_info(run.student, data.info(run.dataset).num_classes).params
        if keep == "all" or not run.spec.components:
            left += 2 * WEIGHTS_BYTES * params
        left += 200 * run.recipe.epochs + 4096
        peak += 2 * WEIGHTS_BYTES * params
        peak += WEIGHTS_BYTES * _memory(run)
    return left, peak


def estimate(
    packs: Sequence[Sequence[Run]], device: str, keep: str = "all", macs_per_second: float | None = None
) -> Estimate:
    """The cost of packs that are trained one after another on one device."""
    seconds = sum(pack_seconds(p, device, macs_per_second) for p in packs)
    macs = sum(sum(map(student_macs, p)) + teacher_macs(p) for p in packs)
    sizes = [disk(p, keep) for p in packs]
    return Estimate(seconds / 3600, macs, sum(s[0] for s in sizes), max((s[1] for s in sizes), default=0))


def assumptions(device: str, macs_per_second: float | None) -> str:
    """One line that says what an estimate rests on."""
    if macs_per_second:
        return f"speed measured by earlier records on this kind of device: {macs_per_second / 1e12:.3g} T multiply-accumulates/s"
    kind = "one H100/H200-class GPU" if device == "cuda" else "two CPU cores"
    return (
        f"assumed for {kind}, not measured: {ASSUMED[device] / 1e12:g} T multiply-accumulates/s and at least "
        f"{1000 * STEP_SECONDS[device]:g} ms a student's step"
    )
