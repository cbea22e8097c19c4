"""The networks of the distillation benchmark.

`build("wrn_40_2", num_classes=100)(images)` gives logits, `.features(images)` every map on the way; `info` the sizes of a
network, `load_weights` reads the checkpoints that the papers' authors published.
"""

from models._torchvision import import_torchvision
from models.layers import freeze
from models.netinfo import NetInfo, info
from models.network import Features, Network
from models.registry import UnknownNetwork, build, names
from models.weights import WeightsError, load_weights, save_weights, weights_hash

__all__ = [
    "Features",
    "NetInfo",
    "Network",
    "UnknownNetwork",
    "WeightsError",
    "build",
    "freeze",
    "import_torchvision",
    "info",
    "load_weights",
    "names",
    "save_weights",
    "weights_hash",
]

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
