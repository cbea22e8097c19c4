"""What a plan says about images of ImageNet's size: arithmetic, decoding, and several GPUs.

Nothing here is fitted to a GPU. The numbers are assumptions, and a plan says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark import data
from benchmark.spec.runs import Run

LARGE = 64
"""From this side on, in pixels, arithmetic limits a network on a GPU, and no longer memory and launches."""

LARGE_MAC = 1 / 27.5e12
"""Seconds for a multiply-accumulate on large images: 55 TFLOP/s, which such networks are assumed to sustain
on one H100 in bf16."""

IMAGES_PER_CORE = 300
"""Images of ImageNet that a core reads, decodes and crops in a second. Measured: 480 for a JPEG of 500x375
and 110 kB by Pillow on one core of an EPYC; lower here, because many images are larger."""

CORES = {"cuda": 16, "cpu": 2}
"""Cores that decode, for each device."""

GPUS = 8
EFFICIENCY = 0.9
"""The share of their time that 8 GPUs of one machine compute when they split a batch (assumed)."""


def decode_seconds(runs: Sequence[Run], device: str) -> float:
    """Return how long it takes to decode the images of a pack; 0 for images that are held in memory.

    An image is decoded once in an epoch, for all runs of the pack and all their views. Runs that measure read
    their images one after another.
    """
    images = sum(map(measured_images, runs))
    if data.info(runs[0].dataset).streamed:
        images += max(run.recipe.train_images * sum_of_epochs(run) for run in runs)
    return images / (IMAGES_PER_CORE * CORES[device])


def measured_images(run: Run) -> float:
    """Return how many images a run that measures reads from their files; 0 for a training."""
    if run.measure is None:
        return 0.0
    target = data.info(run.measured_on)
    if not target.streamed:
        return 0.0
    return run.measure.measure.passes(run.measure.config, target.train_images, 0)


def sum_of_epochs(run: Run) -> int:
    """Return the epochs of a run, with those of its initialisation stages; 0 if it only measures."""
    if run.evaluates is not None:
        return 0
    return run.recipe.epochs + sum(epochs for _, epochs in run.init_epochs)


def assumptions(dataset: str, hours: float, decode_hours: float) -> list[str]:
    """Return lines on an estimate for one GPU, none for small images in memory.

    hours: the estimate.
    decode_hours: the part of it in which decoding limits the packs.
    """
    info = data.info(dataset)
    if info.size <= LARGE and not info.streamed:
        return []
    lines = [f"images of {info.size} pixels: not measured, {2e-12 / LARGE_MAC:.0f} TFLOP/s assumed"]
    if info.streamed:
        limits = f"decoding limits {decode_hours:.1f} of the hours"
        bound = limits if decode_hours else "no pack is bound by decoding"
        lines.append(
            f"read from files ({info.disk_bytes / 1e9:.0f} GB): {IMAGES_PER_CORE} images/s a core and "
            f"{CORES['cuda']} cores a GPU assumed, and {bound}"
        )
    wall = hours / (GPUS * EFFICIENCY)
    lines.append(
        f"on {GPUS} GPUs with {GPUS * CORES['cuda']} cores that split each batch: about {wall:.1f} hours, "
        f"{GPUS * wall:.1f} GPU-hours ({EFFICIENCY:.0%} of their time in use, assumed)"
    )
    return lines
