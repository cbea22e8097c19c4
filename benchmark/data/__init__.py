"""Data sets, samplers (batches) and views (augmentation), all driven by a run's seed."""

from benchmark.data.clips import register_clips
from benchmark.data.datasets import DATASETS, Channels, Dataset, DatasetInfo, Split, info, load
from benchmark.data.randaugment import STRONG
from benchmark.data.samplers import FOURS, GROUPS, HALVES, PAIRS, SHUFFLE, Sampler, cut_batches
from benchmark.data.selection import NOISES, SUBSETS, Selection
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
    mixing_shares,
    normalise,
    view_for,
)

__all__ = [
    "AUGMENTS",
    "DATASETS",
    "FOURS",
    "GROUPS",
    "HALVES",
    "MIXED",
    "NOISES",
    "NORMAL",
    "PAD",
    "PAIRS",
    "ROTATED",
    "SECOND",
    "SHUFFLE",
    "STRONG",
    "SUBSETS",
    "Channels",
    "Dataset",
    "DatasetInfo",
    "RawBatch",
    "Sampler",
    "Selection",
    "Split",
    "View",
    "batch_crop",
    "batch_flip",
    "batch_resized_crop",
    "cut_batches",
    "info",
    "load",
    "mixing_shares",
    "normalise",
    "register_clips",
    "view_for",
]
