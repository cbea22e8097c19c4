"""Folders of images as data sets: what the files are, an index of them, and their pixels."""

from benchmark.data.folders.registry import PREFIX, SOURCES, is_folder_name, use_folder
from benchmark.data.folders.streamed import open_stream

__all__ = ["PREFIX", "SOURCES", "is_folder_name", "open_stream", "use_folder"]
