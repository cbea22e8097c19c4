"""The cost model: how long a plan takes, in hours of one device, and how much disk space it needs.

The model counts passes of images through networks. An evaluation is 1 pass, a training step 3 (forward,
gradients of inputs, gradients of weights). A pack runs its teacher once for each view that any of its runs
needs. Passes are those of the data set's images: at 224 pixels a network costs 49 times what it does at 32.

The time of a pass has four parts (`RATES`): one for each call of a convolution, one for each element of a
convolution's output (batch norm, ReLU and sums read and write it again), one for each multiply-accumulate,
and one for each parameter, which counts in small batches. A pack takes at least as long as its longest
student alone, because a student's kernels run one after another, and at least as long as its images take to
be decoded (benchmark/spec/decoding.py).

If there are earlier records from the same kind of device, the estimate is multiplied by the ratio of their
measured to their modelled time (benchmark/spec/measured_speed.py). `assumptions` tells whether it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmark import data
from benchmark.methods import IN_TRAIN, Component, MethodSpec
from benchmark.spec import decoding
from benchmark.spec.runs import NONE, Run, network_info, network_on


@dataclass(frozen=True)
class Rates:
    """What a pass costs on a kind of device, in seconds."""

    call: float
    """A call of a convolution, with the operators that follow it."""

    element: float
    """An element of a convolution's output."""

    mac: float
    """A multiply-accumulate."""

    param: float
    """A parameter, once for each pass of a batch, however many images the batch has: its weight is read and
    cast, and in a training step its gradient and its momentum are written."""

    chain: float
    """A call of a convolution in a student that has the device to itself."""

    fitted_to: str
    """What the rates were fitted to, and how well they fit."""


RATES = {
    "cuda": Rates(
        call=2.3e-6,
        element=1.29e-11,
        mac=0.0,
        param=0.0,
        chain=3.0e-5,
        fitted_to="one H100 in bf16: full packs of five pairs, within 12%; four students alone, within 33%",
    ),
    "cpu": Rates(
        call=0.0,
        element=1.71e-9,
        mac=1 / 177e9,
        param=1.0e-9,
        chain=0.0,
        fitted_to="full packs of 13 pairs on two cores with AVX-512 in fp32, "
        "within 25% except for vgg8 and ResNet50",
    ),
}
"""Fitted to `bench` (docs/speed.md).

On the GPU arithmetic costs nothing: small kernels and memory limit these networks. The CPU's rate of a
parameter is from steps of ResNet18 and ResNet50 with 16 and 48 images; on the GPU it would be 1% of a step.
"""

START_SECONDS = 10.0
"""From the command to the first step: imports, and the trials of kernels and precision."""

WEIGHTS_BYTES = 4
"""Bytes of a stored float32 element."""

LARGE_BATCH = 100
"""Images of a pass that trains nothing."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a plan."""

    hours: float
    """Hours of one device that trains the packs one after another."""

    macs: float
    """Multiply-accumulates."""

    disk_bytes: int
    """Size of the files of finished runs: weights and records."""

    peak_bytes: int
    """Size of the checkpoints of runs in training, which are removed when the runs are done."""

    decode_hours: float = 0.0
    """The part of `hours` in packs that take as long as their images take to be decoded."""


@dataclass(frozen=True)
class Passes:
    """Passes of images through a network."""

    network: str

    per_image: int
    """1 for an evaluation, 3 for a training step."""

    images: float


def steps(run: Run) -> int:
    """Return the number of optimisation steps of a run, initialisation stages included."""
    per_epoch = -(-run.recipe.train_images // run.recipe.batch_size)
    return per_epoch * decoding.sum_of_epochs(run)


@dataclass(frozen=True)
class Training:
    """What the passes of a training depend on, of a run to come or of one that has a record."""

    student: str
    """`NONE` if the run trains no student."""

    teacher: str
    """`NONE` if the run has no teacher."""

    spec: MethodSpec
    train_images: int
    tested_images: int
    """Images of an evaluation, with those that are held out."""

    epochs: int
    init_epochs: tuple[tuple[Component, int], ...]
    """The epochs of each initialisation stage."""

    def student_passes(self) -> Iterator[Passes]:
        """Yield the passes of the student."""
        if self.student == NONE:
            return
        needs, images = self.spec.needs(), self.train_images * self.epochs
        copies = sum(v.copies for v in needs.views) * self.spec.sampler.rows_per_image
        yield Passes(self.student, 3, images * copies)
        # a method reads further images for a network of its own, such as MoCo's momentum encoder
        if further := sum(v.copies for v in needs.images):
            yield Passes(self.student, 1, images * further)
        for component, epochs in self.init_epochs:
            if component.method.init_needs(component.config).student:
                yield Passes(self.student, 3, self.train_images * epochs)
        yield Passes(self.student, 1, self.tested_images * self.epochs)


def training_of(run: Run) -> Training:
    """Return what the passes of a run depend on that trains something."""
    stages = zip(run.spec.init_stages, run.init_epochs, strict=True)
    return Training(
        student=run.student,
        teacher=NONE if run.teacher_ref is None else run.teacher_ref.network,
        spec=run.spec,
        train_images=run.recipe.train_images,
        tested_images=run.recipe.test_images + run.recipe.held_out,
        epochs=run.recipe.epochs,
        init_epochs=tuple((component, epochs) for component, (_, epochs) in stages),
    )


def student_passes(run: Run) -> Iterator[Passes]:
    """Yield the passes of a run, without those of its teacher."""
    if run.evaluates is not None:
        yield measured_passes(run)
    else:
        yield from training_of(run).student_passes()


def measured_passes(run: Run) -> Passes:
    """Return the passes of a run that only measures a network."""
    assert run.evaluates is not None
    images = float(run.recipe.test_images)
    if run.measure is not None:
        target = data.info(run.measured_on)
        images = run.measure.measure.passes(run.measure.config, target.train_images, target.test_images)
    return Passes(run.evaluates.network, 1, images)


def teacher_passes(trainings: Sequence[Training]) -> Iterator[Passes]:
    """Yield the passes of a pack's teacher: one for each view and epoch, shared by all students."""
    first = trainings[0]
    if first.teacher == NONE:
        return
    epochs_by_view: dict[tuple[str, int], int] = {}
    init_epochs = 0
    for training in trainings:
        needs = training.spec.needs()
        views = [(view.name, view.copies) for view in needs.passes]
        for view in [*views, *([(IN_TRAIN, 1)] if needs.teacher_in_train else [])]:
            epochs_by_view[view] = max(epochs_by_view.get(view, 0), training.epochs)
        stages = training.init_epochs
        with_teacher = sum(e for c, e in stages if c.method.init_needs(c.config).reads_teacher)
        init_epochs = max(init_epochs, with_teacher)
    epochs = init_epochs + sum(copies * e for (_, copies), e in epochs_by_view.items())
    yield Passes(first.teacher, 1, first.train_images * first.spec.sampler.rows_per_image * epochs)


def pack_passes(runs: Sequence[Run]) -> list[Passes]:
    """Return all passes of a pack."""
    taught = runs[0].teacher_ref is not None
    of_teacher = teacher_passes([training_of(run) for run in runs]) if taught else ()
    return [*of_teacher, *(p for run in runs for p in student_passes(run))]


def macs(passes: Iterable[Passes], dataset: str) -> float:
    """Return the multiply-accumulates of passes."""
    return sum(p.per_image * p.images * network_on(p.network, dataset).macs for p in passes)


def pack_seconds(runs: Sequence[Run], device: str, factor: float | None = None) -> float:
    """Return the seconds that a pack takes.

    device: `cuda` or `cpu`.
    factor: measured time over modelled time on this kind of device (`measured_speed.factor_of`).
    """
    timing = Timing(device, runs[0].dataset, runs[0].recipe.batch_size)
    busy = timing.shared(pack_passes(runs))
    waiting = max(timing.alone(student_passes(run)) for run in runs)
    return (factor or 1.0) * max(busy, waiting, decoding.decode_seconds(runs, device))


def teacher_seconds(
    network: str, dataset: str, images: float, device: str, factor: float | None = None
) -> float:
    """Return the seconds that passes of this many images through a teacher take, in batches as for tests.

    device, factor: see `pack_seconds`.
    """
    timing = Timing(device, dataset, batch_size=LARGE_BATCH)
    return (factor or 1.0) * timing.shared([Passes(network, 1, images)])


@dataclass(frozen=True)
class Timing:
    """Seconds of passes on a kind of device, in batches of one size."""

    device: str
    dataset: str
    batch_size: int

    def shared(self, passes: Iterable[Passes]) -> float:
        """Return the seconds of passes beside other work that fills the gaps between their kernels."""
        rates, seconds = RATES[self.device], 0.0
        for p in passes:
            net = network_on(p.network, self.dataset)
            per_pass = (
                rates.call * net.convolutions / self.batch_size
                + rates.element * net.map_elements
                + rates.mac * net.macs
                + rates.param * net.params / self.batch_size
            )
            if self.device == "cuda" and net.size > decoding.LARGE:
                per_pass = max(per_pass, decoding.LARGE_MAC * net.macs)
            seconds += p.per_image * p.images * per_pass
        return seconds

    def alone(self, passes: Iterable[Passes]) -> float:
        """Return the seconds of a student's training steps with the device to itself.

        Evaluations are left out: their batches are large, so they hardly count.
        """
        rates = RATES[self.device]
        return sum(
            rates.chain
            * network_on(p.network, self.dataset).convolutions
            * p.per_image
            * p.images
            / self.batch_size
            for p in passes
            if p.per_image > 1
        )


def _buffer_elements(run: Run) -> int:
    """Return the size of the large buffers of a run's methods, in elements."""
    classes = data.info(run.dataset).num_classes
    teacher = None if run.teacher_ref is None else network_info(run.teacher_ref.network, classes)
    return sum(c.buffer_elements(run.recipe.train_images, classes, teacher) for c in run.spec.components)


def disk(runs: Sequence[Run], keep: str) -> tuple[int, int]:
    """Return the bytes of the runs' files when they are done, and of their checkpoints in training."""
    finished = checkpoints = 0
    for run in runs:
        params = 0
        if run.evaluates is not None:
            finished += 4096
            continue
        if run.student != NONE:
            params = network_info(run.student, data.info(run.dataset).num_classes).params
        if keep == "all" or run.spec.pretrains:
            finished += 2 * WEIGHTS_BYTES * params
        finished += 200 * run.recipe.epochs + 4096
        checkpoints += 2 * WEIGHTS_BYTES * params
        checkpoints += WEIGHTS_BYTES * _buffer_elements(run)
    return finished, checkpoints


def estimate(
    packs: Sequence[Sequence[Run]], device: str, *, keep: str = "all", factor: float | None = None
) -> Estimate:
    """Return the cost of packs that one process trains one after another on one device."""
    sizes = [disk(runs, keep) for runs in packs]
    seconds = [pack_seconds(runs, device, factor) for runs in packs]
    decode = [(factor or 1.0) * decoding.decode_seconds(runs, device) for runs in packs]
    return Estimate(
        hours=(sum(seconds) + START_SECONDS * bool(packs)) / 3600,
        decode_hours=sum(d for d, s in zip(decode, seconds, strict=True) if d and d >= s) / 3600,
        macs=sum(macs(pack_passes(runs), runs[0].dataset) for runs in packs),
        disk_bytes=sum(finished for finished, _ in sizes),
        peak_bytes=max((checkpoints for _, checkpoints in sizes), default=0),
    )


def assumptions(device: str, factor: float | None) -> str:
    """Return one line that says what an estimate is based on."""
    text = f"by rates fitted to {RATES[device].fitted_to}"
    if not factor:
        return text
    return f"{text}; multiplied by {factor:.2f}, as measured by the records here (median of their packs)"
