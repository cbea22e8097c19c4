"""The networks of the distillation benchmark.

net = models.build("wrn_40_2", num_classes=100)   a network with fresh weights
net(images)                                       logits
net.features(images)                              stem, stages, pre-activations, embedding and logits
models.info("wrn_40_2")                           sizes and shapes, without building it
models.load_weights(net, path)                    load a checkpoint as the papers' authors published it
"""

from models._torchvision import import_torchvision
from models.features import PARTS, Features, MissingPart
from models.hooked import NetworkByHooks, NetworkError
from models.layers import batch_statistics, freeze
from models.netinfo import NetInfo, info
from models.network import Network
from models.projector import mlp, state_of_projector
from models.registry import UnknownNetwork, UserNetwork, build, names, provide_user_networks, user_networks
from models.weight_files import WeightFile, WeightsError
from models.weights import fitting, lacks_classifier, load_weights, read_weights, save_weights, weights_hash

__all__ = [
    "PARTS",
    "Features",
    "MissingPart",
    "NetInfo",
    "Network",
    "NetworkByHooks",
    "NetworkError",
    "UnknownNetwork",
    "UserNetwork",
    "WeightFile",
    "WeightsError",
    "batch_statistics",
    "build",
    "fitting",
    "freeze",
    "import_torchvision",
    "info",
    "lacks_classifier",
    "load_weights",
    "mlp",
    "names",
    "provide_user_networks",
    "read_weights",
    "save_weights",
    "state_of_projector",
    "user_networks",
    "weights_hash",
]

# Belongs to kd-tables (benchmark/package_names.py looks for this line)
