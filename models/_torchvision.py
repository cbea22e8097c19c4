"""Makes `import torchvision` possible beside a CPU-only torch."""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a declared schema lives as long as its library object


def import_torchvision() -> None:
    """Imports torchvision, after declaring the operators that it expects to find when its own library cannot be loaded.

    torchvision's wheel may be linked to CUDA; beside a CPU-only torch its operators are then missing and its import fails.
    With two schemas declared the pure Python parts (datasets, transforms, models) work. Where the plain import works nothing
    is declared. Raises `ImportError` where torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    # The failed import leaves half-made modules behind.
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    _libraries.append(library)
    importlib.import_module("torchvision")
