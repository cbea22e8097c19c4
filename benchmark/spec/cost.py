"""The cost model: what a plan will take, in GPU-hours (or hours of this machine), and on the disk.

It counts passes of batches through networks: an evaluation is 1, a training step 3 (forward, gradients of inputs, gradients of weights); a
pack runs its teacher once for each view that some run of it needs. A pass costs so much for each convolution that is called, for each number
that a convolution makes (batch norm, ReLU and sums read and write it again) and for each multiply-accumulate: `RATES`. No pack is quicker than
its longest student alone, whose kernels wait for each other. Where earlier records of the same kind of device say how far the model is from
what was measured (`measured_factor`), the estimate is multiplied by that; whether it was is stated with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark import data
from benchmark.errors import InputError
from benchmark.spec.runs import NONE, Run, network_info


@dataclass(frozen=True)
class Rates:
    """Seconds: of a call of a convolution with what follows it, of a number that it makes, of a multiply-accumulate; chain: of such a call
    in a student that has the device to itself. on: where from."""

    call: float
    number: float
    mac: float
    chain: float
    on: str


RATES = {
    "cuda": Rates(
        2.3e-6,
        1.29e-11,
        0.0,
        3.0e-5,
        "one H100 in bf16: full packs of five pairs, within 12%; four students alone, within 33%",
    ),
    "cpu": Rates(
        0.0,
        1.71e-9,
        1 / 177e9,
        0.0,
        "full packs of 13 pairs on two cores with AVX-512 in fp32, within 25% but for vgg8 and ResNet50",
    ),
}
"""Fitted to `bench` (docs/speed.md). On the GPU the arithmetic is no part of it: what these networks wait for there are small kernels and memory."""

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


Passes = tuple[str, int, float]
"""Network, passes that an image counts for (1 or 3), images."""


def student_passes(run: Run) -> Iterator[Passes]:
    """Of one run without its teacher's."""
    if run.student == NONE:
        return
    images = run.recipe.train_images
    copies = sum(v.copies for v in run.spec.needs().views) * run.spec.sampler.rows
    yield run.student, 3, images * copies * run.recipe.epochs
    for component, (_, epochs) in zip(run.spec.init_stages, run.init_epochs, strict=True):
        if component.method.init_needs(component.config).student:
            yield run.student, 3, images * epochs
    yield run.student, 1, run.recipe.test_images * run.recipe.epochs


def teacher_passes(runs: Sequence[Run]) -> Iterator[Passes]:
    """Of a pack's teacher: each view once an epoch, however many students read it."""
    first = runs[0]
    if first.teacher_ref is None:
        return
    main: dict[tuple[str, int], int] = {}
    for run in runs:
        for view in run.spec.needs().passes:
            slot = (view.name, view.copies)
            main[slot] = max(main.get(slot, 0), run.recipe.epochs)
    init = 0
    for run in runs:
        stages = zip(run.spec.init_stages, run.init_epochs, strict=True)
        init = max(init, sum(e for c, (_, e) in stages if c.method.init_needs(c.config).teacher))
    epochs = init + sum(copies * epochs for (_, copies), epochs in main.items())
    yield first.teacher_ref.network, 1, first.recipe.train_images * first.spec.sampler.rows * epochs


def pack_passes(runs: Sequence[Run]) -> list[Passes]:
    return [*teacher_passes(runs), *(p for run in runs for p in student_passes(run))]


def macs(passes: Sequence[Passes], dataset: str) -> float:
    """Multiply-accumulates."""
    classes = data.info(dataset).num_classes
    return sum(times * images * network_info(net, classes).macs for net, times, images in passes)


def pack_seconds(runs: Sequence[Run], device: str, factor: float | None = None) -> float:
    """Seconds of one pack on one device of that kind (`cuda` or `cpu`); factor: by which records were off (`measured_factor`)."""
    rates, dataset, batch = RATES[device], runs[0].dataset, runs[0].recipe.batch_size
    busy = sum(_seconds(p, rates, dataset, batch) for p in pack_passes(runs))
    waits = max(_chain(list(student_passes(r)), rates, dataset, batch) for r in runs)
    return (factor or 1.0) * max(busy, waits)


def _seconds(passes: Passes, rates: Rates, dataset: str, batch: int) -> float:
    """Of passes with other work beside them."""
    network, times, images = passes
    net = network_info(network, data.info(dataset).num_classes)
    return (
        times
        * images
        * (rates.call * net.convolutions / batch + rates.number * net.map_elements + rates.mac * net.macs)
    )


def _chain(passes: Sequence[Passes], rates: Rates, dataset: str, batch: int) -> float:
    """Of a student's steps with the device to itself (evaluations go in large batches, and hardly count)."""
    classes = data.info(dataset).num_classes
    return sum(
        rates.chain * network_info(n, classes).convolutions * times * images / batch
        for n, times, images in passes
        if times > 1
    )


LONG_SECONDS = 60
"""Records of less than that say more of the start than of the speed."""


def measured_factor(records: Iterable[Mapping[str, Any]], device: str) -> float | None:
    """What the records' runs took on that kind of device over what the model says of them; None without a record of `LONG_SECONDS`.

    Of a run its own steps and evaluations count, and the part of one teacher's pass that was its; initialisation stages and further views do not.
    """
    took = model = 0.0
    for r in records:
        if (
            r.get("device") != device
            or (r.get("seconds") or 0) < LONG_SECONDS
            or not r.get("epochs")
            or r.get("student") == NONE
        ):
            continue
        recipe, rates, dataset = r["settings"]["recipe"], RATES[device], r["dataset"]
        images, batch = recipe["train_images"] * r["epochs"], recipe["batch_size"]
        own = [(r["student"], 3, images), (r["student"], 1, r["test_images"] * r["epochs"])]
        teacher = [] if r["teacher"] == NONE else [(r["teacher"], 1, images)]
        try:
            busy = sum(_seconds(p, rates, dataset, batch) for p in own)
            busy += sum(_seconds(p, rates, dataset, batch) for p in teacher) / (r.get("pack") or 1)
            waits = _chain(own, rates, dataset, batch) / (r.get("pack") or 1)
        except InputError:  # a network or a dataset that is no longer known
            continue
        took += r["share_seconds"]
        model += max(busy, waits)
    return took / model if model and math.isfinite(took) else None


def _memory(run: Run) -> int:
    """Numbers that the buffers of a run's methods hold, beside its weights."""
    classes = data.info(run.dataset).num_classes
    teacher = None if run.teacher_ref is None else network_info(run.teacher_ref.network, classes)
    return sum(c.buffer_elements(run.recipe.train_images, classes, teacher) for c in run.spec.components)


def disk(runs: Sequence[Run], keep: str) -> tuple[int, int]:
    """Bytes that finished runs leave, and bytes of one checkpoint of each while they train."""
    left = peak = 0
    for run in runs:
        params = (
            0 if run.student == NONE else network_info(run.student, data.info(run.dataset).num_classes).params
        )
        if keep == "all" or not run.spec.components:
            left += 2 * WEIGHTS_BYTES * params
        left += 200 * run.recipe.epochs + 4096
        peak += 2 * WEIGHTS_BYTES * params
        peak += WEIGHTS_BYTES * _memory(run)
    return left, peak


def estimate(
    packs: Sequence[Sequence[Run]], device: str, keep: str = "all", factor: float | None = None
) -> Estimate:
    """The cost of packs that are trained one after another on one device."""
    seconds = sum(pack_seconds(p, device, factor) for p in packs)
    work = sum(macs(pack_passes(p), p[0].dataset) for p in packs)
    sizes = [disk(p, keep) for p in packs]
    return Estimate(seconds / 3600, work, sum(s[0] for s in sizes), max((s[1] for s in sizes), default=0))


def assumptions(device: str, factor: float | None) -> str:
    """One line that says what an estimate rests on."""
    text = f"by rates fitted to {RATES[device].on}"
    return f"{text}; times {factor:.2f}, by the records here" if factor else text
