"""Check a network of the user's by one pass, before anything is trained with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.hooked import HookedNetwork, NetworkError
from models.network import Network
from models.registry import build, user_networks

IMAGES = 2
"""Number of images of the pass; one image could hide a wrong order of dimensions."""


def checked(name: str, num_classes: int, size: int = 32) -> Network:
    """Return the user's network in eval mode, built and checked on the CPU.

    size: rows and columns of an image.

    Raises `NetworkError`, which names the file. Draws nothing from the caller's generators.
    """
    file = user_networks()[name].file
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            net = build(name, num_classes)
            if not isinstance(net, Network):
                raise NetworkError(f"it is a {type(net).__name__}; it must be a Network or a NetworkByHooks")
            net.eval()
            images = torch.randn(IMAGES, 3, size, size)
        with torch.no_grad():
            _check(net, images, num_classes)
    except NetworkError as error:
        raise NetworkError(f"{file}: network {name}: {error}") from error
    except Exception as error:
        text = next(iter(str(error).splitlines()), "")
        raise NetworkError(f"{file}: network {name} fails: {type(error).__name__}: {text}") from error
    return net


def _check(net: Network, images: Tensor, num_classes: int) -> None:
    """Raise `NetworkError` unless the features of the images have the form that methods rely on."""
    features = net.features(images)
    n = len(images)
    maps = {"stem": [features.stem], "stages": features.stages}
    if features.has("preacts"):
        maps["preacts"] = features.preacts
        for stage, preact in zip(features.stages, features.preacts, strict=True):
            if stage.shape != preact.shape:
                raise NetworkError(
                    f"a pre-activation is {tuple(preact.shape)} and its stage {tuple(stage.shape)}; "
                    "name the map of the same stage before its last ReLU"
                )
    for part, tensors in maps.items():
        for tensor in tensors:
            if tensor.dim() != 4 or len(tensor) != n:
                raise NetworkError(f"{part} has {tuple(tensor.shape)} for {n} images; maps are [B, C, H, W]")
    head = net.linear_head()
    if not isinstance(head, nn.Linear):
        raise NetworkError(f"linear_head() is a {type(head).__name__}; it must be an nn.Linear")
    for part, tensor, width in (
        ("logits", features.logits, num_classes),
        ("embedding", features.embedding, head.in_features),
    ):
        if tuple(tensor.shape) != (n, width):
            raise NetworkError(f"{part} is {tuple(tensor.shape)} for {n} images; it must be {(n, width)}")
    if not _close(features.logits, net(images)):
        raise NetworkError("its logits are not those of forward(); name the last layer in `logits`")
    if not _close(head(features.embedding), features.logits):
        raise NetworkError(
            "the classifier does not map the embedding to the logits; name what it reads in `embedding`"
        )
    _check_in_place(net, images)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def _check_in_place(net: Network, images: Tensor) -> None:
    """Raise `NetworkError` if what is taken from a pass is overwritten later in it."""
    if not isinstance(net, HookedNetwork):
        return
    for name, changed in net.overwritten(images).items():
        if changed:
            raise NetworkError(
                f"{name} is overwritten later in the pass, by an operator that works in place; name a "
                "sub-module after that operator"
            )
