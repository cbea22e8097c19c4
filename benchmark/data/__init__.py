"""Data sets, samplers, and views (batched augmentation), all driven by a run's seed."""

from benchmark.data.clips import look_in
from benchmark.data.datasets import DATASETS, Channels, Dataset, DatasetInfo, Split, info, load
from benchmark.data.samplers import GROUPS, HALVES, PAIRS, SHUFFLE, Sampler, cut
from benchmark.data.views import (
    AUGMENTS,
    MIXED,
    NORMAL,
    PAD,
    ROTATED,
    SECOND,
    RawBatch,
    View,
    batch_crop,
    batch_flip,
    batch_resized_crop,
    clean,
    mixing,
    under,
)

__all__ = [
    "AUGMENTS",
    "DATASETS",
    "Channels",
    "GROUPS",
    "HALVES",
    "MIXED",
    "NORMAL",
    "PAD",
    "PAIRS",
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
    "batch_resized_crop",
    "clean",
    "cut",
    "info",
    "load",
    "look_in",
    "mixing",
    "under",
]
