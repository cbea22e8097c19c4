"""Data sets, samplers, and views (batched augmentation), all driven by a run's seed."""

from benchmark.data.datasets import DATASETS, Dataset, DatasetInfo, Split, info, load
from benchmark.data.samplers import SHUFFLE, Sampler, cut
from benchmark.data.views import NORMAL, PAD, ROTATED, SECOND, RawBatch, View, batch_crop, batch_flip, clean

__all__ = [
    "DATASETS",
    "NORMAL",
    "PAD",
    "ROTATED",
    "SECOND",
    "SHUFFLE",
    "Dataset",
    "DatasetInfo",
    "RawBatch",
    "Sampler",
    "Split",
    "View",
    "batch_crop",
    "batch_flip",
    "clean",
    "cut",
    "info",
    "load",
]
