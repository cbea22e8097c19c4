"""Data sets, samplers (batches) and views (augmentation), all driven by a run's seed."""

from pathlib import Path

from benchmark.data import user_datasets
from benchmark.data.clips import register_clips
from benchmark.data.datasets import (
    DATASETS,
    Channels,
    Dataset,
    DatasetInfo,
    MissingData,
    Split,
    check_name,
    has_user_files,
    info,
    is_name,
    load,
    names,
)
from benchmark.data.folders import open_stream
from benchmark.data.folders import use_folder as _use_folder
from benchmark.data.pictures import NAME as PICTURES
from benchmark.data.randaugment import STRONG
from benchmark.data.samplers import FOURS, GROUPS, HALVES, PAIRS, SHUFFLE, Sampler, cut_batches
from benchmark.data.selection import NOISES, SUBSETS, Selection
from benchmark.data.stl10 import NAME as STL10
from benchmark.data.user_datasets import UserDataset
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


def use_folder(folder: Path | str) -> None:
    """Name the folder of data sets (DATA=) from which `info` reads what it has to know.

    Clips are listed now (`register_clips`). Of other data sets nothing is read before they are asked for.
    """
    register_clips(folder)
    _use_folder(folder)
    user_datasets.use_folder(Path(folder))


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
    "PICTURES",
    "ROTATED",
    "SECOND",
    "SHUFFLE",
    "STL10",
    "STRONG",
    "SUBSETS",
    "UserDataset",
    "Channels",
    "Dataset",
    "DatasetInfo",
    "MissingData",
    "RawBatch",
    "Sampler",
    "Selection",
    "Split",
    "View",
    "batch_crop",
    "batch_flip",
    "batch_resized_crop",
    "check_name",
    "cut_batches",
    "has_user_files",
    "info",
    "is_name",
    "load",
    "names",
    "mixing_shares",
    "normalise",
    "open_stream",
    "register_clips",
    "use_folder",
    "view_for",
]
