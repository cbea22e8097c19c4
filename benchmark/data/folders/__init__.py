"""Folders of images as data sets: what the files are, an index of them, and their pixels."""

from benchmark.data.folders.registry import PREFIX, SOURCES, is_folder_name, use_folder

__all__ = ["PREFIX", "SOURCES", "is_folder_name", "use_folder"]
