"""Import torchvision, also with a CPU-only build of torch."""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a schema exists as long as the library object that declared it


def import_torchvision() -> None:
    """Import torchvision, even if its binary library cannot be loaded.

    torchvision's wheel may be linked to CUDA. With a CPU-only torch its operators are then missing, and its
    import fails. This function then declares the schemas of two operators, after which its Python parts
    (datasets, transforms, models) work. If a plain import works, nothing is declared. Raises `ImportError`
    if torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    # The failed import leaves incomplete modules behind.
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    _libraries.append(library)
    importlib.import_module("torchvision")
