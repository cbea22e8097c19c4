"""Folders of images as data sets: what the files are, an index of them, and their pixels."""

from benchmark.data.folders.registry import use_folder
from benchmark.data.folders.streamed import open_stream

__all__ = ["open_stream", "use_folder"]
