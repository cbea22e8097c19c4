"""Other spellings of networks and methods: papers and users write `W40-2`, `ShuffleNetV1` or `vanilla`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NETWORKS = (
    (re.compile(r"^w(?:rn|ideresnet)?(\d\d)(\d)$"), r"wrn\1\2"),
    (re.compile(r"^shufflenet(?:v?(\d))?$"), lambda m: f"shufflev{m[1] or 1}"),
    (re.compile(r"^sv(\d)$"), r"shufflev\1"),
    (re.compile(r"^(?:mobilenet|mv2|mobilev2)$"), "mobilenetv2"),
    (re.compile(r"^r(?:es)?(\d+(?:x4)?)$"), r"resnet\1"),
    (re.compile(r"^v(\d+)$"), r"vgg\1"),
    (re.compile(r"^(?:na|no|-)?$"), "none"),
)
"""Patterns of short or long names, without case, - and _, and the names here in the same form."""

_PUBLISHED = {
    "resnet18_imagenet": "ResNet18",
    "resnet34_imagenet": "ResNet34",
    "resnet50_imagenet": "ResNet50",
    "resnet101_imagenet": "ResNet101",
    "mobilenetv1_imagenet": "MobileNetV1",
    "mobilenetv2_imagenet": "MobileNetV2",
    "shufflev2_imagenet": "ShuffleV2",
}
"""Networks for ImageNet, whose name in the papers is that of a network for CIFAR here."""

_METHODS = {
    **dict.fromkeys(("vanilla", "baseline", "scratch", "plain", "ce", "crossentropy", "students"), "student"),
    **dict.fromkeys(("teachers",), "teacher"),
    **dict.fromkeys(("hint", "hints", "fitnets"), "fitnet"),
    **dict.fromkeys(("hinton", "hintonkd", "vanillakd", "logits", "originalkd"), "kd"),
    **dict.fromkeys(("attention", "attentiontransfer", "atloss"), "at"),
    **dict.fromkeys(("similarity", "similaritypreserving"), "sp"),
    **dict.fromkeys(("correlation", "correlationcongruence"), "cc"),
    **dict.fromkeys(("mlkd",), "dlkd"),
    **dict.fromkeys(("review", "knowledgereview"), "reviewkd"),
}


def _folded(text: str) -> str:
    return re.sub(r"[-_ ]", "", text.lower())


def published_name(network: str) -> str:
    """Return the name that the registry has for a network of `models`."""
    return _PUBLISHED.get(network, network)


def network(text: str, known: Iterable[str]) -> str:
    """Return the known network that a name is another spelling of, "" if it is none or is known itself."""
    names = {_folded(name): name for name in known}
    if text in names.values():
        return ""
    folded = _folded(text)
    for pattern, form in _NETWORKS:
        if folded not in names:
            folded = pattern.sub(form, folded)
    return names.get(folded, "")


def method(text: str, known: Iterable[str]) -> str:
    """Return the known method that a name is another spelling of, "" if it is none or is known itself.

    The parts of a combination are looked at one by one.
    """
    names = {_folded(name): name for name in known}
    parts = [text] if text in names.values() else text.split("+")
    meant = [names.get(_folded(part)) or _METHODS.get(_folded(part), part) for part in parts]
    return "" if meant == parts or not set(meant) <= set(names.values()) else "+".join(meant)
